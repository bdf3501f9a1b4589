"""What a gate answers with: numbers for people, and checks that compare or do not."""

from __future__ import annotations

from math import nan

import pytest

from fedclient.scheduler.check import (
    UNKNOWN_REMEDY,
    Asked,
    Now,
    apart,
    compare,
    duration,
    flag,
    number,
    off,
    settled,
    unread,
)
from fedclient.scheduler.history import History
from fedclient.scheduler.profile import Profile
from fedclient.scheduler.readings import Reading, Readings
from tests.scheduler.moments import BOARD, GOOD, STRICT, but

WORDS = ("whether it is metered", "it is metered", "it is not metered")


def asked(readings: Readings = GOOD, profile: Profile = BOARD) -> Asked:
    return Asked(readings=readings, policy=STRICT, profile=profile, history=History(), now=Now(elapsed_s=0.0))


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (48.316, "°C", "48.3 °C"),
        (50.0, "%", "50 %"),
        (127.9, "MiB", "128 MiB"),
        (-12.34, "", "-12.3"),
        (0.04, "J", "0 J"),
    ],
)
def test_no_digit_that_means_nothing(value: float, unit: str, text: str) -> None:
    assert number(value, unit) == text


def test_a_new_job_is_neither_one_that_runs_nor_one_to_go_on_with() -> None:
    assert asked().new_job
    assert not asked(but(activity={"training": True})).new_job
    assert not asked(but(activity={"resuming": True})).new_job


def test_off_and_settled_compare_nothing() -> None:
    assert off("load", "the load").verdict is True
    assert settled("load", "because", ok=False).threshold is None


def test_unread_is_closed_with_a_remedy_or_excused_by_the_profile() -> None:
    readings = Readings(temp_c=Reading(reason="permission denied"))
    closed = unread(asked(readings), "temperature", "the temperature", "temp_c")
    assert (closed.verdict, closed.remedy, closed.source) == (False, UNKNOWN_REMEDY, "permission denied")
    assert closed.because == "the temperature is not known: permission denied"
    profile = Profile(name="b", title="B", missing={"temp_c": "it has no sensor"})
    excused = unread(asked(readings, profile), "temperature", "the temperature", "temp_c")
    assert excused.verdict is True
    assert "it has no sensor" in excused.because


def test_a_flag_closes_when_it_is_up_and_when_nobody_knows() -> None:
    verdicts = [
        flag(asked(but(metered=value)), "metered", "metered", WORDS, "move").verdict
        for value in (False, True, None)
    ]
    assert verdicts == [True, False, False]


def test_compare_takes_numbers_only() -> None:
    terms = {"threshold": 50.0, "unit": "%"}
    found = compare(asked(), "load", "the load", "cpu_percent", **terms)
    assert (found.value, found.threshold, found.verdict) == (5.0, 50.0, None)
    assert compare(asked(but(cpu_percent=nan)), "load", "the load", "cpu_percent", **terms).verdict is False
    assert compare(asked(), "load", "the load", "cpu_percent", threshold=None).verdict is True


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1.0, "0 s"),
        (0.4, "0 s"),
        (119.4, "119 s"),
        (120, "2 min"),
        (7199, "120 min"),
        (7200, "2 h"),
        (9000, "2.5 h"),
        (36 * 3600, "36 h"),
        (48 * 3600, "2 days"),
        (30 * 86_400, "30 days"),
    ],
)
def test_for_people_a_length_has_two_or_three_digits(seconds, text) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "limit", "text"),
    [
        (127.9, 128.0, "127.9 MiB"),
        (127.996, 128.0, "127.996 MiB"),  # not "128.0"
        (50.04, 50.0, "50.04 MiB"),
        (90.0, 128.0, "90 MiB"),
        (200.4, 128.0, "200 MiB"),
        (1.0 + 1e-12, 1.0, "1.000000000001 MiB"),
    ],
)
def test_a_value_that_just_failed_is_told_from_its_limit(value: float, limit: float, text: str) -> None:
    assert apart(value, limit, "MiB") == text
