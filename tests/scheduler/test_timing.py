"""The gates about time: pauses, windows, spacing, pace, budgets, dwell."""

from __future__ import annotations

from dataclasses import replace
from math import inf, nan

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fedclient.scheduler.history import DAY_S, HOUR_S, Bucket, ClockMark, Cost, History
from fedclient.scheduler.profile import Profile
from fedclient.scheduler.readings import Readings, SampleCounts
from fedclient.scheduler.schedule import Policy
from fedclient.scheduler.timing import JOB_FLASH_BYTES, LOOK_S, MIB, UPDATE_BYTES, watts
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
)

RESUMING = but(activity={"resuming": True})
TRAINING = but(activity={"training": True})


@pytest.mark.parametrize(
    ("history", "words", "remedy"),
    [
        (History(owner_hold_s=inf), "the owner paused it until resumed", "`fedclient resume`"),
        (History(owner_hold_s=160.0), "the owner paused it for another 60 s", "`fedclient resume`"),
        (History(owner_hold_s=1900.0), "for another 30 min", "`fedclient resume`"),
        (History(gateway_hold_s=100.0 + 7200), "the gateway paused it for another 2 h", "gateway resume"),
        (History(owner_hold_s=130.0, gateway_hold_s=inf), "the gateway paused it until", "gateway resume"),
    ],
)
def test_a_pause_closes_also_while_training(history: History, words: str, remedy: str) -> None:
    for readings in (GOOD, TRAINING, RESUMING):
        decision = ask(readings, history=history, at_s=100.0)
        assert decision.closed == ("paused",)
        assert words in gate(decision, "paused").sentence
        assert remedy in gate(decision, "paused").remedy


def test_a_pause_ends_by_itself_or_when_resumed() -> None:
    held = History(owner_hold_s=160.0)
    assert gate(ask(history=held, at_s=159.9), "paused").opens_s == 160.0
    assert ask(history=held, at_s=160.0).eligible
    assert ask(history=History(owner_hold_s=inf).held("owner", None), at_s=1.0).eligible
    both = History(owner_hold_s=inf, gateway_hold_s=inf).held("owner", None)
    assert ask(history=both).closed == ("paused",)  # each takes back its own


def test_windows_are_local_and_need_a_clock_that_is_right() -> None:
    assert ask(minute=8 * 60).eligible
    early = ask(minute=7 * 60 + 59, at_s=500.0)
    assert early.closed == ("window",)
    assert gate(early, "window").opens_s == 560.0
    unknown = ask(minute=None)
    assert unknown.closed == ("window",)
    assert "clock is not synchronised" in gate(unknown, "window").sentence
    assert ask(policy=replace(STRICT, windows=()), minute=None).eligible
    assert ask(TRAINING, minute=18 * 60).closed == ("window",)  # the window ends: so does training


def test_spacing_is_between_starts_of_new_jobs() -> None:
    history = History().started(1000.0)
    early = ask(history=history, at_s=1899.9)
    assert early.closed == ("spacing",)
    assert gate(early, "spacing").opens_s == 1900.0
    assert ask(history=history, at_s=1900.0).eligible
    assert ask(TRAINING, history=history, at_s=1001.0).eligible
    assert ask(RESUMING, history=history, at_s=1001.0).eligible


def test_spacing_is_over_when_it_says_whatever_floats_do() -> None:
    history, policy = History().started(65159.3), replace(STRICT, min_spacing_s=788.9)
    opens_s = gate(ask(policy=policy, history=history, at_s=65200.0), "spacing").opens_s
    assert opens_s is not None
    assert opens_s - 65159.3 < 788.9  # a hair
    assert ask(policy=policy, history=history, at_s=opens_s).eligible


def test_pace_is_for_new_jobs() -> None:
    history = History(pace_s=1000.0)
    early = ask(history=history, at_s=400.0)
    assert early.closed == ("pace",)
    assert gate(early, "pace").sentence == "the gateway asked to wait for another 10 min"
    assert gate(early, "pace").opens_s == 1000.0
    assert ask(RESUMING, history=history, at_s=400.0).eligible
    assert ask(TRAINING, history=history, at_s=400.0).eligible
    assert ask(history=history, at_s=1000.0).eligible


def test_after_a_loss_it_waits_for_the_dwell_and_says_so() -> None:
    lost = ask(but(battery_percent=1.0), history=History(eligible=True), at_s=100.0)
    assert (lost.eligible, lost.closed, lost.history.lost_s) == (False, ("power",), 100.0)
    early = ask(history=lost.history, at_s=399.9)
    assert (early.eligible, early.closed) == (False, ("dwell",))
    assert "300 s ago" in gate(early, "dwell").sentence
    assert gate(early, "dwell").opens_s == 400.0
    assert (gate(early, "dwell").threshold, gate(early, "dwell").unit) == (300.0, "s")
    assert ask(history=early.history, at_s=400.0).eligible


def test_a_device_that_never_was_eligible_does_not_wait() -> None:
    first = ask(but(activity={"samples": SampleCounts(new=0, distinct=0)}))
    assert not first.eligible
    assert ask(history=first.history, at_s=1.0).eligible


def test_a_dwell_outlives_a_restart_and_a_reboot_counts_its_time() -> None:
    lost = ask(but(temp_c=90.0), history=History(eligible=True), at_s=1000.0).history
    stored = History.of_record(lost.as_record())
    mark = ClockMark(1000.0, "a", 500.0, None)
    assert ask(history=stored, at_s=mark.elapsed_at("b", 30.0, None)).closed == ("dwell",)
    assert ask(history=stored, at_s=mark.elapsed_at("b", 300.0, None)).eligible


# --- budgets -----------------------------------------------------------------------------------------


def spent(**costs: float) -> History:
    return History(spent=(Bucket(10, Cost(**costs)),))


AT_S = 11 * HOUR_S
LEAVES_S = 11 * HOUR_S + DAY_S


@pytest.mark.parametrize(
    ("name", "policy", "field", "most"),
    [
        ("training_time", Policy(daily_training_s=600.0), "training_s", 600.0 - LOOK_S),
        ("traffic", Policy(daily_traffic_mib=1.0), "traffic_bytes", MIB - UPDATE_BYTES),
        ("energy", Policy(daily_energy_j=1000.0), "energy_j", 1000.0 - LOOK_S * 4.0),
        ("flash", Policy(daily_flash_mib=8.0), "flash_bytes", 8 * MIB - JOB_FLASH_BYTES),
    ],
)
def test_a_budget_closes_while_enough_is_left_to_end(
    name: str, policy: Policy, field: str, most: float
) -> None:
    for readings in (GOOD, TRAINING, RESUMING):
        assert ask(readings, policy, spent(**{field: most}), AT_S).eligible
        closed = ask(readings, policy, spent(**{field: most + 1}), AT_S)
        assert closed.closed == (name,)
        assert gate(closed, name).opens_s == LEAVES_S
        assert "raise [schedule] daily_" in gate(closed, name).remedy
        assert "must be left" in gate(closed, name).sentence
    later = replace(spent(**{field: most + 1}), eligible=True)
    assert ask(GOOD, policy, later, LEAVES_S - 1).closed == (name,)
    assert ask(GOOD, policy, later, LEAVES_S).eligible


def test_a_job_needs_what_the_last_one_took() -> None:
    policy = Policy(daily_traffic_mib=1.0)
    big = replace(spent(traffic_bytes=0.5 * MIB), last_job=Cost(traffic_bytes=0.6 * MIB))
    assert ask(GOOD, policy, big, AT_S).closed == ("traffic",)
    assert ask(GOOD, policy, replace(big, last_job=Cost(traffic_bytes=0.4 * MIB)), AT_S).eligible


def test_a_job_that_needs_more_than_there_ever_is_does_not_begin() -> None:
    policy = Policy(daily_traffic_mib=1.0)
    decision = ask(GOOD, policy, History(last_job=Cost(traffic_bytes=1.1 * MIB)))
    assert decision.closed == ("traffic",)
    assert gate(decision, "traffic").opens_s is None
    assert gate(decision, "traffic").remedy == "raise [schedule] daily_traffic_mib"
    hungry = ask(but(power_w=50.0), Policy(daily_energy_j=400.0))
    assert hungry.closed == ("energy",)
    assert "more than there ever is" in gate(hungry, "energy").sentence


def test_only_as_much_must_leave_as_is_too_much() -> None:
    hours = tuple(Bucket(hour, Cost(training_s=100.0)) for hour in range(5, 11))
    decision = ask(GOOD, Policy(daily_training_s=400.0), History(spent=hours), AT_S)
    assert gate(decision, "training_time").value == 600.0
    assert gate(decision, "training_time").opens_s == 8 * HOUR_S + DAY_S  # 300 s are left then


def test_the_bytes_of_updates_are_for_new_jobs() -> None:
    policy, history = replace(Policy(), max_update_bytes_per_day=1000), spent(update_bytes=744.0)
    assert ask(GOOD, policy, history, AT_S).eligible
    needy = but(activity={"update_needs_bytes": 257.0})
    closed = ask(needy, policy, history, AT_S)
    assert closed.closed == ("update_bytes",)
    found = gate(closed, "update_bytes")
    assert found.sentence == (
        "744 of 1000 bytes of updates sent in the last 24 hours, and an update has 257 at least"
    )
    assert (found.opens_s, found.value, found.threshold) == (LEAVES_S, 744.0, 1000.0)
    assert "[limits] max_update_bytes_per_day" in found.remedy
    for begun in ({"training": True}, {"resuming": True}):  # such a job was promised its bytes at its start
        assert ask(but(needy, activity=begun), policy, history, AT_S).eligible
    never = ask(but(activity={"update_needs_bytes": 1001.0}), policy, History(), AT_S)
    assert (never.closed, gate(never, "update_bytes").opens_s) == (("update_bytes",), None)


def test_an_energy_budget_without_a_rail_or_an_estimate_cannot_be_kept() -> None:
    policy = Policy(daily_energy_j=1000.0)
    blind = but(power_w=None)
    assert ask(blind, policy).closed == ("energy",)
    assert "no power rail and no estimate" in gate(ask(blind, policy), "energy").sentence
    assert ask(blind, policy, profile=replace(BOARD, training_w=5.0)).eligible
    assert ask(blind, Policy()).eligible


@pytest.mark.parametrize(
    ("rail_w", "added_w", "training", "drawn_w"),
    [
        (4.0, None, False, 4.0),
        (4.0, 3.0, False, 7.0),  # before the start, what training adds is not on the rail yet
        (7.0, 3.0, True, 7.0),
        (None, 3.0, True, 3.0),
        (0.0, 3.0, False, 3.0),  # a rail of nothing is a sensor asleep
        (-4.0, 3.0, False, 3.0),
        (nan, 3.0, False, 3.0),
        (inf, None, False, None),
        (None, None, True, None),
    ],
)
def test_watts(rail_w: float | None, added_w: float | None, training: bool, drawn_w: float | None) -> None:
    readings = but(power_w=rail_w, activity={"training": training})
    assert watts(readings, replace(BOARD, training_w=added_w)) == drawn_w


def test_what_the_last_job_drew_is_expected_again() -> None:
    policy = Policy(daily_energy_j=1000.0)
    history = replace(spent(energy_j=930.0), last_job=Cost(training_s=60.0, energy_j=600.0))
    assert ask(GOOD, policy, spent(energy_j=930.0), AT_S).eligible
    assert ask(GOOD, policy, history, AT_S).closed == ("energy",)


# --- whatever is asked ---------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(readings_, policies, profiles, histories, minutes)
def test_what_opens_by_itself_is_open_when_it_says(
    readings: Readings, policy: Policy, profile: Profile, history: History, minute: int | None
) -> None:
    decision = ask(readings, policy, history, NOW_S, profile=profile, minute=minute)
    for one in decision.gates:
        assert one.opens_s is None or not one.ok
        if one.opens_s is None or one.opens_s == inf:
            continue
        assert one.opens_s > NOW_S, one
        passed_min = int((one.opens_s - NOW_S) // 60)
        later = None if minute is None else (minute + passed_min) % (7 * 24 * 60)
        again = ask(readings, policy, decision.history, one.opens_s, profile=profile, minute=later)
        assert gate(again, one.name).ok, one


@settings(max_examples=80, deadline=None)
@given(readings_, policies, profiles, histories, minutes, st.floats(0, 1))
def test_what_opens_by_itself_does_not_before(
    readings: Readings, policy: Policy, profile: Profile, history: History, minute: int | None, share: float
) -> None:
    decision = ask(readings, policy, history, NOW_S, profile=profile, minute=minute)
    for one in decision.gates:
        if one.opens_s is None or one.opens_s == inf:
            continue
        at_s = NOW_S + share * (one.opens_s - NOW_S - 1e-3)
        assume(NOW_S <= at_s < one.opens_s - 1e-6)
        later = None if minute is None else (minute + int((at_s - NOW_S) // 60)) % (7 * 24 * 60)
        again = ask(readings, policy, decision.history, at_s, profile=profile, minute=later)
        assert not gate(again, one.name).ok, one


@settings(max_examples=80, deadline=None)
@given(readings_, policies, profiles, histories, minutes)
def test_at_the_next_chance_nothing_that_opens_by_itself_is_closed(
    readings: Readings, policy: Policy, profile: Profile, history: History, minute: int | None
) -> None:
    policy = replace(policy, windows=())  # one may close again before another gate opens
    history = replace(history, eligible=False)  # what is lost only now waits for its dwell, too
    decision = ask(readings, policy, history, NOW_S, profile=profile, minute=minute)
    if decision.eligible:
        assert decision.next_s is None
    elif decision.next_s is not None and decision.next_s != inf:
        assert all(one.opens_s is not None for one in decision.gates if not one.ok)
        assert ask(readings, policy, decision.history, decision.next_s, profile=profile).eligible
