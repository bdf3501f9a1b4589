from __future__ import annotations

import pytest

from fedclient.errors import WireError
from fedclient.gateway import enrolment
from fedclient.gateway.roster import Standing
from fedclient.uplink import envelope_hash
from fedclient.values import HeadVersion, MessageType, Reason, ReceiptStatus
from fedclient.wire.invitation import decode_invitation, encode_invitation
from tests.gateway.harness import Device, Farm

ENROLLED = (ReceiptStatus.ENROLLED, Reason.NONE)


def stranger(farm, seed=50):
    device = Device(farm.broker, farm.desk, seed)
    farm.settle(device)
    return device


def answer(farm, device, envelope):
    farm.settle(device)
    receipt = device.receipt_for(envelope)
    return None if receipt is None else (receipt.status, receipt.reason)


def test_rule_7_an_invitation_makes_a_stranger_a_member(farm):
    device = stranger(farm)
    assert answer(farm, device, device.enrol(farm.token())) == ENROLLED
    assert farm.store.roster.device(device.id).public_key == device.key.public
    assert answer(farm, device, device.update())[0] is ReceiptStatus.COUNTED


def test_rule_7_same_token_same_key_the_same_receipt(farm):
    device, token = stranger(farm), farm.token()
    request = device.enrol(token)
    farm.settle(device)
    farm.restart()
    farm.unix_s += 10**7  # long after it expired
    for _ in range(3):
        device.send(request, MessageType.ENROL)
    farm.settle(device)
    assert len(device.raw) == 4
    assert len(set(device.raw)) == 1
    assert answer(farm, device, device.enrol(token)) == ENROLLED, "sealed anew"
    assert len(farm.store.roster.devices()) == 1


def test_rule_7_another_key_is_refused_and_an_alarm(farm):
    first, second, token = stranger(farm, 50), stranger(farm, 51), farm.token()
    first.enrol(token)
    farm.settle(first)
    stolen = second.enrol(token)
    assert answer(farm, second, stolen) == (ReceiptStatus.REFUSED, Reason.INVITATION_USED)
    second.send(stolen, MessageType.ENROL)
    farm.settle(second)
    assert [who for _, who, _ in farm.store.alarms()] == [second.id], "one, however often it asks"
    assert farm.store.roster.device(second.id) is None


def test_rule_7_only_the_gateway_judges_expiry(farm):
    device, token = stranger(farm), farm.token(valid_s=60)
    farm.unix_s += 61
    assert answer(farm, device, device.enrol(token)) == (ReceiptStatus.REFUSED, Reason.INVITATION_EXPIRED)
    assert farm.store.roster.devices() == []


def test_rule_7_an_unknown_token_gets_silence(farm):
    device = stranger(farm)
    assert answer(farm, device, device.enrol(bytes(16))) is None


def test_rule_7_the_token_is_stored_hashed(farm):
    token = farm.token()
    farm.store.close()
    stored = b"".join(path.read_bytes() for path in farm.folder.iterdir())
    assert token not in stored
    assert enrolment.token_hash(token) in stored


def test_rule_7_a_request_proves_possession_of_its_key(farm):
    device, other, token = stranger(farm, 50), stranger(farm, 51), farm.token()
    request = device.uplink.enrolment(token)
    assert answer(farm, other, other.send(request, MessageType.ENROL, as_id=other.id)) is None
    assert farm.store.roster.devices() == []


def test_rule_7_every_damaged_request_enrols_nobody(farm):
    device = stranger(farm)
    good = device.uplink.enrolment(farm.token())
    for at in range(len(good)):
        flipped = bytearray(good)
        flipped[at] ^= 1 << (at % 8)
        device.send(bytes(flipped), MessageType.ENROL)
        device.send(good[:at], MessageType.ENROL)
    farm.settle(device)
    assert (farm.store.roster.devices(), device.raw) == ([], [])
    assert answer(farm, device, device.send(good, MessageType.ENROL)) == ENROLLED


def test_rule_3_garbage_from_an_enrolled_id_gets_the_uniform_answer(farm):
    (device,) = farm.devices(1)
    garbage = device.send(b"garbage", MessageType.ENROL)
    assert answer(farm, device, garbage) == (ReceiptStatus.REFUSED, Reason.UNOPENABLE)


@pytest.mark.parametrize("standing", [Standing.REVOKED, Standing.SUSPENDED])
def test_rule_7_a_revoked_device_does_not_come_back_with_a_new_invitation(farm, standing):
    (device,) = farm.devices(1)
    with farm.store.transaction():
        farm.store.roster.set_standing(device.id, standing)
    token = farm.token()
    assert answer(farm, device, device.enrol(token)) == (ReceiptStatus.REFUSED, Reason.REVOKED)
    assert farm.store.roster.invitation(enrolment.token_hash(token))[1] is None, "good for somebody else"


def test_rule_4_2_a_device_that_is_suspended_hears_so_until_it_is_reinstated(farm):
    device = stranger(farm)
    request = device.enrol(farm.token())
    farm.settle(device)
    first = device.raw[-1]
    with farm.store.transaction():
        farm.store.roster.set_standing(device.id, Standing.SUSPENDED)
    device.receipts.clear()
    assert answer(farm, device, device.send(request, MessageType.ENROL)) == (
        ReceiptStatus.REFUSED,
        Reason.REVOKED,
    )
    with farm.store.transaction():
        farm.store.roster.set_standing(device.id, Standing.ACTIVE)
    device.send(request, MessageType.ENROL)
    farm.settle(device)
    assert device.raw[-1] == first


def test_rule_7_the_roster_row_and_the_receipt_are_one_commit(farm, monkeypatch):
    """A receipt that was sent without its row would be a member that nobody knows."""
    device, token = stranger(farm), farm.token()

    def broken(*_):
        raise RuntimeError("killed here")

    with monkeypatch.context() as patched:
        patched.setattr(type(farm.store.roster), "add_receipt", broken)
        request = device.enrol(token)
        with pytest.raises(RuntimeError):
            farm.run()
    farm.restart()
    assert (farm.store.roster.devices(), device.raw) == ([], [])
    assert answer(farm, device, device.send(request, MessageType.ENROL)) == ENROLLED
    assert farm.store.roster.receipt(device.id, envelope_hash(request)) is not None


def test_an_invitation_names_a_floor_that_lets_the_current_head_in(tmp_path):
    farm = Farm(tmp_path / "gateway")
    invitation = enrolment.invite(farm.desk, bytes(range(16)), 1_800_000_000)
    assert invitation.floor < farm.store.current() <= HeadVersion(1, invitation.floor.version + 1)
    assert decode_invitation(encode_invitation(invitation)) == invitation
    assert invitation.signing_key == farm.desk.signing.public
    with pytest.raises(WireError):
        decode_invitation(encode_invitation(invitation)[:-1])
