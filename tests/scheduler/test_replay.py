"""Replay: what the agent would have done, and budgets that hold over any trace."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedclient.scheduler.history import DAY_S, Cost
from fedclient.scheduler.readings import Reading, Readings, SampleCounts
from fedclient.scheduler.replay import ENDINGS, Interval, Job, Replay, Simulation, Terms, replay
from fedclient.scheduler.schedule import Policy
from fedclient.scheduler.timing import LOOK_S, MIB, watts
from fedclient.scheduler.trace import Point, decode
from fedclient.testing import week
from tests.scheduler.moments import BOARD, GOOD, LOOSE, but, readings_, wild

FREE = replace(LOOSE, poll_s=60.0)  # trains always
BLIND = Terms(policy=FREE, profile=BOARD, samples_always=True)


def points(*steps: tuple[float, Readings], **more: Any) -> list[Point]:
    """Make points at these times; `restarts` are numbers of those that begin anew."""
    minute = more.get("minute")
    return [
        Point(
            at_s=at_s,
            readings=readings,
            minute_of_week=None if minute is None else (minute + int(at_s // 60)) % (7 * 24 * 60),
            begins=number == 0 or number in more.get("restarts", ()),
        )
        for number, (at_s, readings) in enumerate(steps)
    ]


def terms(job_s: float = 60.0, **policy: Any) -> Terms:
    return replace(BLIND, policy=replace(FREE, **policy), job=Job(training_s=job_s))


def spans(found: Replay) -> list[tuple[float, float, str]]:
    return [(one.begin_s, one.end_s, one.ended) for one in found.intervals]


HOT = but(temp_c=90.0)


def test_jobs_follow_each_other_where_nothing_keeps_them() -> None:
    found = replay(points((0, GOOD), (150, GOOD)), BLIND)
    assert spans(found) == [(0, 60, "done"), (60, 120, "done"), (120, 150, "end of trace")]
    assert (found.totals.jobs, found.totals.training_s, found.totals.trace_s) == (2, 150, 150)
    assert found.totals.traffic_bytes == 1000
    assert found.totals.energy_j == 600  # 4 W by the rail
    assert found.closed == {}


def test_a_violation_stops_at_the_next_look_and_the_job_goes_on_after_the_dwell() -> None:
    policy = {"pause_temp_c": 75.0, "resume_temp_c": 67.0, "dwell_s": 300.0, "min_spacing_s": 900.0}
    found = replay(points((0, GOOD), (22, HOT), (60, GOOD), (1000, GOOD)), terms(job_s=100.0, **policy))
    first, second, *_ = found.intervals
    assert first == Interval(begin_s=0, end_s=25, ended="stopped", closed=("temperature",), resumed=False)
    assert (second.begin_s, second.resumed) == (325, True)
    assert second.end_s - second.begin_s == 75  # what was left of it
    assert found.totals.stops == 1


def test_spacing_is_kept_between_starts() -> None:
    found = replay(points((0, GOOD), (7200, GOOD)), terms(min_spacing_s=900.0))
    assert [one.begin_s for one in found.intervals] == [900.0 * count for count in range(8)]
    assert found.closed["spacing"] == pytest.approx(840 / 900)


def test_windows_use_the_trace_s_local_time() -> None:
    found = replay(points((0, GOOD), (DAY_S, GOOD), minute=12 * 60), terms(windows=("22:00-23:00",)))
    assert found.intervals[0].begin_s == 10 * 3600
    assert found.intervals[-1].end_s == 11 * 3600
    assert found.local(found.intervals[0].begin_s) == "Mon 22:00"
    unknown = replay(points((0, GOOD), (DAY_S, GOOD)), terms(windows=("22:00-23:00",)))
    assert unknown.intervals == ()
    assert unknown.closed == {"window": 1.0}
    assert unknown.local(DAY_S + 3600.0) == "day 2 01:00"


def test_a_restart_keeps_the_job_and_what_was_spent() -> None:
    steps = points((0, GOOD), (10, GOOD), (1000, GOOD), (1200, GOOD), restarts={2})
    found = replay(steps, terms(job_s=100.0, daily_training_s=120.0))
    assert spans(found)[:2] == [(0, 20, "restart"), (1000, 1080, "done")]  # the last reading held 10 s
    assert found.intervals[1].resumed
    assert found.totals.training_s <= 120
    assert found.covered == ((0, 20), (1000, 1200))


def test_a_job_waits_for_new_samples_of_the_trace() -> None:
    def have(new: int | None) -> Readings:
        return but(activity={"samples": SampleCounts(new=new, distinct=500)})

    counted = replace(terms(min_new_samples=20), samples_always=False)
    steps = [(0, 5), (100, 19), (200, 20), (300, 25), (400, 39), (500, 41), (600, 41)]
    found = replay(points(*((at_s, have(new)) for at_s, new in steps)), counted)
    assert [one.begin_s for one in found.intervals] == [240, 540]  # 20 came, then 20 more
    # where the device settled its own jobs its count falls: what comes after that is new
    steps = [(0, 15), (100, 3), (200, 5), (300, 5)]
    found = replay(points(*((at_s, have(new)) for at_s, new in steps)), counted)
    assert [one.begin_s for one in found.intervals] == [240]
    assert replay(points((0, have(None)), (100, have(None))), counted).intervals == ()


def test_energy_is_the_rail_s_and_what_training_adds_to_it() -> None:
    board = replace(BOARD, training_w=3.0)
    for readings, drawn_w in (
        (but(power_w=4.0), 7.0),
        (but(power_w=6.5, activity={"training": True}), 6.5),  # the device trained then: it is on the rail
        (but(power_w=None), 3.0),
    ):
        found = replay(points((0, readings), (100, readings)), replace(BLIND, profile=board))
        assert found.totals.energy_j == pytest.approx(100 * drawn_w, rel=0.06)
    assert replay(points((0, but(power_w=None)), (100, GOOD)), BLIND).totals.energy_j is None


def test_an_empty_trace_and_a_lone_point_are_nothing() -> None:
    for steps in ([], points((0, GOOD))):
        found = replay(steps, BLIND)
        assert (found.intervals, found.closed, found.totals.trace_s) == ((), {}, 0)


def test_days_are_cut_at_local_midnight() -> None:
    found = replay(points((0, GOOD), (7200, GOOD), minute=23 * 60), BLIND)
    assert found.by_day([(0, 7200)]) == {0: [(23 * 3600, DAY_S)], 1: [(0, 3600)]}
    assert (found.day(0), found.day(8)) == ("Mon", "Tue")


# --- over any trace ----------------------------------------------------------------------------------

budgets = st.builds(
    Policy,
    daily_training_s=st.floats(30, 300) | st.just(2000.0),
    daily_traffic_mib=st.none() | st.floats(0.1, 0.3),
    daily_energy_j=st.none() | st.floats(1, 3000),
    daily_flash_mib=st.none() | st.floats(2, 8),
    max_update_bytes_per_day=st.none() | st.integers(600, 300_000),
    min_spacing_s=st.sampled_from([0.0, 100.0]),
    dwell_s=st.sampled_from([0.0, 50.0]),
    poll_s=st.sampled_from([60.0, 900.0]),
)
# how long each holds: moments, hours, days
paces = st.sampled_from([3.0, 40.0, 600.0, 3600.0, 40_000.0])
kinds = st.sampled_from([GOOD, but(power_w=9.0), HOT]) | readings_ | wild
paths = st.lists(st.tuples(paces, kinds, st.booleans()), min_size=2, max_size=7)


class Ledger(Simulation):
    """Writes down what is spent when, by no other clock than its own."""

    def __init__(self, what: Terms) -> None:
        super().__init__(what)
        self.bill: list[tuple[float, Cost]] = []

    def _spend(self, cost: Cost) -> None:
        self.bill.append((self._at_s, cost))
        super()._spend(cost)


def live(path: list[tuple[float, Readings, bool]], what: Terms) -> Ledger:
    ledger, at_s, before = Ledger(what), 0.0, None
    for number, (hold_s, readings, restart) in enumerate(path):
        point = Point(at_s=at_s, readings=readings, minute_of_week=None, begins=restart or number == 0)
        if before is not None:
            ledger.run(before, at_s)
        if point.begins:
            ledger.restart(at_s)
        ledger.observe(point)
        before, at_s = point, at_s + hold_s
    return ledger


@settings(max_examples=35, deadline=None)
@given(
    paths,
    budgets,
    st.floats(4, LOOK_S),
    st.floats(1, 200),
    st.sampled_from([500.0, 60_000.0, 200_000.0]),
    st.sampled_from([1e4, 3e6]),
    st.none() | st.floats(0.5, 20),
)
def test_no_budget_is_ever_exceeded(
    path: list[tuple[float, Readings, bool]],
    policy: Policy,
    look_s: float,
    job_s: float,
    update_bytes: float,
    flash_bytes: float,
    training_w: float | None,
) -> None:
    job = Job(training_s=job_s, update_bytes=update_bytes, flash_bytes=flash_bytes)
    board = replace(BOARD, training_w=training_w)
    what = Terms(policy=policy, profile=board, job=job, look_s=look_s, samples_always=True)
    bill = live(path, what).bill
    for field, most in (
        ("training_s", policy.daily_training_s),
        ("traffic_bytes", None if policy.daily_traffic_mib is None else policy.daily_traffic_mib * MIB),
        ("energy_j", policy.daily_energy_j),
        ("flash_bytes", None if policy.daily_flash_mib is None else policy.daily_flash_mib * MIB),
        ("update_bytes", policy.max_update_bytes_per_day),
    ):
        if most is None:
            continue
        for end_s, _ in bill:
            day = sum(getattr(cost, field) for at_s, cost in bill if end_s - DAY_S < at_s <= end_s)
            assert day <= most + 0.01, field  # a record keeps three digits


@settings(max_examples=20, deadline=None)
@given(paths, budgets)
def test_intervals_are_in_order_and_add_up(path: list[tuple[float, Readings, bool]], policy: Policy) -> None:
    what = Terms(policy=policy, profile=BOARD, samples_always=True)
    found = live(path, what).result()
    assert all(a.end_s <= b.begin_s for a, b in pairwise(found.intervals))
    lengths = [one.end_s - one.begin_s for one in found.intervals]
    assert all(length >= 0 for length in lengths)
    assert sum(lengths) == pytest.approx(found.totals.training_s)
    assert {one.ended for one in found.intervals} <= set(ENDINGS)
    assert all(bool(one.closed) == (one.ended == "stopped") for one in found.intervals)
    assert all(0 <= share <= 1 + 1e-9 for share in found.closed.values())
    fresh = [one.begin_s for one in found.intervals if not one.resumed]
    assert all(b - a >= policy.min_spacing_s - 1e-6 for a, b in pairwise(fresh))
    losses = [one.end_s for one in found.intervals if one.ended == "stopped"]
    for lost_s in losses:
        after = [one.begin_s for one in found.intervals if one.begin_s >= lost_s]
        assert all(begin_s >= lost_s + policy.dwell_s - 1e-6 for begin_s in after)


@pytest.mark.parametrize("kind", week.KINDS)
def test_a_week_is_the_same_each_time_and_keeps_its_budgets(kind: str) -> None:
    lines = list(week.lines(kind, days=3))
    policy = Policy(daily_training_s=600.0, daily_energy_j=5000.0)
    what = Terms(policy=policy, profile=replace(BOARD, missing=EXCUSED, training_w=2.0))
    found = replay(decode(lines).points, what)
    assert found == replay(decode(lines).points, what)
    assert found.totals.jobs > 10
    by_day = [0.0] * 3
    for one in found.intervals:
        by_day[int(one.begin_s // DAY_S)] += one.end_s - one.begin_s
    assert max(by_day) <= 601


EXCUSED = dict.fromkeys(("charging", "battery_percent", "trip_temp_c", "graphical_session"), "it has none")


def test_hot_afternoons_and_evenings_of_load_are_seen_in_a_busy_week() -> None:
    what = Terms(policy=Policy(daily_training_s=None), profile=replace(BOARD, missing=EXCUSED))
    found = replay(decode(list(week.lines("busy"))).points, what)
    trained = [(one.begin_s // DAY_S, one.begin_s / 3600 % 24) for one in found.intervals]
    assert not [hour for _, hour in trained if 18.2 <= hour < 23]
    assert not [hour for day, hour in trained if day in (2, 5) and 12.2 <= hour < 17]
    assert [hour for day, hour in trained if day == 3 and 12 <= hour < 17]
    assert {"load", "temperature", "spacing"} <= set(found.closed)


def test_watts_is_what_the_simulation_charges() -> None:
    readings = replace(GOOD, power_w=Reading(5.0, "rail"))
    assert watts(readings, BOARD) == 5.0
    assert replay(points((0, readings), (10, readings)), BLIND).totals.energy_j == 50
