"""Windows against an oracle that walks through the week minute by minute, and against typing mistakes."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedclient.scheduler.windows import DAY_MIN, DAYS, WEEK_MIN, is_open, opens_in_min, spans

hours = st.integers(0, DAY_MIN - 1)


@st.composite
def windows(draw: st.DrawFn) -> tuple[str, frozenset[int]]:
    """Draw a window and, worked out without the parser, the minutes in which it is open."""
    begin, end = draw(st.tuples(hours, st.integers(0, DAY_MIN)).filter(lambda one: one[0] != one[1]))
    parts = draw(st.lists(st.tuples(st.integers(0, 6), st.none() | st.integers(0, 6)), max_size=3))
    with_hours = draw(st.booleans()) or not parts
    days: set[int] = set()
    for first, last in parts:
        day = first
        days.add(day)
        while last is not None and day != last:
            day = (day + 1) % 7
            days.add(day)
    style = draw(st.sampled_from([str.lower, str.upper, str.title]))
    text = draw(st.sampled_from([",", ", "])).join(
        style(DAYS[first] + (f"-{DAYS[last]}" if last is not None else "")) for first, last in parts
    )
    if with_hours:
        clock = [f"{minute // 60:02}:{minute % 60:02}" for minute in (begin, end)]
        text = f"{text} {clock[0]}{draw(st.sampled_from(['-', ' - ']))}{clock[1]}"
    else:
        begin, end = 0, DAY_MIN
    found = set()
    for day in days or range(7):
        minute = begin
        while True:  # one minute after the other, over midnight where it must be
            found.add((day * DAY_MIN + minute) % WEEK_MIN)
            minute += 1
            if minute % DAY_MIN == end % DAY_MIN:
                break
    return text.strip(), frozenset(found)


@given(st.lists(windows(), min_size=1, max_size=3), st.integers(0, WEEK_MIN - 1))
def test_it_is_open_when_a_walk_through_the_week_says_so(
    wanted: list[tuple[str, frozenset[int]]], minute: int
) -> None:
    texts = tuple(text for text, _ in wanted)
    minutes = frozenset().union(*(found for _, found in wanted))
    edges = {
        edge % WEEK_MIN
        for text in texts
        for begin, length in spans(text)
        for edge in (begin - 1, begin, begin + length - 1, begin + length)
    }
    for one in {minute, *edges}:
        assert is_open(texts, one) == (one in minutes)
    wait = opens_in_min(texts, minute)
    assert (minute + wait) % WEEK_MIN in minutes
    assert not any((minute + step) % WEEK_MIN in minutes for step in range(wait))


def test_examples_of_the_documents() -> None:
    assert spans("22:00-06:00") == tuple((day * DAY_MIN + 22 * 60, 8 * 60) for day in range(7))
    assert spans("Sat,Sun") == ((5 * DAY_MIN, DAY_MIN), (6 * DAY_MIN, DAY_MIN))
    assert spans("Fri-Mon 00:00-24:00") == tuple((day * DAY_MIN, DAY_MIN) for day in (4, 5, 6, 0))
    assert is_open((), 0)
    assert opens_in_min((), 77) == 0


def test_a_night_of_sunday_reaches_into_monday() -> None:
    assert is_open(("Sun 22:00-06:00",), 5 * 60)
    assert not is_open(("Sun 22:00-06:00",), 6 * 60)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "nights",
        "Mon-Fry 22:00-06:00",
        "Monday",
        "22:00",
        "22-06",
        "22:00-06:00 Mon",
        "22:60-06:00",
        "25:00-06:00",
        "24:01-06:00",
        "06:00-06:00",
        "24:00-24:00",
        "24:00-00:00",
        "24:00-06:00",
        "Mon,,Tue",
        "Mon-",
        "-Mon",
        "Mon-Tue-Wed",
        ",",
        "-",
        ", 22:00-06:00",
        "Mon 22:00-06:00 extra",
        "22:00\u201306:00",
    ],
)
def test_a_mistake_is_refused_in_one_line_that_names_it(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(text))) as error:
        spans(text)
    assert "\n" not in str(error.value)


@given(st.text(max_size=30))
def test_any_other_text_is_refused_or_a_window(text: str) -> None:
    try:
        found = spans(text)
    except ValueError:
        return
    assert found
    assert all(0 <= begin < 8 * DAY_MIN and 0 < length <= DAY_MIN for begin, length in found)
