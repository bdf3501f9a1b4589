"""HMAC-SHA256 (RFC 2104): MicroPython has the hash and not this."""

from hashlib import sha256


def hmac(key: bytes, *parts: bytes) -> bytes:
    """Return the 32 bytes of these parts, one after the other."""
    if len(key) > 64:
        key = sha256(key).digest()
    pad = bytearray(64)
    for i in range(64):
        pad[i] = (key[i] if i < len(key) else 0) ^ 0x36
    inner = sha256(pad)
    for part in parts:
        inner.update(part)
    for i in range(64):
        pad[i] ^= 0x36 ^ 0x5C
    outer = sha256(pad)
    outer.update(inner.digest())
    return outer.digest()


def equal(one: bytes, other: bytes) -> bool:
    """Compare in a time that does not tell where they differ."""
    if len(one) != len(other):
        return False
    differ = 0
    for i in range(len(one)):
        differ |= one[i] ^ other[i]
    return not differ
