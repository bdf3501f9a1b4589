"""HMAC-SHA256 (RFC 2104): MicroPython has the hash and not this."""

from hashlib import sha256

from micropython import const

_BLOCK = const(64)  # bytes that SHA-256 takes at a time


class Hmac:
    """One key, prepared once: what is left for each message is the hash's own work."""

    def __init__(self, key: bytes) -> None:
        if len(key) > _BLOCK:
            key = sha256(key).digest()
        key = key + bytes(_BLOCK - len(key))
        self._inner = bytes(byte ^ 0x36 for byte in key)
        self._outer = bytes(byte ^ 0x5C for byte in key)

    def digest(self, *parts: bytes) -> bytes:
        """Return the 32 bytes of these parts, one after the other."""
        inner = sha256(self._inner)
        for part in parts:
            inner.update(part)
        outer = sha256(self._outer)
        outer.update(inner.digest())
        return outer.digest()


def hmac(key: bytes, *parts: bytes) -> bytes:
    """Return the 32 bytes of these parts under a key that is needed once."""
    return Hmac(key).digest(*parts)


def equal(one: bytes, other: bytes) -> bool:
    """Compare in a time that does not tell where they differ."""
    if len(one) != len(other):
        return False
    differ = 0
    for i in range(len(one)):
        differ |= one[i] ^ other[i]
    return not differ
