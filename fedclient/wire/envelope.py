"""The outside of a message to the gateway, and what every signature binds (PROTOCOL 3)."""

from __future__ import annotations

from dataclasses import dataclass

from fedclient.errors import WireError
from fedclient.values import Base, MessageType
from fedclient.wire import cbor
from fedclient.wire.fields import KID_BYTES, array, octets, typed

SUITE = 1  # Ed25519 signature (COSE alg -19) inside a libsodium sealed box (X25519, XSalsa20-Poly1305)
_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Envelope:
    """The outside of every message to the gateway."""

    type: MessageType
    recipient_kid: bytes
    sealed: bytes


def encode_envelope(envelope: Envelope) -> bytes:
    kind = int(envelope.type)
    return cbor.encode([_VERSION, kind, SUITE, envelope.recipient_kid, envelope.sealed])


def decode_envelope(data: bytes, expected: MessageType, *, max_bytes: int) -> Envelope:
    """Read an envelope of the `expected` type; raises WireError."""
    version, kind, suite, kid, sealed = array(cbor.decode(data, max_bytes=max_bytes), "envelope", 5)
    # as integers: True and 1.0 equal 1, and other bytes for the same message would be another message
    if (typed(version, int, "version"), typed(suite, int, "suite")) != (_VERSION, SUITE):
        raise WireError("envelope has another version or suite than this gateway speaks")
    if typed(kind, int, "type") != expected:
        raise WireError(f"envelope has type {kind}, its topic says {int(expected)}")
    kid_ = octets(kid, "recipient kid", KID_BYTES)
    return Envelope(type=expected, recipient_kid=kid_, sealed=typed(sealed, bytes, "sealed box"))


def up_aad(kind: MessageType, device: tuple[str, str], kid: bytes, base: Base | None = None) -> bytes:
    """`external_aad` of a message up; `device` is (federation, device id)."""
    return _aad(kind, "up", (*device, kid), base)


def down_aad(kind: MessageType, federation: str, device_id: str | None) -> bytes:
    """`external_aad` of a message down; a manifest is for everybody: no device id."""
    return _aad(kind, "down", (federation, device_id, None), None)


def _aad(kind: MessageType, way: str, who: tuple[str, str | None, bytes | None], base: Base | None) -> bytes:
    federation, device_id, kid = who
    bound: list[object] = [None] * 4
    if base is not None:
        version = base.head_version
        bound = [version.generation, version.version, base.head_hash, base.plan_hash]
    return cbor.encode(["fedclient", 1, int(kind), SUITE, federation, way, device_id, kid, *bound])
