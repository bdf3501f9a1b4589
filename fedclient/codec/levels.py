"""Magnitudes as levels of a tail that starts at a known threshold.

What top-k chose has no magnitude below the threshold t, many just above it and few far away.  So the cells
start at t and grow by a constant factor, which comes near Lloyd and Max's quantiser for exponential and for
heavy tails; cells of one width up to the largest would leave nearly all values in the first.

    cell j of at most 2^(bits - 1)    its width is step * growth^j, and cell 0 starts at t
    point j, what it stands for       point 0 = first, point j+1 = point j + gap * growth^j, in float64;
                                      each is then rounded to float32

    first    23 bits: the bits of a float32 without its sign and without its last 8
    then, unless every value is in cell 0:
    gap      15 bits: the bits of a float32 without its sign and without its last 16
    growth   6 bits, g: growth = 1 + (4 + g % 4) * 2^(g // 4 - 13)

All three are cut, never rounded up; first and gap are normal numbers.  Points come from additions and
multiplications alone, in the order above, so every machine has the same ones.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fedclient.codec.bits import BitReader, BitWriter
from fedclient.errors import CodecError

TINY: Final = float(np.finfo(np.float32).tiny)  # subnormal numbers lose bits, and some boards flush them
_LARGEST: Final = float(np.finfo(np.float32).max)
_GROWTHS: Final = 64
_GROWTH: Final[NDArray[np.float64]] = np.array(
    [(4 + g % 4) * 2.0 ** (g // 4 - 13) for g in range(_GROWTHS)]
)  # less 1
_FIRST_BITS: Final = 23
_GAP_BITS: Final = 15
_CLOSE: Final = 2.0**-22  # relative: float32 has 2^-23
_POINTS: Final = 128  # at most
_LESS: Final = 0.4  # levels; what float32 rounds off is less, and both together are less than a level
_SEARCHED: Final = 1024  # values; fewer are searched for, one by one
_FEW: Final = 4  # levels
_FINE: Final = 16  # levels that are always worth their table, and a level more for
_VALUES: Final = 8  # values each: finer, and the table costs more than the values gain
_CUTS: Final = np.array([1.0, 0.7, 0.5, 0.35, 0.25, 0.17, 0.12, 0.08])  # of the range, where levels are few


@dataclass(frozen=True, kw_only=True, slots=True)
class Codebook:
    """A quantiser: where its points are."""

    first: float
    gap: float  # 0: there is one point
    growth: int  # g

    def points(self, count: int) -> NDArray[np.float32]:
        """Return the first `count` points; raises CodecError unless they are finite and none is twice."""
        points = _points(self.first, self.gap, self.growth)[:count]
        if points[-1] > _LARGEST:
            raise CodecError("the body has a level beyond float32")
        found: NDArray[np.float32] = points.astype(np.float32)
        if not (found[1:] > found[:-1]).all():
            raise CodecError("the body has two levels of one value")
        return found


@lru_cache(maxsize=1)  # an encoder needs them for all levels, then for those in use
def _points(first: float, gap: float, growth: int) -> NDArray[np.float64]:
    points = np.full(_POINTS, 1.0 + float(_GROWTH[growth]))
    points[:2] = first, gap
    np.multiply.accumulate(points[1:], out=points[1:])
    return np.add.accumulate(points, out=points)


def cut(value: float, bits: int) -> float:
    """Cut a positive float32 to what fits `bits` bits, but not below the least normal number."""
    return _from_bits(_to_bits(min(max(value, TINY), _LARGEST), bits), bits)


def cut_first(value: float) -> float:
    """Cut a positive float32 to what a codebook can say of its first point."""
    return cut(value, _FIRST_BITS)


def cut_gaps(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cut positive float32 to what a codebook can say of its gap."""
    bits = np.clip(values, TINY, _LARGEST).astype(np.float32).view(np.uint32)
    lost = np.uint32(31 - _GAP_BITS)
    return (bits >> lost << lost).view(np.float32).astype(np.float64)


@lru_cache(maxsize=32)
def steps(growth: int, count: int) -> NDArray[np.float64]:
    """Return where `count` cells of this growth begin, and points lie, in gaps from the first."""
    found, gap = [0.0], 1.0
    for _ in range(count - 1):
        found.append(found[-1] + gap)
        gap *= 1.0 + float(_GROWTH[growth])
    table = np.array(found)
    table.flags.writeable = False
    return table


def write_float(out: BitWriter, value: float, bits: int) -> None:
    """Write a positive float32 that `cut` returned."""
    out.number(_to_bits(value, bits), bits)


def read_float(source: BitReader, bits: int) -> float:
    """Read a positive float32; raises CodecError for one that is not normal."""
    value = _from_bits(source.number(bits), bits)
    if not TINY <= value <= _LARGEST:  # NaN fails too
        raise CodecError("the body has a scale that is not a positive normal number")
    return value


def quantise(magnitudes: NDArray[np.float32], bits: int) -> tuple[NDArray[np.int64], Codebook]:
    """Quantise finite `magnitudes` [n >= 1], the largest normal: the level of each, and the codebook."""
    threshold = float(magnitudes.min())
    excess = magnitudes.astype(np.float64) - threshold
    largest = float(excess.max())
    levels = min(1 << (bits - 1), max(_FINE, 1 << (magnitudes.size // _VALUES | 1).bit_length() - 1))
    step, growth = _cells(excess, largest, levels)
    rate = float(_GROWTH[growth])
    if step < max(TINY, (threshold + largest) * _CLOSE):  # float32 would hardly tell the points apart
        return np.zeros(magnitudes.size, dtype=np.int64), Codebook(
            first=cut(mean(magnitudes), _FIRST_BITS), gap=0.0, growth=0
        )
    gap = cut(min(step * (1 + rate / 2), _LARGEST), _GAP_BITS)
    book = Codebook(first=cut(threshold + step / 2, _FIRST_BITS), gap=gap, growth=growth)
    return _nearest(magnitudes, book, levels), book


def write(out: BitWriter, book: Codebook, *, single: bool) -> None:
    """Write a codebook, `single`: of which one point is used."""
    write_float(out, book.first, _FIRST_BITS)
    if not single:
        write_float(out, book.gap, _GAP_BITS)
        out.number(book.growth, 6)


def read(source: BitReader, *, single: bool) -> Codebook:
    """Read a codebook, `single`: of one point."""
    first = read_float(source, _FIRST_BITS)
    if single:
        return Codebook(first=first, gap=0.0, growth=0)
    return Codebook(first=first, gap=read_float(source, _GAP_BITS), growth=source.number(6))


def _nearest(magnitudes: NDArray[np.float32], book: Codebook, levels: int) -> NDArray[np.int64]:
    """Return the level [n] nearest to each magnitude: how many midpoints between points are not above it.

    A logarithm inverts the sum of growing gaps, in a fifth of the time of a search.  It is taken as a little
    less, so it finds the level or the one below, and a comparison tells, however a machine rounds.
    """
    points = book.points(levels).astype(np.float64)
    between = (points[1:] + points[:-1]) / 2
    if magnitudes.size < _SEARCHED:
        return between.searchsorted(magnitudes, side="right").astype(np.int64, copy=False)
    rate = float(_GROWTH[book.growth])
    with np.errstate(over="ignore"):  # infinity is beyond the last level, too
        grown = (magnitudes - np.float32(book.first)) / np.float32(book.gap)
        grown *= np.float32(rate)
    grown += np.float32(1)
    np.maximum(grown, np.float32(1), out=grown)
    guess = np.log(grown, out=grown)
    guess *= np.float32(1 / math.log1p(rate))
    guess += np.float32(1 - _LESS - math.log1p(rate / 2) / math.log1p(rate))
    np.minimum(guess, np.float32(levels - 1), out=guess)
    found: NDArray[np.int64] = guess.astype(np.int64)  # toward 0
    least = np.append(between, np.inf).astype(np.float32)  # of the level above
    least[:-1] = np.where(least[:-1] < between, np.nextafter(least[:-1], np.float32(np.inf)), least[:-1])
    found += least[found] <= magnitudes
    return found


@lru_cache(maxsize=8)
def _shares(levels: int) -> NDArray[np.float64]:
    """Return the step of each growth, as a share of the range of `levels` cells, a power of two."""
    power: NDArray[np.float64] = 1 + _GROWTH
    for _ in range(levels.bit_length() - 1):
        power = power * power  # growth^levels; by squarings, as libraries differ in powers
    found: NDArray[np.float64] = _GROWTH / (power - 1)
    found.flags.writeable = False
    return found


def _cells(excess: NDArray[np.float64], largest: float, levels: int) -> tuple[float, int]:
    """Choose step and growth; where levels are few, it can pay to leave the far tail to the last one."""
    if levels > _FEW:
        return _least(excess, largest, levels)[1:]
    best = (math.inf, 0.0, 0)
    for part in _CUTS:
        reach = largest * part
        inside = np.minimum(excess, reach)
        error, step, growth = _least(inside, reach, levels)
        best = min(best, (error + mean(np.square(excess - inside)), step, growth))
    return best[1:]


def _least(excess: NDArray[np.float64], reach: float, levels: int) -> tuple[float, float, int]:
    """Find step and growth of the least squared error where cells end at `reach`: the error, and both.

    Cell widths are step + rate * excess, so the mean of their squares needs two moments only.
    """
    average, square = mean(excess), mean(np.square(excess))
    steps = reach * _shares(levels)
    errors = steps * (steps + 2 * average * _GROWTH) + square * _GROWTH * _GROWTH
    index = int(errors.argmin())
    return float(errors[index]) / 12, float(steps[index]), index


def mean(values: NDArray[np.floating[Any]]) -> float:
    """Return the mean of `values` [n >= 1] in float64; of few, in a fifth of the time of `numpy.mean`."""
    return float(np.add.reduce(values, dtype=np.float64)) / values.size


def _to_bits(value: float, bits: int) -> int:
    return int.from_bytes(struct.pack(">f", value), "big") >> (31 - bits)


def _from_bits(number: int, bits: int) -> float:
    (value,) = struct.unpack(">f", (number << (31 - bits)).to_bytes(4, "big"))
    return float(value)
