"""Increasing positions as Golomb-Rice coded gaps (Golomb 1966; Rice and Plaunt 1971), vectorised.

    gap i      = position i - position (i-1) - 1, with position -1 = -1; so 0 is the least
    block      = parameter r (1 byte), then one bit string, most significant bit first,
                 padded with zero bits to a whole byte:
                 n remainders of r bits each (gap mod 2^r), then
                 n quotients in unary (gap >> r zero bits, then a one bit)

Remainders and quotients apart cost no bit more than alternating, and need no loop per element.
The parameter is the smallest r with the smallest bit string.  One step from r to r+1 adds n bits and
saves sum((gap + 2^r) >> (r+1)), which only falls with r: so the first r that saves at most n is the
best one, and a decoder can check that with two sums.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedclient.errors import CodecError


def _gains(gaps: NDArray[np.int64], parameter: int) -> bool:
    """Whether `parameter` + 1 gives a shorter bit string than `parameter`."""
    saved = np.add.reduce((gaps + (1 << parameter)) >> (parameter + 1))
    return bool(saved > gaps.size)


def _gaps(positions: NDArray[np.int64]) -> NDArray[np.int64]:
    gaps = positions.copy()
    gaps[1:] -= positions[:-1] + 1
    return gaps


def best_parameter(gaps: NDArray[np.int64]) -> int:
    """Find the smallest Rice parameter that gives the shortest bit string."""
    parameter = 0
    while _gains(gaps, parameter):
        parameter += 1
    return parameter


def encode(positions: NDArray[np.int64]) -> bytes:
    """Encode increasing `positions` [n], n >= 1, as a block."""
    gaps = _gaps(positions)
    parameter = best_parameter(gaps)
    places = np.arange(parameter - 1, -1, -1)
    remainders = (gaps[:, np.newaxis] >> places) & 1
    ends = ((gaps >> parameter) + 1).cumsum() - 1 + remainders.size
    bits = np.zeros(ends[-1] + 1, dtype=np.uint8)
    bits[: remainders.size] = remainders.ravel()
    bits[ends] = 1
    return bytes([parameter]) + np.packbits(bits).tobytes()


def decode(block: bytes, count: int, size: int) -> tuple[NDArray[np.int64], int]:
    """Decode `count` >= 1 positions below `size` from the start of `block`.

    Returns the positions [count], strictly increasing, and the bytes read.  Unpacks no more
    than the block has and `count` positions can need.

    Raises CodecError for a block that is cut off, has another parameter than the encoder's,
    positions beyond `size`, or nonzero padding.
    """
    if not block or block[0] >= size.bit_length():
        raise CodecError("the body's Rice parameter is missing or too large for this head")
    parameter = block[0]
    fixed = count * parameter
    if fixed + count > 8 * (len(block) - 1):
        raise CodecError(f"the body is too short for the {count} positions it declares")
    longest = (fixed + count + ((size - 1) >> parameter) + 7) // 8
    packed = np.frombuffer(block, dtype=np.uint8, offset=1, count=min(len(block) - 1, longest))
    bits = np.unpackbits(packed)
    ends = bits[fixed:].nonzero()[0]
    if ends.size < count:
        raise CodecError(f"the body ends before the last of the {count} positions it declares")
    used = (fixed + int(ends[count - 1]) + 8) // 8
    if ends.size > count and ends[count] < 8 * used - fixed:
        raise CodecError("the body has nonzero padding after its positions")
    positions = _positions(bits[:fixed].reshape(count, parameter), ends[:count])
    if positions[-1] >= size:
        raise CodecError(f"the body has position {positions[-1]}, the head has {size} parameters")
    gaps = _gaps(positions)
    if _gains(gaps, parameter) or (parameter and not _gains(gaps, parameter - 1)):
        raise CodecError(f"the body's Rice parameter {parameter} is not the one encoders choose")
    return positions, 1 + used


def _positions(remainders: NDArray[np.uint8], ends: NDArray[np.intp]) -> NDArray[np.int64]:
    """Sum up gaps of bits [n, r] and unary ends [n]; fits 64 bits as n, quotients and 2^r are bounded."""
    count, parameter = remainders.shape
    ordinal = np.arange(count, dtype=np.int64)
    quotients = ends - ordinal  # already summed up, as each end counts all zeros before it
    low = remainders @ (1 << np.arange(parameter - 1, -1, -1, dtype=np.int64))
    positions: NDArray[np.int64] = (quotients << parameter) + low.cumsum() + ordinal
    return positions
