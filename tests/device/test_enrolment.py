"""What is kept of an invitation: the same request for ever, and no damaged one (PROTOCOL 7)."""

from __future__ import annotations

import pytest

from fedclient.device import enrolment
from fedclient.errors import StorageDamaged, WireError
from fedclient.uplink import DeviceUplink
from fedclient.wire.invitation import encode_invitation
from tests.wire.golden import DEVICE, FEDERATION, INVITATION, SEALING

PASTED = encode_invitation(INVITATION)
REQUEST = DeviceUplink(federation=FEDERATION, key=DEVICE, gateway_sealing_key=SEALING.public).enrolment(
    b"t" * 16
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "enrolment"


def test_rule_7_the_request_is_identical_however_often_it_is_read(path) -> None:
    assert enrolment.load(path) is None
    enrolment.save(path, f" {PASTED}\n", REQUEST)
    for _ in range(2):
        stored = enrolment.load(path)
        assert stored is not None
        assert (stored.pasted, stored.invitation, stored.request) == (PASTED, INVITATION, REQUEST)
    assert path.stat().st_mode & 0o777 == 0o600


def test_rule_7_damage_anywhere_is_found(path) -> None:
    enrolment.save(path, PASTED, REQUEST)
    data = path.read_bytes()
    for at in range(0, len(data) - 1, 3):
        other = b"B" if data[at : at + 1] != b"B" else b"C"
        path.write_bytes(data[:at] + other + data[at + 1 :])
        with pytest.raises((StorageDamaged, WireError)):
            enrolment.load(path)
    for length in range(0, len(data) - 1, 7):
        path.write_bytes(data[:length])
        with pytest.raises((StorageDamaged, WireError)):
            enrolment.load(path)
    path.write_bytes(bytes(range(256)) * 40)
    with pytest.raises(StorageDamaged):
        enrolment.load(path)
