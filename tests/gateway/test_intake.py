from __future__ import annotations

import logging
import random
from dataclasses import replace

import pytest

from fedclient.crypto import keys
from fedclient.gateway import releases
from fedclient.gateway.intake import RETRY_WINDOW_S, Mail
from fedclient.gateway.roster import Standing
from fedclient.limits import COUNTER_MAX, MAX_UPDATE_BYTES
from fedclient.uplink import DeviceUplink, envelope_hash
from fedclient.values import HeadVersion, Judgement, MessageType, Reason, ReceiptStatus, Update, Verdict
from fedclient.wire import cbor
from tests.gateway.harness import FEDERATION, PLAN, SETTINGS, Device, Farm, body, content

UNOPENABLE = (ReceiptStatus.REFUSED, Reason.UNOPENABLE, 0)


def answer(farm, device, envelope):
    """The one answer to an envelope: (status, reason, counter)."""
    farm.settle(device)
    receipt = device.receipt_for(envelope)
    return None if receipt is None else (receipt.status, receipt.reason, receipt.counter)


def standing(farm, device):
    return farm.store.roster.device(device.id).standing


# --- PROTOCOL 3: the envelope and the order of checks ------------------------------------------------
def judged(farm, device, envelope):
    """Hand an envelope to the intake itself: thousands of them need no broker."""
    gateway = farm.gateway
    mail = Mail(device_id=device.id, kind=MessageType.UPDATE, payload=envelope, wire_bytes=len(envelope))
    with farm.store.transaction():
        raw = gateway._intake.update(mail, gateway._collection, farm.now_s)
    farm.now_s += 60  # the token buckets fill up again
    assert raw is not None
    receipt = device._downlink.open_receipt(raw, device.id)
    assert receipt.envelope_hash == envelope_hash(envelope)
    return receipt


def uniform(receipt):
    """All that tells one receipt from another, but for the envelope's own hash."""
    return replace(receipt, envelope_hash=bytes(32))


def test_rule_3_a_bit_flipped_anywhere_is_answered_uniformly_and_never_counted(farm):
    (device,) = farm.devices(1)
    good = device.pack()
    seen = set()
    for at in range(len(good)):
        flipped = bytearray(good)
        flipped[at] ^= 1 << (at % 8)
        seen.add(uniform(judged(farm, device, bytes(flipped))))
    print(f"{len(good)} flipped envelopes, {len(farm.store.ledger())} accepted, {len(seen)} kinds of answer")
    (only,) = seen
    assert (only.status, only.reason, only.counter) == UNOPENABLE
    assert farm.store.ledger() == []
    assert answer(farm, device, device.send(good)) == (ReceiptStatus.COUNTED, Reason.NONE, 1), "still alive"


def test_rule_3_an_envelope_cut_at_any_length_is_answered_uniformly_and_never_counted(farm):
    (device,) = farm.devices(1)
    good = device.pack()
    seen = {uniform(judged(farm, device, good[:length])) for length in range(len(good))}
    seen |= {uniform(judged(farm, device, good + b"\0"))}
    (only,) = seen
    assert (only.status, only.reason, only.counter) == UNOPENABLE
    assert farm.store.ledger() == []
    assert answer(farm, device, device.send(good)) == (ReceiptStatus.COUNTED, Reason.NONE, 1), "still alive"


def test_rule_3_the_envelope_of_earlier_versions_gets_the_one_answer_and_a_sentence_in_the_log(farm, caplog):
    (device,) = farm.devices(1)
    earlier = cbor.encode([1, int(MessageType.UPDATE), 1, farm.desk.sealing.kid, bytes(200)])
    with caplog.at_level(logging.INFO):
        assert answer(farm, device, device.send(earlier)) == UNOPENABLE
    assert f"device {device.id}: refused unopened: message is in the envelope of an earlier" in caplog.text


def test_rule_3_on_another_devices_topic_nothing_is_accepted(farm):
    device, other = farm.devices(2)
    envelope = device.send(device.pack(), as_id=other.id)
    assert answer(farm, other, envelope) == UNOPENABLE
    assert farm.store.ledger() == []


def test_rule_3_sealed_for_another_gateway_nothing_is_accepted(farm):
    (device,) = farm.devices(1)
    stranger = DeviceUplink(
        federation=FEDERATION, key=device.key, gateway_sealing_key=keys.SealingKey.generate().public
    )
    update = Update(
        counter=1, head_version=device.base().head_version, bucket=5, accuracy_percent=None, body=body(1)
    )
    assert answer(farm, device, device.send(stranger.update(update, device.base()))) == UNOPENABLE


def test_rule_3_the_signature_binds_what_does_not_travel(farm):
    (device,) = farm.devices(1)
    base = device.base()
    for wrong in (
        replace(base, head_hash=bytes(32)),
        replace(base, plan_hash=bytes(32)),
    ):
        assert answer(farm, device, device.update(base=wrong)) == UNOPENABLE
    other = DeviceUplink(federation="barn", key=device.key, gateway_sealing_key=farm.desk.sealing.public)
    update = Update(counter=9, head_version=base.head_version, bucket=5, accuracy_percent=None, body=body(1))
    assert answer(farm, device, device.send(other.update(update, base))) == UNOPENABLE
    assert farm.store.ledger() == []


def test_rule_3_signed_with_another_key_nothing_is_accepted(farm):
    (device,) = farm.devices(1)
    forger = Device(farm.broker, farm.desk, 77)
    forger.manifest = device.manifest
    envelope = forger.send(forger.pack(), as_id=device.id)
    assert answer(farm, device, envelope) == UNOPENABLE


def test_rule_3_unknown_ids_get_silence(farm):
    stranger = Device(farm.broker, farm.desk, 99)
    farm.settle(stranger)
    envelopes = [stranger.update(), stranger.send(b"garbage"), stranger.status()]
    stranger.send(b"garbage", MessageType.ENROL)
    farm.settle(stranger)
    assert stranger.raw == []
    assert all(farm.store.roster.receipt(stranger.id, envelope_hash(one)) is None for one in envelopes)


def test_rule_3_size_cap_comes_first(farm):
    (device,) = farm.devices(1)
    assert answer(farm, device, device.send(bytes(MAX_UPDATE_BYTES + 1))) == UNOPENABLE


def test_rule_3_answers_to_garbage_run_out_and_updates_do_not(farm):
    (device,) = farm.devices(1)
    for number in range(100):
        device.send(number.to_bytes(4, "big"))
    farm.run(0.0)
    device.listen()
    assert len(device.receipts) == farm.settings.answers_per_device_per_minute
    assert answer(farm, device, device.update()) == (ReceiptStatus.COUNTED, Reason.NONE, 1)


def test_rule_3_replays_run_out_and_updates_do_not(farm):
    (device,) = farm.devices(1)
    known = device.update(body=b"")
    farm.settle(device)
    for _ in range(100):
        device.send(known)
    update = device.update()
    farm.run(0.0)
    device.listen()
    assert len(device.raw) == 1 + farm.settings.answers_per_device_per_minute + 1
    assert device.receipt_for(update).status is ReceiptStatus.COUNTED


def test_rule_3_nothing_unverified_leaves_a_trace(farm):
    (device,) = farm.devices(1)
    garbage = device.send(b"garbage")
    assert answer(farm, device, garbage) == UNOPENABLE
    assert farm.store.roster.receipt(device.id, envelope_hash(garbage)) is None


# --- PROTOCOL 4: counting exactly once ---------------------------------------------------------------
def test_rule_4_2_same_hash_gets_the_first_receipt_again(farm):
    devices = farm.devices(3)
    first = devices[0].update()
    farm.settle(*devices)
    raw = devices[0].raw[-1]
    for device in devices[1:]:
        device.update()
    farm.settle(*devices)
    assert devices[0].manifest.head_version == HeadVersion(1, 2)
    for _ in range(3):  # versions later, and after a restart
        devices[0].send(first)
        farm.settle(*devices)
        farm.restart()
    assert set(devices[0].raw) == {raw}
    assert len([row for row in farm.store.ledger() if row[0] == devices[0].id]) == 1


def test_rule_4_2_a_replay_of_an_older_envelope_is_no_conflict(farm):
    devices = farm.devices(3)
    old = devices[0].update()
    for device in devices[1:]:
        device.update()
    farm.settle(*devices)
    devices[0].update()
    for _ in range(5):
        devices[0].send(old)
    farm.settle(*devices)
    assert standing(farm, devices[0]) is Standing.ACTIVE
    assert farm.store.alarms() == []


@pytest.mark.parametrize("counter", [1, 2])
def test_rule_4_2_an_old_counter_in_a_new_envelope_is_a_conflict_and_an_alarm(farm, counter):
    (device,) = farm.devices(1)
    farm.settle(device)
    device.counter = 1
    assert answer(farm, device, device.update())[0] is ReceiptStatus.COUNTED  # its counter is 2
    clone = device.update(counter=counter, body=body(7))
    assert answer(farm, device, clone) == (ReceiptStatus.REFUSED, Reason.CONFLICT, counter)
    assert device.receipt_for(clone).last_counter == 2
    ((_, who, _),) = farm.store.alarms()
    assert who == device.id
    assert len(farm.store.ledger()) == 1


def test_rule_4_2_a_replayed_conflict_is_one_conflict(farm):
    (device,) = farm.devices(1)
    device.update()
    clone = device.update(counter=1, body=body(7))
    for _ in range(5):
        assert answer(farm, device, device.send(clone))[1] is Reason.CONFLICT
    assert len(farm.store.alarms()) == 1
    assert standing(farm, device) is Standing.ACTIVE


def test_rule_4_2_the_third_conflict_suspends_and_a_person_reinstates(farm):
    (device,) = farm.devices(1)
    device.counter = 4
    device.update()
    for number in (1, 2, 3):
        assert standing(farm, device) is Standing.ACTIVE
        conflict = device.update(counter=number, body=body(number))
        assert answer(farm, device, conflict)[1] is Reason.CONFLICT
    assert standing(farm, device) is Standing.SUSPENDED
    refused = device.update()
    assert answer(farm, device, refused) == (ReceiptStatus.REFUSED, Reason.REVOKED, 6)
    with farm.store.transaction():
        farm.store.roster.set_standing(device.id, Standing.ACTIVE)
    assert answer(farm, device, device.send(refused))[1] is Reason.REVOKED, "the first receipt, for ever"
    # what it had in the buffer counts still: it was authentic and the only one on that base
    assert answer(farm, device, device.update())[:2] == (ReceiptStatus.NOT_COUNTED, Reason.CLOSED)


def test_rule_4_2_at_most_one_counted_update_per_base(farm):
    (device,) = farm.devices(1)
    device.update()
    again = device.update()
    assert answer(farm, device, again) == (ReceiptStatus.NOT_COUNTED, Reason.CLOSED, 2)
    assert len(farm.store.ledger()) == 1


def test_rule_4_2_at_most_one_counted_update_per_base_across_versions(tmp_path):
    farm = Farm(tmp_path / "gateway", publish=False)
    releases.publish(farm.desk, content(replace(PLAN, max_staleness=3)))
    devices = farm.devices(3)
    old = devices[0].base()
    for device in devices:
        device.update()
    farm.settle(*devices)
    assert devices[0].manifest.head_version.version == 2
    again = devices[0].update(base=old)
    assert answer(farm, devices[0], again)[:2] == (ReceiptStatus.NOT_COUNTED, Reason.CLOSED)


def test_rule_4_2_the_largest_counter_is_fine(farm):
    (device,) = farm.devices(1)
    assert answer(farm, device, device.update(counter=COUNTER_MAX))[0] is ReceiptStatus.COUNTED


def test_rule_4_3_late(farm):
    devices = farm.devices(4)
    late = devices[3].pack()
    for device in devices[:3]:
        device.update()
    farm.settle(*devices)
    assert answer(farm, devices[3], devices[3].send(late)) == (ReceiptStatus.NOT_COUNTED, Reason.LATE, 1)
    assert devices[3].receipt_for(late).current == HeadVersion(1, 2)


def test_rule_4_3_generation(farm):
    (device,) = farm.devices(1)
    old = device.pack()
    releases.rollback(farm.desk, 1)
    assert answer(farm, device, device.send(old)) == (ReceiptStatus.NOT_COUNTED, Reason.GENERATION, 1)
    assert farm.store.roster.device(device.id).last_counter == 1


def test_rule_4_3_generation_that_nobody_can_verify_is_not_stored(farm):
    (device,) = farm.devices(1)
    unknown = replace(device.base(), head_version=HeadVersion(0, 9))
    envelope = device.update(base=unknown)
    assert answer(farm, device, envelope) == (ReceiptStatus.NOT_COUNTED, Reason.GENERATION, 0)
    assert farm.store.roster.receipt(device.id, envelope_hash(envelope)) is None


def test_rule_4_3_a_head_above_ours_is_deferred(farm):
    (device,) = farm.devices(1)
    for version in (HeadVersion(1, 2), HeadVersion(2, 1)):
        envelope = device.update(base=replace(device.base(), head_version=version))
        assert answer(farm, device, envelope) == (ReceiptStatus.DEFER, Reason.NONE, 0)
        low, high = device.receipt_for(envelope).retry_window_s
        assert 0 < low < high


def test_rule_4_3_a_version_of_this_generation_that_never_was_is_refused(farm):
    (device,) = farm.devices(1)
    envelope = device.update(base=replace(device.base(), head_version=HeadVersion(1, 0)))
    assert answer(farm, device, envelope) == UNOPENABLE


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"body": body(1, norm=40.0)}, Reason.NORM),
        ({"body": body(1)[:-1]}, Reason.SHAPE),
        ({"body": b""}, Reason.SHAPE),
        ({"bucket": 14}, Reason.SAMPLES),
        ({"epochs": 2}, Reason.SAMPLES),
    ],
)
def test_rule_4_3_refused_for_what_it_claims(farm, fields, reason):
    (device,) = farm.devices(1)
    assert answer(farm, device, device.update(**fields)) == (ReceiptStatus.REFUSED, reason, 1)
    assert farm.store.ledger() == []
    assert answer(farm, device, device.update()) == (ReceiptStatus.COUNTED, Reason.NONE, 2)


def test_rule_4_3_a_settled_receipt_carries_the_pace_and_keeps_it(tmp_path):
    paced = replace(SETTINGS, pace_min_s=60, pace_max_s=600)
    farm = Farm(tmp_path / "gateway", paced)
    counted, refused, stranger = farm.devices(3)
    good, bad = counted.update(), refused.update(body=b"\x07")
    deferred = stranger.update(base=replace(stranger.base(), head_version=HeadVersion(1, 9)))
    farm.settle(counted, refused, stranger)
    assert counted.receipt_for(good).status is ReceiptStatus.COUNTED
    assert counted.receipt_for(good).retry_window_s == (60, 600)
    assert refused.receipt_for(bad).reason is Reason.SHAPE
    assert refused.receipt_for(bad).retry_window_s == (60, 600)
    assert stranger.receipt_for(deferred).status is ReceiptStatus.DEFER
    assert stranger.receipt_for(deferred).retry_window_s == RETRY_WINDOW_S
    enrolment = stranger.enrol(farm.token())
    farm.settle(stranger)
    assert stranger.receipt_for(enrolment).retry_window_s == (0, 0), "who is new need not rest"

    farm.settings = SETTINGS  # the owner changes his mind: what was answered is answered the same
    farm.restart()
    first = list(counted.raw)
    counted.send(good)
    later = counted.update()
    farm.settle(counted)
    assert set(counted.raw[len(first) :]) >= set(first)
    assert counted.receipt_for(good).retry_window_s == (60, 600)
    assert counted.receipt_for(later).retry_window_s == (0, 0)


def test_rule_7_revocation_is_checked_on_arrival(farm):
    (device,) = farm.devices(1)
    with farm.store.transaction():
        farm.store.roster.set_standing(device.id, Standing.REVOKED)
    assert answer(farm, device, device.update()) == (ReceiptStatus.REFUSED, Reason.REVOKED, 1)


# --- PROTOCOL 8: statuses ----------------------------------------------------------------------------
def test_rule_8_the_newest_status_is_kept(farm):
    (device,) = farm.devices(1)
    old = device.status(sequence=1)
    device.status(sequence=2)
    device.send(old, MessageType.STATUS)
    farm.settle(device)
    kept = farm.store.roster.statuses()[device.id]
    assert (kept["sequence"], kept["phase"], kept["closed_gates"]) == (2, "idle", "power")
    assert device.receipts == []


def kept_previous(farm):
    return Judgement(head_version=farm.store.current(), verdict=Verdict.KEPT_PREVIOUS)


def test_rule_8_the_newest_verdict_is_kept_and_nothing_follows_from_it(farm):
    (device,) = farm.devices(1)
    adopted = Judgement(head_version=HeadVersion(1, 1), verdict=Verdict.ADOPTED)
    old = device.status(sequence=1, judgement=kept_previous(farm))
    device.status(sequence=2, judgement=adopted)
    device.send(old, MessageType.STATUS)
    device.status(sequence=3)  # it says nothing new
    device.status(
        sequence=4, judgement=replace(adopted, head_version=HeadVersion(3, 9))
    )  # there is none such
    farm.settle(device)
    assert farm.store.verdicts.last() == {device.id: adopted}
    assert farm.store.current() == HeadVersion(1, 1)


@pytest.mark.parametrize("used_before", [False, True])
def test_most_devices_keep_the_previous_head_is_one_warning(farm, caplog, used_before):
    """Where apps have none so far, there is nothing to go back to: it is told, and is no warning."""
    caplog.set_level(logging.INFO)
    devices = farm.devices(4)
    if used_before:
        adopted = Judgement(head_version=farm.store.current(), verdict=Verdict.ADOPTED)
        devices[0].status(sequence=1, judgement=adopted)
        farm.settle(devices[0])
    devices[0].counter += 1
    releases.publish(farm.desk, content())
    farm.settle(*devices)
    level, words = (
        ("WARNING", "keep the head before") if used_before else ("INFO", "found it no better than chance")
    )

    def warnings(device, **fields):
        device.counter += 1
        device.status(sequence=device.counter, **fields)
        farm.settle(device)
        told = [one for one in caplog.records if "3 of 3 devices" in one.getMessage()]
        assert {one.levelname for one in told} <= {level}
        return [one.getMessage() for one in told]

    for device in devices[:2]:
        assert warnings(device, judgement=kept_previous(farm)) == [], "two are too few"
    assert len(warnings(devices[2], judgement=kept_previous(farm))) == 1
    (said,) = warnings(devices[3], judgement=kept_previous(farm))
    assert f": 3 of 3 devices {words}" in said
    farm.restart()
    assert len(warnings(devices[3], judgement=kept_previous(farm))) == 1, "once, whatever happens"
    releases.publish(farm.desk, content())
    farm.settle(*devices)
    for device in devices[:2]:
        warnings(device, judgement=kept_previous(farm))
    assert len(warnings(devices[2], judgement=kept_previous(farm))) == 2, "another version"


def test_rule_8_a_damaged_status_gets_the_uniform_answer(farm):
    (device,) = farm.devices(1)
    assert answer(farm, device, device.send(b"garbage", MessageType.STATUS)) == UNOPENABLE


def test_rule_4_6_a_floor_that_cannot_be_is_an_alarm_and_stops_nothing(farm):
    (device,) = farm.devices(1)
    device.status(floor=HeadVersion(1, 2**62))
    farm.settle(device)
    assert [who for _, who, _ in farm.store.alarms()] == [device.id]
    assert answer(farm, device, device.update())[0] is ReceiptStatus.COUNTED


def test_rule_4_6_a_revoked_devices_floor_counts_for_nothing(farm):
    (device,) = farm.devices(1)
    with farm.store.transaction():
        farm.store.roster.set_standing(device.id, Standing.REVOKED)
    device.status(floor=HeadVersion(1, 5))
    farm.settle(device)
    assert farm.store.seen() == HeadVersion(0, 0)


def test_random_bytes_never_get_in(farm):
    (device,) = farm.devices(1)
    numbers = random.Random(3)
    for _ in range(300):
        receipt = judged(farm, device, numbers.randbytes(numbers.randrange(200)))
        assert (receipt.status, receipt.reason, receipt.counter) == UNOPENABLE
