"""Messages down: only our gateway's, only for us, only as they were signed (PROTOCOL 3, 6)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedclient.crypto import cose, keys
from fedclient.downlink import DeviceDownlink, GatewayDownlink
from fedclient.errors import CryptoError, WireError
from fedclient.limits import MAX_COMMAND_BYTES, MAX_MANIFEST_BYTES, MAX_RECEIPT_BYTES
from fedclient.values import MessageType
from fedclient.wire import messages
from fedclient.wire.envelope import down_aad, up_aad
from tests.wire.golden import COMMAND, DEVICE, FEDERATION, GATEWAY, MANIFEST, RECEIPT

REFUSED = (WireError, CryptoError)
OTHER = keys.SigningKey(b"o" * 32)
gateway = GatewayDownlink(federation=FEDERATION, key=GATEWAY)
device = DeviceDownlink(federation=FEDERATION, gateway_key=GATEWAY.public)


def open_receipt(data: bytes, end: DeviceDownlink = device, device_id: str = DEVICE.device_id):
    return end.open_receipt(data, device_id)


def open_command(data: bytes, end: DeviceDownlink = device, device_id: str = DEVICE.device_id):
    return end.open_command(data, device_id)


def open_manifest(data: bytes, end: DeviceDownlink = device):
    return end.open_manifest(data)


CASES = pytest.mark.parametrize(
    ("data", "open_", "value"),
    [
        (gateway.receipt(DEVICE.device_id, RECEIPT), open_receipt, RECEIPT),
        (gateway.command(DEVICE.device_id, COMMAND), open_command, COMMAND),
        (gateway.manifest(MANIFEST), open_manifest, MANIFEST),
    ],
    ids=["receipt", "command", "manifest"],
)


@CASES
def test_what_was_signed_opens_and_nothing_else(data, open_, value) -> None:
    assert open_(data) == value
    for at in range(len(data)):
        for bit in (0, 3, 7):
            with pytest.raises(REFUSED):
                open_(data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :])
    for length in range(len(data)):
        with pytest.raises(REFUSED):
            open_(data[:length])
    with pytest.raises(REFUSED):
        open_(data + b"\0")


@CASES
def test_rule_3_another_gateway_or_federation_is_refused(data, open_, value) -> None:
    for end in (
        DeviceDownlink(federation="barn", gateway_key=GATEWAY.public),
        DeviceDownlink(federation=FEDERATION, gateway_key=OTHER.public),
    ):
        with pytest.raises(CryptoError):
            open_(data, end)


@CASES
def test_rule_4_3_bytes_are_the_same_every_time(data, open_, value) -> None:
    """A gateway stores what it signed, and a restart that signed again would still say the same."""
    signs = {open_receipt: gateway.receipt, open_command: gateway.command}
    again = gateway.manifest(value) if value is MANIFEST else signs[open_](DEVICE.device_id, value)
    assert again == data


def test_rule_3_receipts_and_commands_are_for_one_device() -> None:
    with pytest.raises(CryptoError):
        open_receipt(gateway.receipt(OTHER.device_id, RECEIPT))
    with pytest.raises(CryptoError):
        open_command(gateway.command(OTHER.device_id, COMMAND))


def test_rule_3_no_message_is_taken_for_one_of_another_kind_or_direction() -> None:
    receipt, manifest = messages.encode_receipt(RECEIPT), messages.encode_manifest(MANIFEST)
    command, us = messages.encode_command(COMMAND), (FEDERATION, DEVICE.device_id)
    wrong = [
        (receipt, down_aad(MessageType.MANIFEST, FEDERATION, None), open_receipt),
        (receipt, up_aad(MessageType.RECEIPT, (FEDERATION, DEVICE.device_id), GATEWAY.kid), open_receipt),
        (command, down_aad(MessageType.RECEIPT, *us), open_command),
        (command, down_aad(MessageType.COMMAND, FEDERATION, None), open_command),
        (command, up_aad(MessageType.COMMAND, us, GATEWAY.kid), open_command),
        (manifest, down_aad(MessageType.RECEIPT, FEDERATION, DEVICE.device_id), open_manifest),
        (manifest, down_aad(MessageType.MANIFEST, FEDERATION, DEVICE.device_id), open_manifest),
    ]
    for payload, aad, open_ in wrong:
        with pytest.raises(CryptoError):
            open_(cose.sign(GATEWAY, payload, aad, with_kid=True))


def test_rule_3_messages_down_carry_the_kid_of_their_key() -> None:
    aad = down_aad(MessageType.MANIFEST, FEDERATION, None)
    payload = messages.encode_manifest(MANIFEST)
    for message in (cose.sign(GATEWAY, payload, aad), cose.sign(OTHER, payload, aad, with_kid=True)):
        with pytest.raises(CryptoError, match="another key"):
            open_manifest(message)


@pytest.mark.parametrize(
    ("open_", "bound"),
    [
        (open_receipt, MAX_RECEIPT_BYTES),
        (open_command, MAX_COMMAND_BYTES),
        (open_manifest, MAX_MANIFEST_BYTES),
    ],
)
def test_rule_6_size_is_checked_first(open_, bound) -> None:
    with pytest.raises(WireError, match="at most"):
        open_(bytes(bound + 1))


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(junk) -> None:
    for open_ in (open_receipt, open_command, open_manifest):
        with pytest.raises(REFUSED):
            open_(junk)


@given(st.binary(max_size=200))
def test_arbitrary_payloads_with_our_signature_are_wire_errors(junk) -> None:
    signed = cose.sign(GATEWAY, junk, down_aad(MessageType.MANIFEST, FEDERATION, None), with_kid=True)
    with pytest.raises(WireError):
        open_manifest(signed)
