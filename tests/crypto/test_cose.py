"""COSE_Sign1: one shape is read, and only what its signer signed comes out."""

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import VerifyKey

from fedclient.crypto import cose, keys
from fedclient.errors import CryptoError
from fedclient.wire import cbor

KEY = keys.SigningKey(bytes(range(32)))
OTHER = keys.SigningKey(bytes(32))
AAD = b"what both ends know"
UP = cbor.encode({1: -19})
DOWN = cbor.encode({1: -19, 4: KEY.kid})


@given(st.binary(max_size=300), st.binary(max_size=100), st.booleans())
def test_a_payload_comes_back_from_its_signer_alone(payload: bytes, aad: bytes, with_kid: bool) -> None:
    message = cose.sign(KEY, payload, aad, with_kid=with_kid)
    assert cose.verify(KEY.public, message, aad) == payload
    assert cose.peek(message).verified_by(KEY.public, aad) == payload
    assert cose.peek(message).payload == payload
    assert cose.peek(message).kid == (KEY.kid if with_kid else None)
    for public, wrong_aad in ((OTHER.public, aad), (KEY.public, aad + b"\x00"), (KEY.public[:31], aad)):
        with pytest.raises(CryptoError):
            cose.verify(public, message, wrong_aad)


def test_golden_message() -> None:
    head = "d28443a10132a04268695840"
    assert cose.sign(KEY, b"hi", b"").hex().startswith(head)
    head = "d2844da201320448" + KEY.kid.hex() + "a04268695840"
    assert cose.sign(KEY, b"hi", b"", with_kid=True).hex().startswith(head)
    assert cose._to_be_signed(UP, b"aad", b"hi").hex() == "846a5369676e61747572653143a1013243616164426869"


@pytest.mark.parametrize("with_kid", [False, True])
def test_every_flipped_bit_and_every_cut_is_refused(with_kid: bool) -> None:
    message = cose.sign(KEY, b"payload", AAD, with_kid=with_kid)
    flipped = (
        message[:at] + bytes((message[at] ^ 1 << bit,)) + message[at + 1 :]
        for at in range(len(message))
        for bit in range(8)
    )
    refused = 0
    for bad in (*flipped, *(message[:size] for size in range(len(message))), message + b"\x00"):
        with pytest.raises(CryptoError):
            cose.verify(KEY.public, bad, AAD)
        refused += 1
    assert refused == 9 * len(message) + 1


def signed(protected: bytes, unprotected: object = None, payload: object = b"p") -> object:
    """A message of another shape whose signature is nevertheless right."""
    signature = KEY.sign(cbor.encode(["Signature1", protected, AAD, payload]))
    return cbor.Tagged(18, [protected, {} if unprotected is None else unprotected, payload, signature])


OTHER_SHAPES = {
    "alg EdDSA (-8)": signed(cbor.encode({1: -8})),
    "alg ES256": signed(cbor.encode({1: -7})),
    "no alg": signed(cbor.encode({})),
    "empty protected": signed(b""),
    "protected of two items": signed(UP + b"\x00"),
    "protected in another order": signed(bytes.fromhex("a20448") + KEY.kid + bytes.fromhex("0132")),
    "a third header": signed(cbor.encode({1: -19, 3: 0, 4: KEY.kid})),
    "crit": signed(cbor.encode({1: -19, 2: [4]})),
    "short kid": signed(cbor.encode({1: -19, 4: KEY.kid[:7]})),
    "long kid": signed(cbor.encode({1: -19, 4: KEY.kid + b"\x00"})),
    "cut kid": signed(DOWN[:-1]),
    "kid and more": signed(DOWN + b"\x00"),
    "alg in both headers": signed(UP, {1: -19}),
    "kid unprotected": signed(UP, {4: KEY.kid}),
    "unprotected is a list": signed(UP, []),
    "unprotected is null": cbor.Tagged(18, [UP, None, b"p", bytes(64)]),
    "detached payload": signed(UP, payload=None),
    "text payload": signed(UP, payload="p"),
    "no tag": signed(UP).value,
    "another tag": cbor.Tagged(85, signed(UP).value),
    "tagged twice": cbor.Tagged(18, signed(UP)),
    "three elements": cbor.Tagged(18, signed(UP).value[:3]),
    "five elements": cbor.Tagged(18, [*signed(UP).value, b""]),
    "protected is a map": cbor.Tagged(18, [{1: -19}, *signed(UP).value[1:]]),
    "short signature": cbor.Tagged(18, [*signed(UP).value[:3], signed(UP).value[3][:63]]),
    "long signature": cbor.Tagged(18, [*signed(UP).value[:3], signed(UP).value[3] + b"\x00"]),
    "a map": {},
    "null": None,
}


def test_the_right_shape_is_accepted() -> None:
    assert cose.verify(KEY.public, cbor.encode(signed(UP)), AAD) == b"p"
    assert cose.verify(KEY.public, cbor.encode(signed(DOWN)), AAD) == b"p"


@pytest.mark.parametrize("name", OTHER_SHAPES)
def test_another_shape_is_refused_even_when_its_signature_is_right(name: str) -> None:
    with pytest.raises(CryptoError):
        cose.verify(KEY.public, cbor.encode(OTHER_SHAPES[name]), AAD)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(CryptoError):
        cose.verify(KEY.public, data, AAD)


def test_peek_is_bounded() -> None:
    message = cose.sign(KEY, bytes(100), AAD)
    assert cose.peek(message, len(message)).payload == bytes(100)
    with pytest.raises(CryptoError, match="at most"):
        cose.peek(message, len(message) - 1)


# --- the compact form -------------------------------------------------------------------------------
@given(st.binary(max_size=300), st.binary(max_size=100))
def test_the_compact_form_is_the_same_message(payload: bytes, aad: bytes) -> None:
    message = cose.sign(KEY, payload, aad)
    short = cose.sign_compact(KEY, payload, aad)
    assert cose.expand(short) == message
    assert len(short) == 64 + len(payload)
    assert cose.peek_compact(short) == cose.peek(message)
    assert cose.peek_compact(short).verified_by(KEY.public, aad) == payload


@pytest.mark.parametrize("size", [0, 23, 24, 255, 256, 65_535, 65_536])
def test_the_expanded_form_verifies_by_the_rfc_alone(size: int) -> None:
    """RFC 9052, 4.2 to 4.4, with cbor2 and PyNaCl and nothing of ours."""
    expanded = cose.expand(cose.sign_compact(KEY, bytes(size), AAD))
    assert expanded[:7].hex() == "d28443a10132a0"
    assert expanded[-66:-64].hex() == "5840"
    message = cbor2.loads(expanded)
    assert message.tag == 18
    protected, unprotected, payload, signature = message.value
    assert cbor2.loads(protected) == {1: -19}
    assert dict(unprotected) == {}
    assert payload == bytes(size)
    to_be_signed = cbor2.dumps(["Signature1", protected, AAD, payload])
    assert VerifyKey(KEY.public).verify(to_be_signed, signature) == to_be_signed


def test_every_flipped_bit_and_every_cut_of_a_compact_message_is_refused() -> None:
    short = cose.sign_compact(KEY, b"payload", AAD)
    flipped = (
        short[:at] + bytes((short[at] ^ 1 << bit,)) + short[at + 1 :]
        for at in range(len(short))
        for bit in range(8)
    )
    for bad in (*flipped, *(short[:size] for size in range(len(short))), short + b"\x00"):
        with pytest.raises(CryptoError):
            cose.peek_compact(bad).verified_by(KEY.public, AAD)


def test_what_is_shorter_than_a_signature_cannot_be_expanded() -> None:
    for size in range(64):
        with pytest.raises(CryptoError, match="ends in its signature"):
            cose.expand(bytes(size))
