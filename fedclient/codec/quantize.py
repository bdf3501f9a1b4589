"""The values of a dense body: int8 with one scale per tensor, and back.

    scale = max |v| of the tensor / 127 in float32, q = round-half-to-even(v / scale), -127..127.
    So the largest |q| of each tensor with a nonzero q is exactly 127, and decoders insist on it.
    Rounding can lengthen the vector a little, so a receiver's bound on the norm needs slack.
A scale is a positive normal float32, and 127 times it is finite.  Where the encoder's would be
smaller, those values count as zeros; where it would be larger, it is clamped.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fedclient.errors import CodecError

PEAK: Final = 127  # -128 is not used: the range is symmetric
# Subnormal numbers lose bits, and some boards flush them to zero.
SCALE_MIN: Final = float(np.finfo(np.float32).tiny)
SCALE_MAX: Final = float(np.nextafter(np.finfo(np.float32).max / np.float32(PEAK), np.float32(0)))


def _peaks(magnitudes: NDArray[Any], counts: NDArray[np.intp]) -> NDArray[Any]:
    """Find the largest of `magnitudes` [n] of each tensor, [S]."""
    return np.maximum.reduceat(magnitudes, counts.cumsum() - counts)


def to_int8(
    values: NDArray[np.float32], counts: NDArray[np.intp]
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantise finite `values` [n], of which each tensor has the next `counts[s]` >= 1.

    Returns q [n], zeros included, and each tensor's scale [S], 0 where all its q are 0.
    """
    scales: NDArray[np.float32] = _peaks(np.abs(values), counts) / np.float32(PEAK)
    scales = scales.clip(max=np.float32(SCALE_MAX))
    scales[scales < SCALE_MIN] = 0
    divisors = np.where(scales > 0, scales, np.float32(np.inf))
    return np.rint(values / np.repeat(divisors, counts)).astype(np.int8), scales


def from_int8(
    quantized: NDArray[np.int8], counts: NDArray[np.intp], scales: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the values [n] of `quantized` [n] under `scales` [S]: float32 products."""
    values: NDArray[np.float32] = np.repeat(scales, counts)
    values *= quantized
    return values


def write_scales(scales: NDArray[np.float32]) -> bytes:
    """Write those of `scales` that are not 0, as little-endian float32."""
    return scales[scales > 0].astype("<f4").tobytes()


def read_int8_scales(
    data: bytes, quantized: NDArray[np.int8], counts: NDArray[np.intp]
) -> NDArray[np.float32]:
    """Read the scales [S] of `quantized` [n], which `data` holds without the zeros.

    Raises CodecError for a tensor whose largest |q| is neither 127 nor 0, for a scale out of
    range, and for too few or too many of them.
    """
    largest = _peaks(np.abs(quantized).view(np.uint8), counts).tolist()
    if not set(largest) <= {0, PEAK}:  # |-128| is 128 here
        raise CodecError("the body has a tensor whose int8 values do not peak at 127 or -127")
    scales = np.array(largest, dtype=np.float32)
    scales[scales > 0] = read_scales(data, largest.count(PEAK))
    return scales


def read_scales(data: bytes, count: int) -> NDArray[np.float32]:
    """Read `count` scales, of which `data` consists.

    Raises CodecError for another length, and for one that is not a positive normal number of
    which 127 are finite.
    """
    if len(data) != 4 * count:
        raise CodecError(f"the body ends with {len(data)} bytes where {count} scales of 4 bytes belong")
    scales = np.frombuffer(data, dtype="<f4").astype(np.float32, copy=False)
    if not all(SCALE_MIN <= scale <= SCALE_MAX for scale in scales.tolist()):  # NaN fails too
        raise CodecError("the body has a scale that is not a positive normal number in range")
    return scales
