"""The outside of a message to the gateway, and what every signature binds (PROTOCOL 3)."""

from __future__ import annotations

from fedclient.errors import WireError
from fedclient.values import Base, MessageType
from fedclient.wire import cbor

SUITE = 1  # Ed25519 signature (COSE alg -19) inside a libsodium sealed box (X25519, XSalsa20-Poly1305)
FORMAT = b"\x02"  # a compact COSE_Sign1 of `SUITE`; all else is known at both ends, and bound by the aad
_ARRAY_OF_FIVE = b"\x85"  # what the format before began with, CBOR that names type, suite and key


def encode_envelope(sealed: bytes) -> bytes:
    """Return a message to the gateway: one byte of format, then the sealed box."""
    return FORMAT + sealed


def decode_envelope(data: bytes, *, max_bytes: int) -> bytes:
    """Return the sealed box of a message to the gateway; raises WireError."""
    if len(data) > max_bytes:
        raise WireError(f"message has {len(data)} bytes, at most {max_bytes} are allowed here")
    if data[:1] == _ARRAY_OF_FIVE:
        raise WireError("message is in the envelope of an earlier fedclient: update the device's")
    if data[:1] != FORMAT:
        found = f"begins with 0x{data[0]:02x}, expected 0x{FORMAT.hex()}" if data else "is empty"
        raise WireError(f"message {found}")
    return data[1:]


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
