from __future__ import annotations

import pytest

from fedclient.gateway.roster import Roster, Standing
from fedclient.gateway.store import Store
from fedclient.values import HeadVersion, Phase, Status


@pytest.fixture
def roster(tmp_path) -> Roster:
    made = Store(tmp_path).roster
    made.enrol("a", b"key", 100.0)
    return made


def test_enrolling_twice_changes_nothing(roster):
    roster.set_standing("a", Standing.SUSPENDED, 3)
    roster.enrol("a", b"other key", 200.0)
    device = roster.device("a")
    assert (device.public_key, device.standing, device.conflicts) == (b"key", Standing.SUSPENDED, 3)
    assert device.enrolled_unix_s == 100
    assert roster.devices() == [device]
    assert roster.device("b") is None


def test_rule_4_2_every_receipt_is_kept_and_the_counter_only_rises(roster):
    for counter in (5, 9, 7):
        roster.add_receipt("a", b"%d" % counter, counter, b"receipt %d" % counter)
    assert [roster.receipt("a", b"%d" % counter) for counter in (5, 7, 9)] == [
        b"receipt 5",
        b"receipt 7",
        b"receipt 9",
    ]
    assert roster.device("a").last_counter == 9
    assert roster.receipt("b", b"5") is None, "a receipt is one device's"


def test_an_envelope_has_one_receipt(roster):
    roster.add_receipt("a", b"hash", 1, b"first")
    with pytest.raises(Exception, match="UNIQUE"):
        roster.add_receipt("a", b"hash", 1, b"second")


def test_statuses_are_ordered_by_start_and_sequence(roster):
    for start, sequence in ((1, 5), (2, 1), (1, 9), (2, 1)):
        status = Status(
            start=start,
            sequence=sequence,
            phase=Phase.TRAINING,
            closed_gates=("a", "b"),
            floor=HeadVersion(0, 0),
            software="1",
        )
        roster.save_status("a", status, 1.0)
    kept = roster.statuses()["a"]
    assert (kept["start"], kept["sequence"], kept["closed_gates"]) == (2, 1, "a b")


def test_invitations(roster):
    roster.add_invitation(b"hash", 99)
    assert roster.invitation(b"hash") == (99, None)
    roster.use_invitation(b"hash", "a")
    assert roster.invitation(b"hash") == (99, "a")
    assert roster.invitation(b"other") is None
