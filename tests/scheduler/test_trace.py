"""Traces: small, exact enough, and a bad line is one sentence with its number."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from math import isfinite
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedclient.errors import DataError
from fedclient.scheduler import trace
from fedclient.scheduler.check import Now
from fedclient.scheduler.gates import GATES
from fedclient.scheduler.history import DAY_S
from fedclient.scheduler.readings import SENSORS, Readings, SampleCounts
from fedclient.scheduler.trace import MAX_LINE_CHARS, NAMES, Point, begin, decode, encode, restate
from fedclient.scheduler.windows import WEEK_MIN
from fedclient.testing import week
from tests.scheduler.moments import GOOD, STRICT, ask, but, minutes, wild

STEPS = st.lists(st.tuples(st.floats(0, 5000), wild, minutes), min_size=1, max_size=6)
OF_TRAINER = ("cpu_percent", "free_memory_mib", "psi_cpu_percent")


def write(steps: list[tuple[float, Readings, int | None]], start_s: float = 100.0) -> list[str]:
    header, written = begin("raspberry-pi-5", start_s)
    lines, now_s = [header], start_s
    for pause_s, readings, minute in steps:
        now_s += pause_s
        line, written = encode(written, readings, Now(elapsed_s=now_s, minute_of_week=minute))
        lines.append(line)
    return lines


def read(lines: list[str]) -> list[Point]:
    return list(decode(lines).points)


def only(readings: Readings) -> Readings:
    """Write and read one moment."""
    return read(write([(0.0, readings, None)]))[0].readings


# --- there and back ----------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_what_is_read_is_what_was_written_rounded_and_without_the_trainer(
    steps: list[tuple[float, Readings, int | None]],
) -> None:
    points = read(write(steps))
    assert len(points) == len(steps)
    assert [point.begins for point in points] == [True] + [False] * (len(steps) - 1)
    passed_s = 0.0
    for point, (pause_s, readings, minute) in zip(points, steps, strict=True):
        passed_s += pause_s
        assert abs(point.at_s - passed_s) <= 1.0
        assert_same_minute(point.minute_of_week, minute)
        activity = readings.activity
        assert point.readings.activity.samples == activity.samples
        assert point.readings.activity.broker_is_local is activity.broker_is_local
        assert point.readings.activity.training is activity.training
        for name in set(SENSORS) - set(OF_TRAINER):
            was, found = getattr(readings, name).value, getattr(point.readings, name).value
            if isinstance(was, float):
                assert (found is None) == (not isfinite(was))
            else:
                assert found == was, name


def assert_same_minute(found: int | None, expected: int | None) -> None:
    if expected is None or found is None:
        assert found == expected
    else:
        assert min((found - expected) % WEEK_MIN, (expected - found) % WEEK_MIN) <= 1


@settings(max_examples=60, deadline=None)
@given(wild)
def test_rounding_closes_gates_and_opens_none(readings: Readings) -> None:
    alone = replace(readings, activity=replace(readings.activity, training=False, resuming=False))
    assert set(ask(alone).closed) <= set(ask(only(alone)).closed)


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("temp_c", 48.316, 48.5),
        ("temp_c", 75.01, 75.5),
        ("temp_c", -3.2, -3),
        ("trip_temp_c", 99.9, 99.5),
        ("battery_percent", 49.9, 49),
        ("cpu_percent", 50.01, 51),
        ("free_memory_mib", 127.9, 127),
        ("free_memory_mib", 3856.7, 3850),
        ("free_disk_mib", 27_345.0, 27_300),
        ("input_idle_s", 4567.0, 4500),
        ("input_idle_s", 299.9, 290),
        ("power_w", 3.01, 3.25),
        ("free_memory_mib", -5.0, 0),
    ],
)
def test_numbers_are_rounded_to_the_side_that_closes(name: str, value: float, found: float) -> None:
    assert getattr(only(but(**{name: value})), name).value == found


def test_every_number_has_a_rounding_and_every_reading_a_place() -> None:
    assert set(SENSORS) < set(NAMES)
    numbers = {name for name, kind in trace._KINDS.items() if kind == "float"}
    assert numbers == set(trace._ROUNDING)
    assert len(GATES) <= len(NAMES)


def test_the_trainer_s_own_load_is_taken_out() -> None:
    training = but(
        cpu_percent=96.0,
        free_memory_mib=500.0,
        psi_cpu_percent=80.0,
        activity={"training": True, "trainer_cpu_percent": 90.5, "trainer_memory_mib": 50.0},
    )
    before, during = (point.readings for point in read(write([(0, GOOD, None), (60, training, None)])))
    assert (during.cpu_percent.value, during.free_memory_mib.value) == (6, 550)
    assert during.psi_cpu_percent.value == before.psi_cpu_percent.value  # the trainer waits in it, too
    assert during.activity.trainer_cpu_percent == 0
    assert ask(but(during, activity={"training": False})).eligible


def test_only_what_changed_is_written() -> None:
    lines = write([(0, GOOD, 5), (60, GOOD, 6), (60, but(temp_c=46.0), 7), (61, but(temp_c=46.2), 8)])
    place = NAMES.index("temp_c")
    assert lines[2:] == ["[60]\n", f"[60,{place},46]\n", f"[61,{place},46.5]\n"]


def test_the_local_minute_is_written_where_it_jumps_only() -> None:
    minutes_ = (None, 10, 11, 12, 73, None)
    place = NAMES.index("minute_of_week")
    lines = write([(60, GOOD, minute) for minute in minutes_])
    said = [f",{place},10", "", "", f",{place},73", f",{place},null"]
    assert lines[2:] == [f"[60{one}]\n" for one in said]
    assert [point.minute_of_week for point in read(lines)] == list(minutes_)


def test_a_week_is_over_at_its_end() -> None:
    points = read(write([(0, GOOD, WEEK_MIN - 1), (60, GOOD, 0), (60, GOOD, 1)]))
    assert [point.minute_of_week for point in points] == [WEEK_MIN - 1, 0, 1]


@pytest.mark.parametrize(("kind", "most"), [("calm", 20), ("busy", 28), ("battery", 32)])
def test_a_week_is_small(kind: str, most: float) -> None:
    lines = list(week.lines(kind))
    size = sum(len(line) for line in lines)
    print(f"{kind}: {size / len(lines):.1f} bytes per line, {size / 7:.0f} a day")
    assert len(lines) == 7 * 24 * 60 + 1
    assert size / len(lines) <= most


def test_the_synthetic_week_is_the_same_for_the_same_seed() -> None:
    first, again, other = (list(week.lines("busy", seed, days=0.2)) for seed in (1, 1, 2))
    assert first == again != other


# --- two agents, two files -----------------------------------------------------------------------------


def test_a_second_header_is_an_agent_that_began_anew() -> None:
    lines = write([(0, GOOD, None), (60, GOOD, None)], 100.0) + write([(5, but(temp_c=50.0), None)], 1000.0)
    points = read(lines)
    assert [(point.at_s, point.begins) for point in points] == [(0, True), (60, False), (905, True)]
    assert points[2].readings.temp_c.value == 50


def test_device_time_that_begins_anew_does_not_go_back() -> None:
    lines = write([(0, GOOD, None), (60, GOOD, None)], 5000.0) + write([(0, GOOD, None)], 3.0)
    assert [point.at_s for point in read(lines)] == [0, 60, 60]


@settings(max_examples=20, deadline=None)
@given(STEPS, STEPS)
def test_another_file_goes_on_where_the_last_one_ended(
    first: list[tuple[float, Readings, int | None]], second: list[tuple[float, Readings, int | None]]
) -> None:
    header, written = begin("b", 10.0)
    whole, now_s, split = [header], 10.0, []
    for number, (pause_s, readings, minute) in enumerate([*first, *second]):
        if number == len(first):
            split = [*whole, *restate("b", written).splitlines(keepends=True)]
            known = len(whole)
        now_s += pause_s
        line, written = encode(written, readings, Now(elapsed_s=now_s, minute_of_week=minute))
        whole.append(line)
    both = read(split + whole[known:])
    assert not both[len(first)].begins  # the agent ran all the time
    del both[len(first)]  # what was said again
    assert both == read(whole)
    alone = read(split[known:] + whole[known:])[1:]  # the new file by itself
    assert [one.readings for one in alone] == [one.readings for one in read(whole)[len(first) :]]


def test_a_cut_last_line_is_left_out_wherever_it_was_cut() -> None:
    lines = write([(0, GOOD, 5), (60, but(temp_c=50.0), 6)])
    for cut in range(len(lines[-1]) - 1):
        points = read([*lines[:-1], lines[-1][:cut]] if cut else lines[:-1])
        assert len(points) == 1, cut
    assert len(read([*lines[:-1], lines[-1].rstrip("\n")])) == 2  # whole but for its end
    assert len(read([*lines[:-1], "\0" * 100])) == 1  # what some file systems leave


# --- bad files ------------------------------------------------------------------------------------------

HEADER = '{"fedclient-trace":1,"board":"b","start_s":0,"names":["power","temp_c","new_samples","training"]}\n'


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], "line 1: there is no header"),
        (["\n"], "line 1: this is not a line"),
        ([HEADER[:30]], "line 1: this is not a line"),
        (["[0]\n"], "line 1: this is no header"),
        (["{}\n"], "line 1: this is no header of a trace, version 1"),
        ([HEADER.replace(":1", ":2", 1)], "version 1"),
        ([HEADER.replace(":1", ":true", 1)], "version 1"),
        ([HEADER.replace('"b"', '"../b"')], "line 1: board"),
        ([HEADER.replace('"b"', "7")], "line 1: board"),
        ([HEADER.replace(":0", ":-1")], "line 1: start_s"),
        ([HEADER.replace(":0", ":1e99")], "line 1: start_s"),
        ([HEADER.replace(":0", ":NaN")], "line 1: this is not a line"),
        ([HEADER.replace("temp_c", "temp_f")], "line 1: 'temp_f' is no reading that is known here"),
        ([HEADER.replace("temp_c", "power")], "line 1: a name stands twice"),
        ([HEADER.replace('"temp_c"', "7")], "line 1: names"),
        ([HEADER, "[60]\n", "60\n"], "line 3: this is not seconds, then pairs"),
        ([HEADER, "[]\n"], "line 2: this is not seconds, then pairs"),
        ([HEADER, "[60,1]\n"], "line 2: this is not seconds, then pairs"),
        ([HEADER, "[-1]\n"], "line 2: the seconds"),
        ([HEADER, "[9999999]\n"], "line 2: the seconds"),
        ([HEADER, "[true]\n"], "line 2: the seconds"),
        ([HEADER, "[Infinity]\n"], "line 2: this is not a line"),
        ([HEADER, "[60,4,1]\n"], "line 2: the header has no name number 4"),
        ([HEADER, "[60,-1,1]\n"], "line 2: the header has no name number -1"),
        ([HEADER, "[60,1.0,1]\n"], "line 2: the header has no name number 1.0"),
        ([HEADER, "[60,true,1]\n"], "line 2: the header has no name number True"),
        ([HEADER, "[60,1,5,1,6]\n"], "line 2: temp_c stands twice"),
        ([HEADER, '[60,1,"hot"]\n'], "line 2: 'hot' is no value of temp_c"),
        ([HEADER, "[60,1,true]\n"], "line 2: 'True' is no value of temp_c"),
        ([HEADER, "[60,1,1e400]\n"], "line 2: 'inf' is no value of temp_c"),
        ([HEADER, f"[60,1,{10**400}]\n"], "line 2: '1000"),
        ([HEADER, '[60,0,"solar"]\n'], "line 2: 'solar' is no value of power"),
        ([HEADER, "[60,0,[]]\n"], "line 2: '[]' is no value of power"),
        ([HEADER, "[60,2,-1]\n"], "line 2: '-1' is no value of new_samples"),
        ([HEADER, "[60,2,1.5]\n"], "line 2: '1.5' is no value of new_samples"),
        ([HEADER, "[60,3,null]\n"], "line 2: 'None' is no value of training"),
        ([HEADER, "[60,3,1]\n"], "line 2: '1' is no value of training"),
        ([HEADER, "[60,1\n", "[60]\n"], "line 2: this is not a line"),  # only the last one may be cut
        ([HEADER, "\n", "[60]\n"], "line 2: this is not a line"),
        ([HEADER, "[" * 2000 + "\n"], "line 2: this is not a line"),
        ([HEADER, "[60" + " " * MAX_LINE_CHARS + "]"], "line 2: this is not a line"),
        ([HEADER, "[60]\n", HEADER.replace('"b"', '"c"')], "line 3: another board"),
        ([HEADER, "[60]\n", HEADER.replace(',"training"', "")], "line 3: another board or other readings"),
    ],
)
def test_a_bad_file_is_one_sentence_with_the_line(lines: list[str], words: str) -> None:
    with pytest.raises(DataError) as error:
        read(lines)
    assert str(error.value).startswith("line ")
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 200


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.lists(json_values.map(json.dumps) | st.text(max_size=20), max_size=5))
def test_nothing_but_points_or_that_error_comes_out(texts: list[str]) -> None:
    try:
        points = read([HEADER, *(f"{text}\n" for text in texts)])
    except DataError as error:
        assert str(error).startswith("line ")  # noqa: PT017 - either way is right
        return
    assert all(a.at_s <= b.at_s for a, b in pairwise(points))


def test_a_header_may_name_fewer_readings_and_then_the_rest_is_not_known() -> None:
    found = decode([HEADER, '[60,0,"mains",2,9,3,true]\n'])
    assert (found.board, found.counts_samples) == ("b", False)
    (point,) = found.points
    assert point.at_s == 60
    assert point.readings.power.value == "mains"
    assert point.readings.temp_c.value is None
    assert point.readings.activity.samples == SampleCounts(new=9)
    assert ask(point.readings, STRICT).closed[0] == "supply"


def test_a_trace_is_read_as_it_is_asked_for() -> None:
    def lines() -> Any:
        yield HEADER
        yield "[60]\n"
        raise AssertionError("too far")

    assert next(decode(lines()).points).at_s == 60


def test_a_day_of_nothing_new_is_ten_kilobytes() -> None:
    lines = write([(60.0, GOOD, None)] * int(DAY_S // 60))
    assert sum(map(len, lines)) < 10_000
