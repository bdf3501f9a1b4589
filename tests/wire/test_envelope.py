"""The outside of a message, and what signatures bind (PROTOCOL 3)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedclient.errors import WireError
from fedclient.values import Base, HeadVersion, MessageType
from fedclient.wire import cbor
from fedclient.wire.envelope import Envelope, decode_envelope, down_aad, encode_envelope, up_aad

KID = bytes(range(8))
BASE = Base(head_version=HeadVersion(2, 9), head_hash=b"h" * 32, plan_hash=b"p" * 32)
UPDATE = MessageType.UPDATE


def decode(data: bytes, kind: MessageType = UPDATE) -> Envelope:
    return decode_envelope(data, kind, max_bytes=4096)


@given(kind=st.sampled_from(MessageType), kid=st.binary(min_size=8, max_size=8), sealed=st.binary())
def test_what_was_written_is_read(kind, kid, sealed) -> None:
    envelope = Envelope(type=kind, recipient_kid=kid, sealed=sealed)
    assert decode(encode_envelope(envelope), kind) == envelope


def test_rule_3_the_envelope_is_five_fields() -> None:
    data = encode_envelope(Envelope(type=UPDATE, recipient_kid=KID, sealed=b"box"))
    assert data.hex() == "8501020148" + KID.hex() + "43" + b"box".hex()


@pytest.mark.parametrize(
    "fields",
    [
        [2, 2, 1, KID, b""],
        [1, 2, 2, KID, b""],
        [True, 2, 1, KID, b""],  # equal to 1, and another message by its bytes: a false conflict
        [1, 2, True, KID, b""],
        [1.0, 2, 1, KID, b""],
        [1, 2, 1.0, KID, b""],
        [1, 2.0, 1, KID, b""],
        [1, 1, 1, KID, b""],
        [1, 9, 1, KID, b""],
        [1, True, 1, KID, b""],
        [1, 2, 1, KID[1:], b""],
        [1, 2, 1, None, b""],
        [1, 2, 1, KID, "box"],
        [1, 2, 1, KID],
        [1, 2, 1, KID, b"", None],
        {1: 1},
        None,
    ],
)
def test_rule_3_any_other_envelope_is_refused(fields) -> None:
    for kind in (UPDATE, MessageType.ENROL):
        if kind is UPDATE or fields != [1, 1, 1, KID, b""]:
            with pytest.raises(WireError):
                decode(cbor.encode(fields), kind)


def test_rule_3_size_is_checked_first() -> None:
    data = encode_envelope(Envelope(type=UPDATE, recipient_kid=KID, sealed=bytes(100)))
    with pytest.raises(WireError, match="at most"):
        decode_envelope(data, UPDATE, max_bytes=len(data) - 1)


@given(st.binary(max_size=60))
def test_arbitrary_bytes_raise_nothing_but_wire_errors(data) -> None:
    with pytest.raises(WireError):
        decode(data)


def test_rule_3_the_aad_has_the_protocols_twelve_elements() -> None:
    up = cbor.decode(up_aad(UPDATE, ("farm", "dev"), KID, BASE), max_bytes=500)
    assert up == ["fedclient", 1, 2, 1, "farm", "up", "dev", KID, 2, 9, b"h" * 32, b"p" * 32]
    status = cbor.decode(up_aad(MessageType.STATUS, ("farm", "dev"), KID), max_bytes=500)
    assert status == ["fedclient", 1, 3, 1, "farm", "up", "dev", KID, None, None, None, None]
    receipt = cbor.decode(down_aad(MessageType.RECEIPT, "farm", "dev"), max_bytes=500)
    assert receipt == ["fedclient", 1, 4, 1, "farm", "down", "dev", None, None, None, None, None]
    manifest = cbor.decode(down_aad(MessageType.MANIFEST, "farm", None), max_bytes=500)
    assert manifest == ["fedclient", 1, 5, 1, "farm", "down", None, None, None, None, None, None]
