"""The gates about the machine: each closes alone, says why, and opens where the profile lets it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import inf, nan
from typing import Any

import pytest

from fedclient.scheduler import gates
from fedclient.scheduler.check import Asked, Now
from fedclient.scheduler.history import History
from fedclient.scheduler.profile import Profile
from fedclient.scheduler.readings import SENSORS, Readings, SampleCounts, unknown
from tests.scheduler.moments import BOARD, GOOD, LOOSE, MONDAY_NOON, STRICT, ask, but, gate

# good moments of different kinds: readings that one of them does without, another needs
SITUATIONS = {
    "full battery": GOOD,
    "charging": but(charging=True, battery_percent=4.0),
    "mains": but(power="mains"),
    "headless": but(graphical_session=False),
    "ethernet": but(network="ethernet"),
}
# A reading closes a gate in every situation, but for these: where it does.
CLOSES_IN = {
    "charging": {"charging"},  # elsewhere the level is enough, or there is no battery
    "battery_percent": {"full battery", "headless", "ethernet"},
    "input_idle_s": set(SITUATIONS) - {"headless"},
    "trip_temp_c": set(),  # only ever lowers the owner's threshold
}


def used() -> set[tuple[str, str]]:
    """Ask every gate about every situation, and note which readings it looks at."""
    seen: set[str] = set()

    class Spy(Readings):
        def __getattribute__(self, name: str) -> Any:
            if name in SENSORS:
                seen.add(name)
            return super().__getattribute__(name)

    found = set()
    for readings in SITUATIONS.values():
        spy = Spy(**{name: getattr(readings, name) for name in (*SENSORS, "activity")})
        now = Now(elapsed_s=0.0, minute_of_week=MONDAY_NOON)
        for function in gates.GATES:
            seen.clear()
            check = function(Asked(readings=spy, policy=STRICT, profile=BOARD, history=History(), now=now))
            found |= {(check.name, reading) for reading in seen}
    return found


# not whether, but which: the gate `network` is the one that closes without
USED = sorted(used() - {("metered", "network")})


def without(readings: Readings, name: str) -> Readings:
    return replace(readings, **{name: unknown("permission denied")})


def test_every_situation_is_good() -> None:
    for name, readings in SITUATIONS.items():
        assert ask(readings).eligible, (name, ask(readings).closed)


def test_every_gate_has_a_name_of_its_own() -> None:
    names = [one.name for one in ask().gates]
    assert len(set(names)) == len(gates.GATES)
    assert names == [function.__name__ for function in gates.GATES]


def test_all_that_a_gate_can_use_is_used() -> None:
    unused = set(SENSORS) - {reading for _, reading in USED}
    assert unused == {"clock_synchronised", "power_mode"}  # it becomes the local minute; it is for people


@pytest.mark.parametrize(("name", "reading"), USED)
def test_an_unknown_reading_closes_its_gate(name: str, reading: str) -> None:
    closing = set()
    for situation, readings in SITUATIONS.items():
        decision = ask(without(readings, reading))
        if name in decision.closed:
            closing.add(situation)
            assert decision.closed == (name,)
            assert gate(decision, name).remedy
            assert gate(decision, name).opens_s is None
    assert closing == CLOSES_IN.get(reading, set(SITUATIONS))


@pytest.mark.parametrize("value", [nan, inf, -inf])
@pytest.mark.parametrize(
    ("name", "reading"),
    [one for one in USED if isinstance(getattr(GOOD, one[1]).value, float)],
)
def test_what_is_no_number_is_not_known(name: str, reading: str, value: float) -> None:
    for situation, readings in SITUATIONS.items():
        closed = CLOSES_IN.get(reading, set(SITUATIONS))
        decision = ask(but(readings, **{reading: value}))
        assert (name in decision.closed) == (situation in closed), (situation, decision.closed)


@pytest.mark.parametrize(("name", "reading"), [one for one in USED if one[1] not in ("own_gate", "power_w")])
def test_the_profile_may_let_a_reading_be_unknown(name: str, reading: str) -> None:
    profile = Profile(name="b", title="B", missing={reading: "it has no such sensor"})
    for readings in SITUATIONS.values():
        decision = ask(without(readings, reading), profile=profile)
        if reading in ("charging", "battery_percent") and not decision.eligible:
            continue  # a low battery is one, whatever else is not known
        assert decision.eligible, decision.closed
    excused = gate(ask(without(GOOD, reading), profile=profile), name)
    if reading not in ("charging", "trip_temp_c"):
        assert "it has no such sensor" in excused.sentence
        assert excused.source == "permission denied"


def test_leave_for_one_reading_is_none_for_another() -> None:
    profile = Profile(name="b", title="B", missing={"temp_c": "it has no such sensor"})
    assert ask(without(GOOD, "throttled"), profile=profile).closed == ("throttling",)


@pytest.mark.parametrize(
    ("change", "name", "words"),
    [
        ({"battery_percent": 49.9}, "power", "the battery level is 49.9 %, but must be at least 50 %"),
        ({"under_voltage": True}, "supply", "too low"),
        ({"throttled": True}, "throttling", "slows the processor down"),
        ({"temp_c": 75.1}, "temperature", "the temperature is 75.1 °C, but must be at most 75 °C"),
        ({"cpu_cap_percent": 49.0}, "frequency", "is 49 %, but must be at least 50 %"),
        ({"cpu_percent": 50.1}, "load", "the processor load is 50.1 %, but must be at most 50 %"),
        ({"psi_cpu_percent": 41.0}, "pressure", "is 41 %, but must be at most 40 %"),
        ({"free_memory_mib": 127.9}, "memory", "free memory is 127.9 MiB, but must be at least 128 MiB"),
        ({"free_disk_mib": 99.0}, "disk", "is 99 MiB, but must be at least 100 MiB"),
        ({"network": "cellular"}, "network", "cellular, but must be ethernet or wifi or other"),
        ({"network": "none"}, "network", "there is no network"),
        ({"metered": True}, "metered", "the network is metered"),
        ({"input_idle_s": 299.0}, "session", "is 299 s, but must be at least 300 s"),
        ({"own_gate": False}, "own_gate", "mine:gate says no"),
    ],
)
def test_each_gate_closes_alone_and_says_why(change: dict[str, object], name: str, words: str) -> None:
    decision = ask(but(**change))
    assert (decision.eligible, decision.closed) == (False, (name,))
    found = gate(decision, name)
    assert words in found.sentence
    assert found.remedy
    assert found.source == "changed" or change == {"network": "none"}


def test_an_own_gate_that_fails_says_its_reason_once() -> None:
    reason = "[schedule] gate mine:gate failed: KeyError: 'pump'"
    found = gate(ask(replace(GOOD, own_gate=unknown(reason))), "own_gate")
    assert (found.ok, found.sentence, found.remedy) == (False, reason, "mend mine:gate")


@pytest.mark.parametrize(
    ("samples", "name"),
    [
        (SampleCounts(new=19, distinct=500), "new_samples"),
        (SampleCounts(new=None, distinct=500), "new_samples"),
        (SampleCounts(new=50, distinct=31), "distinct_samples"),
        (SampleCounts(new=50, distinct=None), "distinct_samples"),
    ],
)
def test_samples_are_counted_or_there_is_no_job(samples: SampleCounts, name: str) -> None:
    decision = ask(but(activity={"samples": samples}))
    assert decision.closed == (name,)
    assert gate(decision, name).remedy


@pytest.mark.parametrize(
    "change",
    [
        {"battery_percent": 50.0},
        {"battery_percent": 3.0, "charging": True},
        {"battery_percent": None, "charging": True},
        {"charging": None},  # a fuel gauge that knows the level only
        {"power": "mains", "battery_percent": None, "charging": None},
        {"temp_c": 75.0},
        {"cpu_percent": 50.0},
        {"psi_cpu_percent": 40.0},
        {"cpu_cap_percent": 50.0},
        {"free_memory_mib": 128.0},
        {"free_disk_mib": 100.0},
        {"input_idle_s": 300.0},
        {"graphical_session": False, "input_idle_s": 0.0},
        {"activity": {"samples": SampleCounts(new=20, distinct=32)}},
    ],
)
def test_what_is_enough_is_enough(change: dict[str, Any]) -> None:
    assert ask(but(**change)).closed == ()


def test_with_require_charging_no_level_is_enough() -> None:
    for level in (50.0, None):
        policy = replace(STRICT, require_charging=True, min_battery_percent=level)
        assert ask(but(battery_percent=100.0), policy).closed == ("power",)
        assert ask(but(battery_percent=100.0, charging=None), policy).closed == ("power",)
        assert ask(but(charging=True), policy).closed == ()
        assert ask(but(power="mains"), policy).closed == ()
        assert ask(but(power=None), policy).closed == ("power",)


def test_the_board_s_own_trip_point_lowers_the_threshold() -> None:
    decision = ask(but(temp_c=70.0, trip_temp_c=79.0))
    assert decision.closed == ("temperature",)
    assert gate(decision, "temperature").threshold == 69.0
    assert ask(but(temp_c=70.0, trip_temp_c=95.0)).eligible
    # closed there, it opens where the owner says: a margin that moved along could end below any room
    assert (
        gate(ask(but(temp_c=62.0, trip_temp_c=79.0), history=decision.history), "temperature").threshold == 67
    )


def test_a_broker_on_this_machine_needs_no_network() -> None:
    offline = but(network="none", metered=None, activity={"broker_is_local": True})
    assert ask(offline).closed == ()
    assert ask(but(network=None, metered=None, activity={"broker_is_local": True})).closed == ()


def test_with_no_network_nothing_is_metered() -> None:
    assert ask(but(network="none", metered=None)).closed == ("network",)


def test_a_closed_gate_opens_past_its_margin_only() -> None:
    policy = replace(STRICT, dwell_s=0.0)
    for reading, worse, between, better in [
        ("battery_percent", 49.0, 54.9, 55.0),
        ("temp_c", 75.5, 67.1, 67.0),
        ("cpu_percent", 51.0, 40.1, 40.0),
        ("psi_cpu_percent", 41.0, 32.1, 32.0),
        ("free_memory_mib", 127.0, 140.0, 141.0),
        ("free_disk_mib", 99.0, 109.0, 111.0),
    ]:
        verdicts, history = [], History()
        for value in (between, worse, between, better, between):
            decision = ask(but(**{reading: value}), policy, history)
            verdicts.append(decision.eligible)
            history = decision.history
        assert verdicts == [True, False, False, True, True], reading


def test_the_margin_never_asks_for_more_than_a_full_battery() -> None:
    policy = replace(STRICT, min_battery_percent=98.0, dwell_s=0.0)
    low = ask(but(battery_percent=97.0), policy)
    assert ask(but(battery_percent=100.0), policy, low.history).eligible


def test_the_trainer_does_not_stop_itself() -> None:
    training = but(
        cpu_percent=100.0,
        free_memory_mib=100.0,
        psi_cpu_percent=90.0,
        activity={
            "training": True,
            "trainer_cpu_percent": 96.0,
            "trainer_memory_mib": 60.0,
            "samples": SampleCounts(new=0, distinct=500),
        },
    )
    assert ask(training).closed == ()
    idle = ask(but(training, activity={"training": False}))
    assert idle.closed == ("pressure", "new_samples")
    assert ask(but(training, activity={"trainer_memory_mib": 20.0})).closed == ("memory",)
    assert ask(but(training, activity={"trainer_cpu_percent": 10.0})).closed == ("load",)
    # a purge during the job takes the samples away: the floor still holds
    few = SampleCounts(new=0, distinct=3)
    assert ask(but(training, activity={"samples": few})).closed == ("distinct_samples",)


def switched_off() -> Iterator[str]:
    yield from ("power", "supply", "throttling", "temperature", "frequency", "load", "pressure", "memory")
    yield from ("disk", "network", "metered", "session", "new_samples", "window", "spacing")
    yield from ("training_time", "traffic", "update_bytes", "energy", "flash", "own_gate")


def test_a_gate_switched_off_is_open_without_a_reading_and_says_so() -> None:
    nothing = replace(Readings(), activity=replace(GOOD.activity, samples=SampleCounts(distinct=32)))
    decision = ask(nothing, LOOSE, minute=None)
    assert decision.eligible
    for name in switched_off():
        assert "switched off" in gate(decision, name).sentence


def test_the_privacy_floor_cannot_be_switched_off() -> None:
    nothing = but(activity={"samples": SampleCounts(new=9, distinct=31)})
    assert ask(nothing, LOOSE).closed == ("distinct_samples",)
