"""The policy as a whole: what holds for any readings, any history, any noise."""

from __future__ import annotations

import builtins
import copy
import json
import os
import random
import socket
import time
from dataclasses import FrozenInstanceError, fields, replace
from itertools import pairwise
from math import inf
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedclient.scheduler.gates import GATES
from fedclient.scheduler.history import Bucket, Cost, History
from fedclient.scheduler.policy import LONGEST_SLEEP_S, Decision, Gate, decide, sleep_s
from fedclient.scheduler.profile import Profile
from fedclient.scheduler.readings import Readings, SampleCounts
from fedclient.scheduler.schedule import Policy
from tests.scheduler.moments import (
    BOARD,
    GOOD,
    NOW_S,
    STRICT,
    ask,
    but,
    gate,
    histories,
    minutes,
    policies,
    profiles,
    readings_,
    wild,
)

steps = st.lists(
    st.tuples(
        st.sampled_from([5.0, 60.0, 600.0]) | st.floats(0.0, 400.0),
        st.sampled_from([GOOD, GOOD, but(temp_c=90.0), Readings()]) | readings_,
    ),
    max_size=20,
)
# each example is many decisions; a busy machine is no failure
walks = settings(max_examples=50, deadline=None)
single = settings(max_examples=60, deadline=None)


def walk(
    path: list[tuple[float, Readings]], policy: Policy, history: History | None = None
) -> list[Decision]:
    """Decide step by step, each time with what the last decision remembered."""
    now_s, kept, decisions = NOW_S, history or History(), []
    for pause_s, readings in path:
        now_s += pause_s
        decisions.append(ask(readings, policy, kept, now_s))
        kept = decisions[-1].history
    return decisions


def test_a_good_moment_is_eligible_at_once() -> None:
    decision = ask(at_s=12.0)
    assert decision.eligible
    assert decision.closed == ()
    assert decision.next_s is None
    assert decision.at_s == 12.0
    assert len(decision.gates) == len(GATES)
    assert all(one.remedy == "" and one.since_s == 12.0 for one in decision.gates)


# --- flapping --------------------------------------------------------------------------------------


@walks
@given(steps, policies, histories)
def test_it_becomes_eligible_at_most_once_per_dwell(
    path: list[tuple[float, Readings]], policy: Policy, history: History
) -> None:
    decisions = walk(path, policy, history)
    before = [history.eligible, *(decision.eligible for decision in decisions)]
    starts = [d.at_s for was, d in zip(before, decisions, strict=False) if d.eligible and not was]
    # device time is a sum of floats: allow for its rounding
    assert all(b - a >= policy.dwell_s - 1e-6 for a, b in pairwise(starts))


@walks
@given(steps, policies, histories)
def test_after_a_loss_nothing_is_eligible_for_the_dwell(
    path: list[tuple[float, Readings]], policy: Policy, history: History
) -> None:
    lost_s = None
    was = history.eligible
    for decision in walk(path, policy, history):
        if decision.eligible and lost_s is not None:
            assert decision.at_s - lost_s >= policy.dwell_s - 1e-6
        lost_s = decision.at_s if was and not decision.eligible else lost_s
        was = decision.eligible


# reading -> (its gate, threshold, margin, whether above it closes)
MARGINS = {
    "temp_c": ("temperature", 75.0, 8.0, 1),
    "cpu_percent": ("load", 50.0, 10.0, 1),
    "psi_cpu_percent": ("pressure", 40.0, 8.0, 1),
    "battery_percent": ("power", 50.0, 5.0, -1),
    "free_memory_mib": ("memory", 128.0, 12.8, -1),
    "free_disk_mib": ("disk", 100.0, 10.0, -1),
}


def test_the_margins_are_those_of_the_gates() -> None:
    for reading, (name, threshold, margin, side) in MARGINS.items():
        lost = ask(but(**{reading: threshold + side}))
        assert gate(ask(history=lost.history), name).threshold == pytest.approx(threshold - side * margin)


@walks
@given(
    st.sets(st.sampled_from(sorted(MARGINS)), min_size=1),
    st.lists(st.tuples(st.floats(1, 900), st.lists(st.floats(-1, 1), min_size=6, max_size=6)), max_size=50),
    st.booleans(),
)
def test_noise_within_the_margins_never_flaps(
    noisy: set[str], noise: list[tuple[float, list[float]]], hot: bool
) -> None:
    """Whatever hovers around a threshold by less than its margin changes the verdict once at most."""
    path = [(1.0, GOOD)]
    for pause_s, shares in noise:
        values = {}
        for share, (reading, (_, threshold, margin, side)) in zip(shares, MARGINS.items(), strict=True):
            if reading in noisy:
                values[reading] = threshold + side * 0.999 * margin * share
        path.append((pause_s, but(**values)))
    start = walk([(1.0, but(temp_c=90.0))], STRICT)[0].history if hot else None
    verdicts = [decision.eligible for decision in walk(path, STRICT, start)]
    changes = sum(a != b for a, b in pairwise(verdicts[1:]))
    assert changes <= 1
    if changes:
        assert verdicts[1]  # what was lost stays lost
        assert not verdicts[-1]


# --- purity ----------------------------------------------------------------------------------------


class Touched(AssertionError):
    """A pure function reached for the world."""


def no_world(monkeypatch: pytest.MonkeyPatch) -> None:
    def touched(*_: object, **__: object) -> None:
        raise Touched

    for module, names in {
        time: ("time", "monotonic", "localtime", "clock_gettime", "perf_counter"),
        os: ("getenv", "stat", "listdir", "getloadavg", "urandom"),
        random: ("random", "uniform"),
        socket: ("socket",),
        builtins: ("open",),
    }.items():
        for name in names:
            monkeypatch.setattr(module, name, touched)


def test_a_decision_reaches_for_nothing_but_its_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        no_world(patched)
        decision = ask(history=History(owner_hold_s=5.0), at_s=1.0)
        decision.as_dict()
    assert decision.closed == ("paused",)


@single
@given(readings_, policies, profiles, histories, minutes)
def test_the_same_arguments_give_the_same_decision_and_are_left_alone(
    readings: Readings, policy: Policy, profile: Profile, history: History, minute: int | None
) -> None:
    arguments = (readings, policy, profile, history)
    before = repr(arguments)  # NaN is not equal to itself
    first = ask(readings, policy, history, NOW_S, profile=profile, minute=minute)
    again = copy.deepcopy(arguments)  # equal, and not the same objects
    second = ask(again[0], again[1], again[3], NOW_S, profile=again[2], minute=minute)
    assert repr(first) == repr(second)
    assert repr(arguments) == before


def test_a_decision_cannot_be_changed() -> None:
    decision = ask()
    for thing, name in ((decision, "eligible"), (decision.gates[0], "ok"), (decision.history, "eligible")):
        with pytest.raises(FrozenInstanceError):
            setattr(thing, name, False)


# --- each decision -----------------------------------------------------------------------------------


@single
@given(wild | readings_, policies, profiles, histories, minutes)
def test_eligible_means_every_gate_open_and_a_closed_one_says_what_to_do(
    readings: Readings, policy: Policy, profile: Profile, history: History, minute: int | None
) -> None:
    decision = ask(readings, policy, history, NOW_S, profile=profile, minute=minute)
    assert decision.eligible == all(one.ok for one in decision.gates) == (not decision.closed)
    assert tuple(one.name for one in decision.gates) == tuple(function.__name__ for function in GATES)
    for one in decision.gates:
        assert one.sentence
        assert "\n" not in one.sentence
        assert bool(one.remedy) == (not one.ok), one
    shown = json.loads(json.dumps(decision.as_dict()["next_s"], allow_nan=False))
    assert shown is None or shown >= NOW_S


@single
@given(readings_, policies, profiles, histories, minutes)
def test_json_has_the_whole_decision_and_no_nan(
    readings: Readings, policy: Policy, profile: Profile, history: History, minute: int | None
) -> None:
    decision = ask(readings, policy, history, NOW_S, profile=profile, minute=minute)
    shown = json.loads(json.dumps(decision.as_dict(), allow_nan=False))
    assert set(shown) == {"eligible", "at_s", "next_s", "gates"}
    assert all(set(one) == {item.name for item in fields(Gate)} for one in shown["gates"])


@single
@given(readings_, policies, st.data())
def test_one_more_unknown_never_makes_it_eligible(
    readings: Readings, policy: Policy, data: st.DataObject
) -> None:
    """Knowing less opens nothing, but for what tells that another reading does not matter."""
    tells = {"trip_temp_c", "power_w", "graphical_session", "network"}
    names = sorted({item.name for item in fields(Readings)} - tells - {"activity"})
    name = data.draw(st.sampled_from(names))
    less = replace(readings, **{name: Readings().temp_c})
    if not ask(readings, policy).eligible:
        assert not ask(less, policy).eligible


@walks
@given(steps, policies, histories)
def test_since_is_when_the_verdict_last_changed(
    path: list[tuple[float, Readings]], policy: Policy, history: History
) -> None:
    since: dict[str, tuple[bool, float]] = {}
    for decision in walk(path, policy, history):
        for one in decision.gates:
            if one.name not in since or since[one.name][0] is not one.ok:
                since[one.name] = (one.ok, decision.at_s)
            assert one.since_s == since[one.name][1]


BEST = but(
    power="mains",
    charging=True,
    battery_percent=100.0,
    temp_c=5.0,
    cpu_percent=0.0,
    psi_cpu_percent=0.0,
    free_memory_mib=1e6,
    free_disk_mib=1e6,
    network="ethernet",
    input_idle_s=1e6,
    power_w=0.01,
    activity={"samples": SampleCounts(new=10**6, distinct=10**6)},
)


@walks
@given(steps, policies, histories)
def test_no_history_locks_a_device_out_for_ever(
    path: list[tuple[float, Readings]], policy: Policy, history: History
) -> None:
    """But for a pause until resumed, and a job that needs more than its budget."""
    policy = replace(policy, windows=())
    history = replace(history, last_job=Cost())
    decisions = walk(path, policy, history)
    after = decisions[-1].history if decisions else history
    after = after.held("owner", None).held("gateway", None)
    assert ask(BEST, policy, after, 1e9).eligible, ask(BEST, policy, after, 1e9).closed


# --- what it looks like ------------------------------------------------------------------------------


def test_as_dict_has_value_source_threshold_sentence_and_remedy() -> None:
    shown = json.loads(json.dumps(ask(but(cpu_percent=64.25), at_s=7.0).as_dict()))
    assert (shown["eligible"], shown["at_s"], shown["next_s"]) == (False, 7.0, None)
    assert next(one for one in shown["gates"] if one["name"] == "load") == {
        "name": "load",
        "ok": False,
        "value": 64.25,
        "unit": "%",
        "source": "changed",
        "threshold": 50.0,
        "sentence": "the processor load is 64.2 %, but must be at most 50 %",
        "since_s": 7.0,
        "remedy": "less other work on this machine, or a higher [schedule] max_cpu_percent",
        "opens_s": None,
    }


def test_the_next_chance_is_the_last_of_several_that_open_by_themselves() -> None:
    history = History(owner_hold_s=50.0, pace_s=80.0)
    assert ask(history=history).next_s == 80.0
    assert ask(but(temp_c=99.0), history=history).next_s is None  # nobody knows when it cools down
    forever = ask(history=History(owner_hold_s=inf))
    assert forever.next_s == inf
    assert forever.as_dict()["next_s"] is None


@pytest.mark.parametrize(
    ("history", "pause_s"),
    [
        (History(), 60.0),
        (History(pace_s=30.0), 60.0),
        (History(pace_s=500.0), 500.0),
        (History(owner_hold_s=inf), LONGEST_SLEEP_S),
    ],
)
def test_it_is_asked_again_when_something_may_have_changed(history: History, pause_s: float) -> None:
    assert sleep_s(ask(history=history), 60.0) == pause_s


def test_a_decision_is_cheap() -> None:
    """The issue allows 2 ms with all probes; this is the share of the policy, after a day of spendings."""
    spent = tuple(Bucket(hour, Cost(training_s=150.0, energy_j=9.0)) for hour in range(25))
    history = History(spent=spent, started_s=1.0)
    took = []
    for _ in range(30):
        begun = time.perf_counter()
        ask(GOOD, STRICT, history, 25 * 3600.0)
        took.append(time.perf_counter() - begun)
    assert min(took) < 0.001


def test_decide_takes_what_the_agent_has() -> None:
    from fedclient.scheduler.check import Now  # noqa: PLC0415

    arguments: Any = (GOOD, STRICT, BOARD, History(), Now(elapsed_s=1.0, minute_of_week=720))
    assert decide(*arguments) == ask(at_s=1.0)
