"""COSE_Sign1 (RFC 9052 section 4.2) in the one shape of PROTOCOL 3.

    18([ protected: bstr, unprotected: {}, payload: bstr, signature: bstr of 64 ])

`protected` is {1: -19} from a device and {1: -19, 4: kid} from a gateway: alg Ed25519 (RFC 9864)
and the first 8 bytes of the key's hash.  The signature covers the Sig_structure of section 4.4,
["Signature1", protected, external_aad, payload]; external_aad is what both ends know and nobody
sends.  Nothing else is read: no other header, no other algorithm, no detached payload.

Messages up travel **compact**, as `signature + payload`: the other bytes are the same in all of them.
`expand` gives them back, for whoever wants to verify one with a COSE library of his own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fedclient import limits
from fedclient.crypto import sodium
from fedclient.crypto.keys import SigningKey
from fedclient.errors import CryptoError, WireError
from fedclient.wire import cbor
from fedclient.wire.fields import KID_BYTES

_ALG: Final = cbor.encode({1: -19})
_ALG_AND_KID: Final = cbor.encode({1: -19, 4: bytes(KID_BYTES)})[:-KID_BYTES]  # the kid's bytes follow


@dataclass(frozen=True, kw_only=True, slots=True)
class Unverified:
    """A well-formed message of which nobody knows yet who wrote it: good for looking up a key only."""

    payload: bytes
    kid: bytes | None
    protected: bytes
    signature: bytes

    def verified_by(self, public_key: bytes, aad: bytes) -> bytes:
        """Return the payload if `public_key`'s owner signed it with this `aad`; raises CryptoError if not."""
        sodium.verify(public_key, _to_be_signed(self.protected, aad, self.payload), self.signature)
        return self.payload


def sign(key: SigningKey, payload: bytes, aad: bytes, *, with_kid: bool = False) -> bytes:
    """Return the message that carries `payload`; `with_kid` is for messages down, whose readers pin a key."""
    protected = _ALG_AND_KID + key.kid if with_kid else _ALG
    signature = key.sign(_to_be_signed(protected, aad, payload))
    return _message(protected, payload, signature)


def sign_compact(key: SigningKey, payload: bytes, aad: bytes) -> bytes:
    """Return the compact form of `sign(key, payload, aad)`."""
    return key.sign(_to_be_signed(_ALG, aad, payload)) + payload


def peek_compact(data: bytes) -> Unverified:
    """Take a compact message apart without verifying it; raises CryptoError when it is shorter than any."""
    signature, payload = data[: sodium.SIGNATURE_BYTES], data[sodium.SIGNATURE_BYTES :]
    if len(signature) < sodium.SIGNATURE_BYTES:
        raise CryptoError(f"signed message ends in its signature, after {len(data)} bytes")
    return Unverified(payload=payload, kid=None, protected=_ALG, signature=signature)


def expand(data: bytes) -> bytes:
    """Return the tagged COSE_Sign1, byte for byte, that `data` is the compact form of.

    Raises CryptoError when it is shorter than any.
    """
    found = peek_compact(data)
    return _message(found.protected, found.payload, found.signature)


def verify(public_key: bytes, message: bytes, aad: bytes) -> bytes:
    """Return the payload of `message` if `public_key`'s owner signed it with `aad`, or raise CryptoError."""
    return peek(message).verified_by(public_key, aad)


def peek(message: bytes, max_bytes: int = limits.MAX_UPDATE_BYTES) -> Unverified:
    """Take `message` apart without verifying it, because the aad depends on what the payload claims.

    Raises:
        CryptoError: not a COSE_Sign1 of the shape above.
    """
    try:
        tagged = cbor.decode(message, max_bytes=max_bytes)
    except WireError as error:
        raise CryptoError(f"not a COSE_Sign1 message: {error}") from error
    match tagged:
        case cbor.Tagged(
            tag=cbor.TAG_COSE_SIGN1, value=[bytes(protected), {**headers}, bytes(payload), bytes(signature)]
        ) if not headers:
            kid = _kid(protected)
            return Unverified(payload=payload, kid=kid, protected=protected, signature=signature)
    raise CryptoError("not a COSE_Sign1 message of protected header, empty header, payload and signature")


def _message(protected: bytes, payload: bytes, signature: bytes) -> bytes:
    return cbor.encode(cbor.Tagged(cbor.TAG_COSE_SIGN1, [protected, {}, payload, signature]))


def _kid(protected: bytes) -> bytes | None:
    """Return the kid in a protected header, None without one; raises CryptoError for any other header."""
    if protected == _ALG:
        return None
    if protected.startswith(_ALG_AND_KID) and len(protected) == len(_ALG_AND_KID) + KID_BYTES:
        return protected[-KID_BYTES:]
    raise CryptoError(
        "protected header of the message is not alg -19 (Ed25519), with or without an 8-byte kid"
    )


def _to_be_signed(protected: bytes, aad: bytes, payload: bytes) -> bytes:
    """Build the Sig_structure of RFC 9052 section 4.4."""
    return cbor.encode(["Signature1", protected, aad, payload])
