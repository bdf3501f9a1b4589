"""Invitations: one string, checked as a whole (PROTOCOL 7)."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedclient.errors import WireError
from fedclient.limits import MAX_INVITATION_CHARS
from fedclient.values import Broker, HeadVersion, Invitation
from fedclient.wire import cbor
from fedclient.wire.invitation import decode_invitation, encode_invitation

INVITATION = Invitation(
    broker=Broker(host="broker.example", port=8883, tls=True),
    federation="farm",
    signing_key=b"s" * 32,
    sealing_key=b"x" * 32,
    token=b"t" * 16,
    expires_unix_s=1_800_000_000,
    floor=HeadVersion(3, 41),
)
PASTED = encode_invitation(INVITATION)
FIELDS = ["h", 1883, False, "farm", b"s" * 32, b"x" * 32, b"t" * 16, 5, 1, 2]
VECTORS = Path(__file__).parent.parent / "vectors" / "messages.json"


def pasted(fields: object) -> str:
    data = cbor.encode(fields)
    checked = data + hashlib.sha256(data).digest()[:4]
    return "fedclient1-" + base64.urlsafe_b64encode(checked).decode().rstrip("=")


def test_rule_7_the_golden_invitation() -> None:
    golden = json.loads(VECTORS.read_text())["invitation"]
    assert golden == PASTED
    assert decode_invitation(golden) == INVITATION


def test_rule_7_one_word_that_a_terminal_does_not_break() -> None:
    assert set(PASTED) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
    assert decode_invitation(f"  {PASTED}\n") == INVITATION


@given(
    port=st.integers(1, 65535),
    tls=st.booleans(),
    keys=st.binary(min_size=80, max_size=80),
    expires=st.integers(0, 2**63 - 1),
    floor=st.tuples(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1)),
)
def test_what_was_written_is_read(port, tls, keys, expires, floor) -> None:
    invitation = Invitation(
        broker=Broker(host="::1", port=port, tls=tls),
        federation="a",
        signing_key=keys[:32],
        sealing_key=keys[32:64],
        token=keys[64:],
        expires_unix_s=expires,
        floor=HeadVersion(*floor),
    )
    assert decode_invitation(encode_invitation(invitation)) == invitation


def test_rule_7_every_typing_mistake_is_found() -> None:
    for at in range(len(PASTED)):
        other = "A" if PASTED[at] != "A" else "B"
        wrong = PASTED[:at] + other + PASTED[at + 1 :]
        try:
            found = decode_invitation(wrong)
        except WireError:
            continue
        assert found == INVITATION, f"character {at}"  # bits that base64 leaves unused
        assert at == len(PASTED) - 1
    for length in range(len(PASTED)):
        with pytest.raises(WireError):
            decode_invitation(PASTED[:length])


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (0, ""), (0, "h" * 256), (0, b"h"),
        (1, 0), (1, 65536), (1, "1883"), (1, True),
        (2, 0), (2, None),
        (3, ""), (3, "Farm"), (3, "f" * 13), (3, "a/b"),
        (4, b"s" * 31), (5, b"x" * 33), (6, b"t" * 15), (6, None),
        (7, -1), (7, 2**63), (7, 1.5),
        (8, -1), (9, 2**63), (9, None),
    ],
)  # fmt: skip
def test_rule_7_a_field_out_of_range_is_refused(place, value) -> None:
    assert decode_invitation(pasted(FIELDS)).federation == "farm"
    with pytest.raises(WireError):
        decode_invitation(pasted([*FIELDS[:place], value, *FIELDS[place + 1 :]]))


@pytest.mark.parametrize("fields", [FIELDS[:-1], [*FIELDS, 1], {1: 2}, None, []])
def test_rule_7_another_structure_is_refused(fields) -> None:
    with pytest.raises(WireError):
        decode_invitation(pasted(fields))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "fedclient1-",
        "fedclient1-ä",
        "fedclient1-A",
        "fedclient2-AAAA",
        PASTED + "A" * MAX_INVITATION_CHARS,
    ],
)
def test_what_is_no_invitation_is_said_so(text) -> None:
    with pytest.raises(WireError, match="invitation"):
        decode_invitation(text)


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=60))
def test_arbitrary_text_raises_nothing_but_wire_errors(text) -> None:
    with pytest.raises(WireError):
        decode_invitation("fedclient1-" + text)
