"""The outside of a message, and what signatures bind (PROTOCOL 3)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedclient.errors import WireError
from fedclient.values import Base, HeadVersion, MessageType
from fedclient.wire import cbor
from fedclient.wire.envelope import decode_envelope, down_aad, encode_envelope, up_aad

KID = bytes(range(8))
BASE = Base(head_version=HeadVersion(2, 9), head_hash=b"h" * 32, plan_hash=b"p" * 32)
UPDATE = MessageType.UPDATE


def decode(data: bytes) -> bytes:
    return decode_envelope(data, max_bytes=4096)


@given(st.binary())
def test_what_was_written_is_read(sealed) -> None:
    assert decode(encode_envelope(sealed)) == sealed


def test_rule_3_the_envelope_is_one_byte() -> None:
    assert encode_envelope(b"box").hex() == "02" + b"box".hex()


def test_rule_3_any_other_first_byte_is_refused() -> None:
    for first in range(256):
        if first != 2:
            with pytest.raises(WireError, match="earlier fedclient" if first == 0x85 else f"0x{first:02x}"):
                decode(bytes((first,)) + bytes(100))
    with pytest.raises(WireError, match="empty"):
        decode(b"")


def test_rule_3_the_envelope_of_earlier_versions_gets_one_clear_refusal() -> None:
    earlier = cbor.encode([1, int(UPDATE), 1, KID, bytes(300)])
    with pytest.raises(WireError, match=r"envelope of an earlier fedclient: update the device's$"):
        decode(earlier)


def test_rule_3_size_is_checked_first() -> None:
    data = encode_envelope(bytes(100))
    assert decode_envelope(data, max_bytes=len(data)) == bytes(100)
    with pytest.raises(WireError, match="at most"):
        decode_envelope(data, max_bytes=len(data) - 1)


def test_rule_3_the_aad_has_the_protocols_twelve_elements() -> None:
    up = cbor.decode(up_aad(UPDATE, ("farm", "dev"), KID, BASE), max_bytes=500)
    assert up == ["fedclient", 1, 2, 1, "farm", "up", "dev", KID, 2, 9, b"h" * 32, b"p" * 32]
    status = cbor.decode(up_aad(MessageType.STATUS, ("farm", "dev"), KID), max_bytes=500)
    assert status == ["fedclient", 1, 3, 1, "farm", "up", "dev", KID, None, None, None, None]
    receipt = cbor.decode(down_aad(MessageType.RECEIPT, "farm", "dev"), max_bytes=500)
    assert receipt == ["fedclient", 1, 4, 1, "farm", "down", "dev", None, None, None, None, None]
    manifest = cbor.decode(down_aad(MessageType.MANIFEST, "farm", None), max_bytes=500)
    assert manifest == ["fedclient", 1, 5, 1, "farm", "down", None, None, None, None, None, None]
