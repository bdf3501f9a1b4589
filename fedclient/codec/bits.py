"""One bit string, most significant bit first: written in parts, read in the same order.

Bits are NumPy arrays of one byte each while they are worked on, so a part costs a few vector operations
and no loop over its numbers, and nothing depends on the machine's byte order.

    number   a value in `width` bits, the most significant first
    planes   n values of `width` bits: the most significant bits of all n, then the next of all, and so on
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedclient.errors import CodecError

Bits = NDArray[np.uint8]  # 0 or 1 each

_DIGITS = bytes(byte & 1 for byte in range(256))  # of "0" and "1"


class BitWriter:
    """Collects bits."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []  # a byte for each bit: joined faster than arrays
        self._size = 0

    @property
    def size(self) -> int:
        """Bits written so far."""
        return self._size

    def number(self, value: int, width: int) -> None:
        """Append `value` < 2^width in `width` bits."""
        if width:
            self._parts.append(f"{value:0{width}b}".encode().translate(_DIGITS))
            self._size += width

    def planes(self, values: NDArray[np.integer[Any]], width: int) -> None:
        """Append `values` [n], all < 2^width, in `width` <= 32 bits each."""
        narrow = values.astype(_narrow(width))
        planes = narrow >> _places(width)
        planes &= narrow.dtype.type(1)
        self.bits(planes.astype(np.uint8, copy=False))

    def bits(self, bits: Bits) -> None:
        """Append `bits` as they are."""
        self._parts.append(bits.tobytes())
        self._size += bits.size

    def append(self, other: BitWriter) -> None:
        """Append all that `other` has."""
        self._parts += other._parts
        self._size += other._size

    def to_bytes(self) -> bytes:
        """Return all that was written, with zero bits up to a whole byte."""
        return np.packbits(np.frombuffer(b"".join(self._parts), dtype=np.uint8)).tobytes()


class BitReader:
    """Reads what a stranger wrote; raises CodecError where bits are missing."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8))
        self._at = 0

    @property
    def left(self) -> int:
        """Bits not yet read."""
        return self._bits.size - self._at

    def bits(self, count: int) -> Bits:
        """Read `count` bits."""
        start = self._skip(count)
        found: Bits = self._bits[start : self._at]
        return found

    def ahead(self, count: int) -> Bits:
        """Look at the next `count` bits, or what there is of them."""
        found: Bits = self._bits[self._at : self._at + count]
        return found

    def number(self, width: int) -> int:
        """Read a number of `width` bits."""
        start = self._skip(width)
        octets = self._data[start // 8 : (self._at + 7) // 8]
        return int.from_bytes(octets, "big") >> -self._at % 8 & (1 << width) - 1

    def planes(self, count: int, width: int) -> NDArray[np.int64]:
        """Read `count` values of `width` <= 32 bits each."""
        planes = self.bits(count * width).reshape(width, count).astype(_narrow(width))
        planes <<= _places(width)
        values: NDArray[np.int64] = np.bitwise_or.reduce(planes, axis=0).astype(np.int64)
        return values

    def end(self) -> None:
        """Insist that nothing is left but fewer than 8 zero bits."""
        if self.left >= 8 or self.ahead(8).any():
            raise CodecError("the body goes on after its last value, or its padding is not zero")

    def _skip(self, count: int) -> int:
        if count > self.left:
            raise CodecError(f"the body ends where {count} more bits belong")
        self._at += count
        return self._at - count


def _narrow(width: int) -> np.dtype[np.unsignedinteger[Any]]:
    """Return the least unsigned type of `width` bits: narrow ones are several times as fast."""
    return np.dtype(np.uint8 if width <= 8 else np.uint16 if width <= 16 else np.uint32)


@lru_cache(maxsize=33)
def _places(width: int) -> NDArray[np.unsignedinteger[Any]]:
    """Return how far to shift for each plane, [width, 1]."""
    return np.arange(width - 1, -1, -1, dtype=_narrow(width))[:, np.newaxis]
