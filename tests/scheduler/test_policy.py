"""The policy: each gate, hysteresis, dwell; and what holds for any readings at all."""

import json
from dataclasses import fields, replace
from itertools import pairwise
from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedclient.scheduler.policy import (
    GATES,
    Decision,
    History,
    Policy,
    Readings,
    SampleCounts,
    decide,
)

GOOD = Readings(
    has_battery=True,
    charging=False,
    battery_percent=90.0,
    cpu_percent=5.0,
    free_memory_mib=900.0,
    free_disk_mib=5000.0,
    samples=SampleCounts(new=50, distinct=500),
)
POLICY = Policy(min_new_samples=20)
NAMES = ("power", "load", "memory", "disk", "new_samples", "distinct_samples", "dwell")


def closed(readings: Readings, policy: Policy = POLICY) -> tuple[str, ...]:
    return decide(readings, policy, History(), 0.0).closed


def sentence(decision: Decision, name: str) -> str:
    return next(gate.sentence for gate in decision.gates if gate.name == name)


def test_a_good_moment_is_eligible_at_once() -> None:
    decision = decide(GOOD, POLICY, History(), 12.0)
    assert decision.eligible
    assert tuple(gate.name for gate in decision.gates) == NAMES
    assert decision.closed == ()


@pytest.mark.parametrize(
    ("change", "gate"),
    [
        ({"battery_percent": 49.9}, "power"),
        ({"has_battery": None}, "power"),
        ({"battery_percent": None}, "power"),
        ({"cpu_percent": 50.1}, "load"),
        ({"cpu_percent": None}, "load"),
        ({"cpu_percent": nan}, "load"),
        ({"free_memory_mib": 127.9}, "memory"),
        ({"free_memory_mib": None}, "memory"),
        ({"free_memory_mib": inf}, "memory"),
        ({"free_disk_mib": 99.0}, "disk"),
        ({"free_disk_mib": None}, "disk"),
        ({"samples": SampleCounts(new=19, distinct=500)}, "new_samples"),
        ({"samples": SampleCounts(new=None, distinct=500)}, "new_samples"),
        ({"samples": SampleCounts(new=50, distinct=31)}, "distinct_samples"),
        ({"samples": SampleCounts(new=50, distinct=None)}, "distinct_samples"),
    ],
)
def test_each_gate_closes_alone(change: dict[str, object], gate: str) -> None:
    assert closed(replace(GOOD, **change)) == (gate,)


@pytest.mark.parametrize(
    "change",
    [
        {"battery_percent": 50.0},
        {"battery_percent": 3.0, "charging": True},
        {"battery_percent": None, "charging": True},
        {"charging": None},  # a fuel gauge that knows the level only
        {"has_battery": False, "battery_percent": None, "charging": None},  # mains
        {"cpu_percent": 50.0},
        {"free_memory_mib": 128.0},
        {"free_disk_mib": 100.0},
        {"samples": SampleCounts(new=20, distinct=32)},
    ],
)
def test_what_is_enough_is_enough(change: dict[str, object]) -> None:
    assert closed(replace(GOOD, **change)) == ()


def test_with_require_charging_no_level_is_enough() -> None:
    for level in (50.0, None):
        policy = replace(POLICY, require_charging=True, min_battery_percent=level)
        assert closed(replace(GOOD, battery_percent=100.0), policy) == ("power",)
        assert closed(replace(GOOD, battery_percent=100.0, charging=None), policy) == ("power",)
        assert closed(replace(GOOD, charging=True), policy) == ()
        assert closed(replace(GOOD, has_battery=False), policy) == ()


def test_a_gate_switched_off_is_open_without_a_reading_and_says_so() -> None:
    off = {
        "min_battery_percent": None,
        "max_cpu_percent": None,
        "min_free_memory_mib": None,
        "min_free_disk_mib": None,
        "min_new_samples": None,
    }
    decision = decide(Readings(samples=SampleCounts(distinct=32)), replace(POLICY, **off), History(), 0.0)
    assert decision.eligible
    for name in NAMES[:5]:
        assert "switched off" in sentence(decision, name)


def test_the_privacy_floor_cannot_be_switched_off() -> None:
    assert Policy.__annotations__["min_distinct_samples"] == "int"


def test_a_closed_gate_opens_past_its_margin_only() -> None:
    policy = replace(POLICY, dwell_s=0.0)
    for field, worse, between, better in [
        ("battery_percent", 49.0, 54.9, 55.0),
        ("cpu_percent", 51.0, 40.1, 40.0),
        ("free_memory_mib", 127.0, 140.0, 141.0),
        ("free_disk_mib", 99.0, 109.0, 111.0),
    ]:
        verdicts, history = [], History()
        for value in (between, worse, between, better, between):
            decision = decide(replace(GOOD, **{field: value}), policy, history, 0.0)
            verdicts.append(decision.eligible)
            history = decision.history
        assert verdicts == [True, False, False, True, True], field


def test_after_a_loss_it_waits_for_the_dwell_and_says_so() -> None:
    lost = decide(replace(GOOD, charging=None, battery_percent=1), POLICY, History(eligible=True), 100.0)
    assert (lost.eligible, lost.closed) == (False, ("power",))
    early = decide(GOOD, POLICY, lost.history, 399.9)
    assert (early.eligible, early.closed) == (False, ("dwell",))
    assert "300 s ago" in sentence(early, "dwell")
    assert decide(GOOD, POLICY, early.history, 400.0).eligible


def test_a_device_that_never_was_eligible_does_not_wait() -> None:
    none = replace(GOOD, samples=SampleCounts(new=0, distinct=0))
    first = decide(none, POLICY, History(), 0.0)
    assert not first.eligible
    assert decide(GOOD, POLICY, first.history, 1.0).eligible


def test_a_clock_that_starts_again_at_zero_ends_the_wait() -> None:
    assert decide(GOOD, POLICY, History(eligible=False, lost_s=5000.0), 10.0).eligible


def test_a_wait_that_began_before_a_restart_never_stops_what_runs() -> None:
    running = decide(GOOD, POLICY, History(eligible=False, lost_s=5000.0), 10.0)
    assert decide(GOOD, POLICY, running.history, 5001.0).eligible


def test_the_trainer_does_not_stop_itself() -> None:
    training = replace(
        GOOD,
        training=True,
        cpu_percent=100.0,
        trainer_cpu_percent=96.0,
        free_memory_mib=100.0,
        trainer_memory_mib=60.0,
        samples=SampleCounts(new=0, distinct=500),
    )
    assert closed(training) == ()
    assert closed(replace(training, training=False)) == ("new_samples",)
    assert closed(replace(training, trainer_memory_mib=20.0)) == ("memory",)
    assert closed(replace(training, trainer_cpu_percent=10.0)) == ("load",)
    # A purge during the job takes the samples away: the floor still holds.
    assert closed(replace(training, samples=SampleCounts(new=0, distinct=3))) == ("distinct_samples",)


def test_as_dict_is_json_with_value_threshold_and_sentence() -> None:
    shown = json.loads(json.dumps(decide(GOOD, POLICY, History(), 0.0).as_dict()))
    assert shown["eligible"] is True
    assert shown["gates"][1] == {
        "name": "load",
        "ok": True,
        "value": 5.0,
        "threshold": 50.0,
        "unit": "%",
        "sentence": "the processor load is 5 %, as asked: at most 50 %",
    }
    worse = decide(replace(GOOD, free_memory_mib=64.25), POLICY, History(), 0.0)
    assert sentence(worse, "memory") == "free memory is 64.2 MiB, but must be at least 128 MiB"


# --- for any readings ------------------------------------------------------------------------------

number = st.none() | st.floats(0, 2000) | st.just(nan)
percent = st.none() | st.floats(0, 100) | st.just(nan)
count = st.none() | st.integers(0, 100)
readings_ = st.builds(
    Readings,
    has_battery=st.none() | st.booleans(),
    charging=st.none() | st.booleans(),
    battery_percent=percent,
    cpu_percent=percent,
    free_memory_mib=number,
    free_disk_mib=number,
    samples=st.builds(SampleCounts, new=count, distinct=count),
    training=st.booleans(),
    trainer_cpu_percent=st.floats(0, 100),
    trainer_memory_mib=st.floats(0, 200),
)
policies = st.builds(
    Policy,
    min_battery_percent=st.none() | st.floats(0, 100),
    require_charging=st.booleans(),
    max_cpu_percent=st.none() | st.floats(1, 100),
    min_free_memory_mib=st.none() | st.floats(0, 1000),
    min_free_disk_mib=st.none() | st.floats(0, 1000),
    min_new_samples=count,
    dwell_s=st.floats(0, 1000),
    min_distinct_samples=st.integers(1, 50),
)
BEST = Readings(
    has_battery=True,
    charging=True,
    battery_percent=100.0,
    cpu_percent=0.0,
    free_memory_mib=1e6,
    free_disk_mib=1e6,
    samples=SampleCounts(new=10**6, distinct=10**6),
)
walk = st.lists(
    st.tuples(st.floats(0.0, 200.0), st.sampled_from([GOOD, BEST, Readings()]) | readings_), max_size=40
)


def run(steps: list[tuple[float, Readings]], policy: Policy) -> list[tuple[float, Decision]]:
    now_s, history, decisions = 0.0, History(), []
    for pause_s, readings in steps:
        now_s += pause_s
        decisions.append((now_s, decide(readings, policy, history, now_s)))
        history = decisions[-1][1].history
    return decisions


@given(walk, policies)
def test_it_becomes_eligible_at_most_once_per_dwell(
    steps: list[tuple[float, Readings]], policy: Policy
) -> None:
    decisions = run(steps, policy)
    before = [False, *(decision.eligible for _, decision in decisions)]
    starts = [now_s for was, (now_s, d) in zip(before, decisions, strict=False) if d.eligible and not was]
    # now_s is a sum of floats: allow for its rounding
    assert all(b - a >= policy.dwell_s - 1e-6 for a, b in pairwise(starts))


@given(walk, policies)
def test_eligible_means_every_gate_open_and_equal_arguments_give_equal_decisions(
    steps: list[tuple[float, Readings]], policy: Policy
) -> None:
    decisions = run(steps, policy)
    for _, decision in decisions:
        assert decision.eligible == all(gate.ok for gate in decision.gates) == (not decision.closed)
        assert len(decision.gates) == len(GATES) + 1
    # repr, since NaN is not equal to itself
    assert repr(decisions) == repr(run(steps, policy))


@given(walk, policies, st.data())
def test_what_is_unknown_and_asked_for_is_a_closed_gate(
    steps: list[tuple[float, Readings]], policy: Policy, data: st.DataObject
) -> None:
    decisions = run(steps, policy)
    history = decisions[-1][1].history if decisions else History()
    name, asked = data.draw(
        st.sampled_from(
            [
                ("has_battery", policy.require_charging or policy.min_battery_percent is not None),
                ("cpu_percent", policy.max_cpu_percent is not None),
                ("free_memory_mib", policy.min_free_memory_mib is not None),
                ("free_disk_mib", policy.min_free_disk_mib is not None),
                ("samples", True),
            ]
        )
    )
    assert name in {field.name for field in fields(Readings)}
    unknown = replace(BEST, **{name: SampleCounts() if name == "samples" else None})
    assert not (asked and decide(unknown, policy, history, 1e9).eligible)


@given(walk, policies)
def test_no_history_locks_a_device_out_for_ever(steps: list[tuple[float, Readings]], policy: Policy) -> None:
    decisions = run(steps, policy)
    history = decisions[-1][1].history if decisions else History()
    assert decide(BEST, policy, history, 1e9).eligible
    on_battery = replace(BEST, charging=False)
    assert policy.require_charging or decide(on_battery, policy, history, 1e9).eligible
