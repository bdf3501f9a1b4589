from __future__ import annotations

import pytest

from fedclient.gateway.commands import HEARD_S, Pause
from fedclient.gateway.roster import Standing
from fedclient.values import Command, CommandKind, HeadVersion, Phase, Status

PAUSE, RESUME = CommandKind.PAUSE, CommandKind.RESUME
NOW_S = 1_700_000_000


@pytest.fixture
def one(farm):
    (device,) = farm.devices(1)
    return device.id


def give(farm, devices, kind, seconds=0, at_s=NOW_S):
    with farm.store.transaction():
        return farm.store.commands.give(devices, kind, seconds, at_s)


def heard(farm, device, at_s, gates=(), sequence=1):
    status = Status(
        start=1,
        sequence=sequence,
        phase=Phase.WAITING,
        closed_gates=gates,
        floor=HeadVersion(1, 1),
        software="0.1",
    )
    with farm.store.transaction():
        farm.store.roster.save_status(device, status, at_s)


def test_the_newest_command_of_a_device_is_the_one_that_counts(farm, one):
    commands = farm.store.commands
    assert (commands.newest(), commands.wanted(NOW_S)) == (0, {})
    first = give(farm, [one], PAUSE)
    second = give(farm, [one], RESUME)
    assert second > first
    assert commands.newest() == second
    assert commands.wanted(NOW_S) == {one: Command(sequence=second, kind=RESUME)}


def test_sequences_rise_whatever_the_clock_does(farm, one):
    clocks = (NOW_S, NOW_S, NOW_S - 10**6, 0, NOW_S + 50, NOW_S)
    sequences = [give(farm, [one], PAUSE, at_s=at_s) for at_s in clocks]
    assert sequences == sorted(set(sequences))


def test_a_restored_database_goes_on_above_what_devices_have_seen(farm, one):
    """The counter alone would begin again below it."""
    lost = [give(farm, [one], PAUSE, at_s=NOW_S + second) for second in range(3)]
    farm.store._db.execute("DELETE FROM command")
    assert give(farm, [one], RESUME, at_s=NOW_S + 60) > max(lost)


def test_a_pause_with_an_end_is_wanted_until_then(farm, one):
    give(farm, [one], PAUSE, 60)
    commands = farm.store.commands
    assert commands.wanted(NOW_S + 59)[one].seconds == 60
    assert commands.pauses(NOW_S + 59) == {one: Pause(since_unix_s=NOW_S, until_unix_s=NOW_S + 60)}
    assert commands.wanted(NOW_S + 60) == commands.pauses(NOW_S + 60) == {}


def test_a_pause_without_end_stays(farm, one):
    give(farm, [one], PAUSE)
    later_s = NOW_S + 10**9
    heard(farm, one, later_s)
    assert farm.store.commands.wanted(later_s)[one].kind is PAUSE
    assert farm.store.commands.pauses(later_s) == {one: Pause(since_unix_s=NOW_S, until_unix_s=None)}


def test_a_resume_waits_for_its_device_however_long(farm, one):
    give(farm, [one], RESUME)
    wanted = farm.store.commands.wanted
    assert one in wanted(NOW_S + 10**9), "never heard of since"
    heard(farm, one, NOW_S + HEARD_S)
    assert one in wanted(NOW_S + 10**9), "too early: that may have crossed it"
    for sequence, gates in enumerate((("paused",), ("power", "paused", "load")), start=2):
        heard(farm, one, NOW_S + HEARD_S + 1, gates, sequence)
        assert one in wanted(NOW_S + 10**9), "it has not heard: it is still paused"
    heard(farm, one, NOW_S + HEARD_S + 2, ("power", "unpaused"), sequence=4)
    assert wanted(NOW_S + 10**9) == {}
    assert give(farm, [one], PAUSE, at_s=0) == NOW_S + 1, "the sequence outlives it"


def test_nothing_is_wanted_for_who_was_revoked(farm, one):
    give(farm, [one], PAUSE)
    for standing, still in ((Standing.SUSPENDED, True), (Standing.REVOKED, False)):
        with farm.store.transaction():
            farm.store.roster.set_standing(one, standing)
        assert (one in farm.store.commands.wanted(NOW_S)) is still


def test_many_devices_are_asked_at_once(farm):
    devices = [device.id for device in farm.devices(3)]
    sequence = give(farm, devices, PAUSE, 5)
    expected = Command(sequence=sequence, kind=PAUSE, seconds=5)
    assert farm.store.commands.wanted(NOW_S) == dict.fromkeys(devices, expected)
