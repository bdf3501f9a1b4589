"""Messages up: whatever is changed on the way, nothing comes out of them (PROTOCOL 3)."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedclient import codec, limits
from fedclient.crypto import cose, keys, sodium
from fedclient.errors import CryptoError, UnknownHead, WireError
from fedclient.transport.base import publish_wire_bytes
from fedclient.uplink import MAX_BYTES, DeviceUplink, GatewayUplink, envelope_hash
from fedclient.values import Codec, CodecMode, HeadVersion, MessageType, TensorSpec, Update
from fedclient.wire import cbor, messages
from fedclient.wire.envelope import decode_envelope, down_aad, encode_envelope, up_aad
from fedclient.wire.topics import Topics
from tests.transport.drive import raw_pair, serve
from tests.wire import golden
from tests.wire.golden import BASE, DEVICE, FEDERATION, SEALING, STATUS, UPDATE

REFUSED = (WireError, CryptoError)
OTHER = keys.SigningKey(b"o" * 32)
SENDER = (DEVICE.device_id, DEVICE.public)
TOKEN = b"t" * 16
device = DeviceUplink(federation=FEDERATION, key=DEVICE, gateway_sealing_key=SEALING.public)
gateway = GatewayUplink(federation=FEDERATION, key=SEALING)


def open_update(data: bytes, end: GatewayUplink = gateway, sender=SENDER, base=BASE):
    return end.open_update(data, sender, {BASE.head_version: base}.get)


OPEN = {
    MessageType.UPDATE: open_update,
    MessageType.STATUS: lambda data: gateway.open_status(data, SENDER),
    MessageType.ENROL: lambda data: gateway.open_enrolment(data, DEVICE.device_id),
}
ENVELOPES = {
    MessageType.UPDATE: (device.update(UPDATE, BASE), UPDATE),
    MessageType.STATUS: (device.status(STATUS), STATUS),
    MessageType.ENROL: (device.enrolment(TOKEN), golden.ENROLMENT),
}
KINDS = pytest.mark.parametrize("kind", OPEN, ids=lambda kind: kind.name.lower())


def refused(data: bytes, kind: MessageType) -> None:
    with pytest.raises(REFUSED):
        OPEN[kind](data)


@KINDS
def test_rule_3_what_was_packed_opens(kind) -> None:
    data, value = ENVELOPES[kind]
    assert OPEN[kind](data) == value


@KINDS
def test_rule_3_a_flipped_bit_at_every_byte_is_refused(kind) -> None:
    data, _ = ENVELOPES[kind]
    for at in range(len(data)):
        for bit in (0, 3, 7):
            refused(data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :], kind)


@KINDS
def test_rule_3_truncation_at_every_length_is_refused(kind) -> None:
    data, _ = ENVELOPES[kind]
    for length in range(len(data)):
        refused(data[:length], kind)
    refused(data + b"\0", kind)


@KINDS
@given(junk=st.binary(max_size=120))
def test_arbitrary_bytes_in_the_box_are_refused(kind, junk) -> None:
    for signed in (junk, DEVICE.sign(junk) + junk, bytes(64) + PAYLOADS[kind]):
        refused(encode_envelope(sodium.seal(SEALING.public, signed)), kind)
    refused(junk, kind)


@KINDS
def test_rule_3_what_is_in_the_box_is_refused_cut_flipped_or_longer(kind) -> None:
    """Whoever can seal is anybody: what does not verify is refused behind the seal as before it."""
    whole = SEALING.open(decode_envelope(ENVELOPES[kind][0], max_bytes=5000))
    bad = [whole[:size] for size in range(len(whole))] + [whole + b"\0"]
    bad += [whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :] for at in range(len(whole))]
    for one in bad:
        refused(encode_envelope(sodium.seal(SEALING.public, one)), kind)


@KINDS
def test_rule_3_the_same_content_in_other_bytes_is_refused(kind) -> None:
    """Or the broker could turn one update into two: the second would be a conflict (PROTOCOL 4.2)."""
    data, _ = ENVELOPES[kind]
    for first in range(256):
        if first != data[0]:
            with pytest.raises(WireError):
                OPEN[kind](bytes((first,)) + data[1:])
    refused(data[1:], kind)


@KINDS
def test_rule_3_the_format_of_earlier_versions_is_refused_in_one_sentence(kind) -> None:
    signed_ = cose.sign(DEVICE, PAYLOADS[kind], aad(kind))
    earlier = cbor.encode([1, int(kind), 1, SEALING.kid, sodium.seal(SEALING.public, signed_)])
    with pytest.raises(WireError, match="earlier fedclient"):
        OPEN[kind](earlier)
    refused(encode_envelope(sodium.seal(SEALING.public, signed_)), kind)  # nor in the new envelope


@KINDS
def test_rule_3_one_kind_of_message_is_no_other(kind) -> None:
    for other in OPEN:
        if other is not kind:
            refused(ENVELOPES[kind][0], other)


@KINDS
def test_rule_3_size_is_checked_before_anything_is_read(kind) -> None:
    with pytest.raises(WireError, match="at most"):
        OPEN[kind](bytes(MAX_BYTES[kind] + 1))


@KINDS
def test_rule_3_every_sealing_is_another_but_the_signed_bytes_are_the_same(kind) -> None:
    pack = {
        MessageType.UPDATE: lambda: device.update(UPDATE, BASE),
        MessageType.STATUS: lambda: device.status(STATUS),
        MessageType.ENROL: lambda: device.enrolment(TOKEN),
    }[kind]
    first, second = pack(), pack()
    assert envelope_hash(first) != envelope_hash(second)
    inside = [SEALING.open(decode_envelope(data, max_bytes=5000)) for data in (first, second)]
    assert inside[0] == inside[1]


@pytest.mark.parametrize("size", [0, 1, 200, 255, 256, 20_000, 70_000, 2_200_000])
@pytest.mark.parametrize("counter", [1, 24, limits.COUNTER_MAX])
def test_the_overhead_of_an_update_is_known_before_its_body(size, counter) -> None:
    update = replace(UPDATE, counter=counter)
    sent = device.update(replace(update, body=bytes(size)), BASE)
    topic = Topics(FEDERATION).up(DEVICE.device_id, MessageType.UPDATE)
    assert size + device.overhead_bytes(update, size) == publish_wire_bytes(topic, len(sent), qos=1)


def test_the_table_of_an_updates_bytes_is_what_travels() -> None:
    """docs/wire-format.md, section 4: a packet of paho's, taken apart."""
    page = (Path(__file__).parent.parent / "docs/wire-format.md").read_text()
    section = page.split("### What an update costs")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (\d+) \| ([\w ]+?) \|", section, re.MULTILINE)
    tensors = (TensorSpec(name="bias", shape=(10,)), TensorSpec(name="kernel", shape=(1280, 10)))
    delta = np.random.default_rng(1).laplace(size=12_810).astype(np.float32)
    body = codec.encode(delta, tensors, Codec(mode=CodecMode.TOPK_SIGN)).body
    version = HeadVersion(1, 52)
    update = Update(counter=41, head_version=version, bucket=8, accuracy_percent=91, body=body)
    uplink = replace(device, federation="demo")
    topic = Topics("demo").up(DEVICE.device_id, MessageType.UPDATE)
    with raw_pair() as (broker, transport):
        serve(transport)
        before = transport.sent_bytes
        transport.publish(topic, uplink.update(update, replace(BASE, head_version=version)))
        packet = broker.read_until(transport.sent_bytes)[before:]
    assert packet[3:5] + packet[5:42] == b"\0%c" % len(topic) + topic.encode()
    signed = SEALING.open(packet[45:])
    fields = [cbor.encode(one) for one in (41, 1, 52, 8, 91)]
    assert packet[44:45] + signed[64:] == b"\2" + b"".join(fields) + body
    sealing, signature = len(packet) - 45 - len(signed), len(signed) - len(b"".join(fields)) - len(body)
    found = [3, 2, len(topic), 2, 1, sealing, signature, *map(len, fields), len(body), len(packet)]
    assert [int(size) for size, _ in rows] == found
    assert sum(found[:-1]) == len(packet) == len(body) + uplink.overhead_bytes(update, len(body))


# --- what the signature binds -----------------------------------------------------------------------
def signed(payload: bytes, aad: bytes, key: keys.SigningKey = DEVICE) -> bytes:
    return encode_envelope(sodium.seal(SEALING.public, cose.sign_compact(key, payload, aad)))


PAYLOADS = {
    MessageType.UPDATE: messages.encode_update(UPDATE),
    MessageType.STATUS: messages.encode_status(STATUS),
    MessageType.ENROL: messages.encode_enrolment(golden.ENROLMENT),
}


def aad(kind: MessageType, /, **changed: object) -> bytes:
    bound = {
        "kind": kind,
        "device": (FEDERATION, DEVICE.device_id),
        "kid": SEALING.kid,
        "base": BASE if kind is MessageType.UPDATE else None,
    }
    return up_aad(**(bound | changed))


@KINDS
def test_rule_3_the_aad_binds_all_that_does_not_travel(kind) -> None:
    def outcome(bound: bytes) -> object:
        return OPEN[kind](signed(PAYLOADS[kind], bound))

    assert outcome(aad(kind)) == ENVELOPES[kind][1]
    another = MessageType.STATUS if kind is not MessageType.STATUS else MessageType.UPDATE
    other_base = replace(BASE, head_hash=b"o" * 32) if kind is MessageType.UPDATE else BASE
    for wrong in (
        aad(kind, kind=another),
        aad(kind, device=("barn", DEVICE.device_id)),
        aad(kind, device=(FEDERATION, OTHER.device_id)),
        aad(kind, kid=bytes(8)),
        aad(kind, base=other_base),
        down_aad(kind, FEDERATION, DEVICE.device_id),  # the other direction
        b"",
    ):
        with pytest.raises(CryptoError):
            outcome(wrong)


@pytest.mark.parametrize("changed", ["head_hash", "plan_hash"])
def test_rule_3_an_update_is_bound_to_its_head_and_plan(changed) -> None:
    with pytest.raises(CryptoError):
        open_update(ENVELOPES[MessageType.UPDATE][0], base=replace(BASE, **{changed: b"o" * 32}))


def test_rule_3_an_update_on_a_head_that_was_never_published_is_refused() -> None:
    with pytest.raises(UnknownHead):
        gateway.open_update(ENVELOPES[MessageType.UPDATE][0], SENDER, lambda _: None)


def test_rule_3_another_devices_topic_key_or_id_is_refused() -> None:
    data = ENVELOPES[MessageType.UPDATE][0]
    for sender in (
        (OTHER.device_id, DEVICE.public),
        (DEVICE.device_id, OTHER.public),
        (OTHER.device_id, OTHER.public),
    ):
        with pytest.raises(CryptoError):
            open_update(data, sender=sender)
        with pytest.raises(CryptoError):
            gateway.open_status(ENVELOPES[MessageType.STATUS][0], sender)


@KINDS
def test_rule_3_another_federation_or_gateway_is_refused(kind) -> None:
    data, _ = ENVELOPES[kind]
    for end in (
        GatewayUplink(federation="barn", key=SEALING),
        GatewayUplink(federation=FEDERATION, key=keys.SealingKey(b"z" * 32)),
    ):
        open_ = {
            MessageType.UPDATE: lambda end=end: open_update(data, end),
            MessageType.STATUS: lambda end=end: end.open_status(data, SENDER),
            MessageType.ENROL: lambda end=end: end.open_enrolment(data, DEVICE.device_id),
        }[kind]
        with pytest.raises(REFUSED):
            open_()


@KINDS
def test_rule_3_the_key_of_the_box_is_bound_although_no_message_names_it(kind) -> None:
    """A device signs for one gateway key: who opens it and seals it again for another gets nowhere."""
    other = keys.SealingKey(b"z" * 32)
    inside = SEALING.open(decode_envelope(ENVELOPES[kind][0], max_bytes=5000))
    again = encode_envelope(sodium.seal(other.public, inside))
    end = GatewayUplink(federation=FEDERATION, key=other)
    open_ = {
        MessageType.UPDATE: lambda: open_update(again, end),
        MessageType.STATUS: lambda: end.open_status(again, SENDER),
        MessageType.ENROL: lambda: end.open_enrolment(again, DEVICE.device_id),
    }[kind]
    with pytest.raises(CryptoError, match="signature"):
        open_()


def test_rule_7_a_request_proves_that_its_sender_has_the_key() -> None:
    kind = MessageType.ENROL
    stolen = signed(PAYLOADS[kind], aad(kind), key=OTHER)  # DEVICE's public key, signed by OTHER
    refused(stolen, kind)
    with pytest.raises(CryptoError, match="another device id"):
        gateway.open_enrolment(ENVELOPES[kind][0], OTHER.device_id)


def test_no_update_has_more_than_the_bound_beyond_its_body() -> None:
    most = Update(
        counter=limits.COUNTER_MAX, head_version=HeadVersion(limits.COUNTER_MAX, limits.COUNTER_MAX),
        bucket=limits.MAX_BUCKET, accuracy_percent=100, body=b"", epochs=limits.MAX_EPOCHS,
    )  # fmt: skip
    uplink = replace(device, federation="f" * limits.MAX_FEDERATION_CHARS)
    found = uplink.overhead_bytes(most, limits.MAX_UPDATE_BYTES - 300)
    print(f"{found} bytes")
    assert found <= limits.UPDATE_OVERHEAD_BYTES < limits.UPDATE_BYTES[0] - 30
