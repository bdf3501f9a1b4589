"""Values that are integers times a power of two, as one bit string.

count     how many are not 0, in bit_length(size) bits; nothing follows 0
places    `places.py`: order, groups, positions
signs     for each group: a bit for each, 1 = negative (`binary.py`)
numbers   their magnitudes, below 2^24 (`octaves.py`)
apart     1 bit: 0 one step for all, 1 a step for each tensor that has integers, not all the same
steps     8 bits each: the exponent + 126; of the integers of one step at least one is odd

So values have one code, but for the order of places: the coarsest step is the only one.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedclient.codec import binary, golomb, octaves, places
from fedclient.codec.bits import BitReader, BitWriter
from fedclient.codec.layout import layout
from fedclient.codec.segments import Order
from fedclient.errors import CodecError
from fedclient.values import TensorSpec

LEAST_EXPONENT: Final = -126  # of a step; finer ones would be subnormal, and some boards flush those to 0
_EXPONENT_BITS: Final = 8
_OFF_GRID: Final = "the head's values are too far apart, or too near 0, for a grid of 24 bits"
_DOUBLE: Final = 53  # bits of a float64's mantissa

Exponents = NDArray[np.int32]  # of steps: what `frexp` gives and `ldexp` takes on every machine


def write(values: NDArray[np.float64], tensors: tuple[TensorSpec, ...]) -> bytes:
    """Write the flat `values` [n] of `tensors`; raises CodecError where their integers are beyond 24 bits."""
    indices = values.nonzero()[0].astype(np.int64, copy=False)
    values = values[indices]
    if not indices.size:
        return _written(indices, values.astype(np.int64), [], tensors)
    held = layout(tensors).counts(indices)
    lowest = _lowest_bits(values)
    each = np.minimum.reduceat(lowest, held.cumsum() - held)  # the coarsest step of each tensor
    if each.min() < LEAST_EXPONENT:
        raise CodecError(_OFF_GRID)
    found = [
        _written(indices, numbers, steps.tolist(), tensors)
        for steps in ([np.full_like(each, each.min()), each] if (each > each.min()).any() else [each])
        if (numbers := _numbers(values, np.repeat(steps, held))) is not None
    ]
    if not found:
        raise CodecError(_OFF_GRID)
    return min(found, key=len)


def read(data: bytes, tensors: tuple[TensorSpec, ...]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Read where the flat vector of `tensors` is not 0, and what is there: indices [n], values [n].

    Raises CodecError unless they are as `write` has them.
    """
    size = layout(tensors).parameters
    source = BitReader(data)
    count = source.number(size.bit_length())
    if count > size:
        raise CodecError(f"the body declares {count} integers among {size} elements")
    if not count:
        source.end()
        return np.empty(0, dtype=np.int64), np.empty(0)
    indices, groups = places.read(source, count, tensors)
    negative = binary.read_groups(source, groups).view(np.bool_)
    numbers = octaves.read(source, count)
    steps = _read_steps(source, indices, numbers, tensors)
    source.end()
    values = np.ldexp(numbers.astype(np.float64), steps)
    np.negative(values, out=values, where=negative)
    return indices, values


def _lowest_bits(values: NDArray[np.float64]) -> Exponents:
    """Return for each value, none 0, the exponent of the lowest bit that is set in it."""
    mantissas, exponents = np.frexp(values)
    whole = np.ldexp(mantissas, _DOUBLE).astype(np.int64)
    lowest: Exponents = exponents - _DOUBLE + np.frexp((whole & -whole).astype(np.float64))[1] - 1
    return lowest


def _numbers(values: NDArray[np.float64], exponents: Exponents) -> NDArray[np.int64] | None:
    """Return `values` as multiples of 2^exponents; None where some are beyond 24 bits."""
    with np.errstate(over="ignore"):
        numbers = np.ldexp(values, -exponents)
    return None if np.abs(numbers).max() >= 1 << octaves.MAX_BITS else numbers.astype(np.int64)


def _written(
    indices: NDArray[np.int64], numbers: NDArray[np.int64], steps: list[int], tensors: tuple[TensorSpec, ...]
) -> bytes:
    """Write `numbers` [n] at increasing `indices` [n], and the step of each tensor that has some."""
    size = layout(tensors).parameters
    out = BitWriter()
    out.number(indices.size, size.bit_length())
    if indices.size:
        turn, counts = _write_places(out, indices, numbers < 0, tensors)
        numbers = numbers if turn is None else numbers[turn]
        binary.write_groups(out, (numbers < 0).view(np.uint8), counts)
        octaves.write(out, np.abs(numbers))
        apart = len(set(steps)) > 1
        out.number(int(apart), 1)
        for step in steps if apart else steps[:1]:
            out.number(step - LEAST_EXPONENT, _EXPONENT_BITS)
    return out.to_bytes()


def _write_places(
    out: BitWriter, indices: NDArray[np.int64], negative: NDArray[np.bool_], tensors: tuple[TensorSpec, ...]
) -> tuple[NDArray[np.intp] | None, list[int]]:
    size = layout(tensors).parameters
    if 2 * indices.size <= size:
        return places.write(out, indices, negative, tensors)
    out.number(Order.WHOLE, 2)  # groups of what is nearly everywhere save little and take time
    golomb.write(out, indices, size)
    return None, [indices.size]


def _read_steps(
    source: BitReader,
    indices: NDArray[np.int64],
    numbers: NDArray[np.int64],
    tensors: tuple[TensorSpec, ...],
) -> Exponents:
    """Return the exponent [n] of each integer's step."""
    tensor = layout(tensors).bounds.searchsorted(indices, side="right") - 1
    used = np.bincount(tensor, minlength=len(tensors)).nonzero()[0]
    apart = bool(source.number(1))
    steps = [source.number(_EXPONENT_BITS) + LEAST_EXPONENT for _ in (used if apart else used[:1])]
    if apart != (len(set(steps)) > 1):
        raise CodecError("the body has a step for each tensor, and all are the same")
    odd = np.bincount(tensor, weights=numbers & 1, minlength=len(tensors))[used]
    if not (odd.all() if apart else odd.any()):
        raise CodecError("the body has integers that are all even: their step is not the coarsest")
    exponents: Exponents = np.zeros(len(tensors), dtype=np.int32)
    exponents[used] = steps
    found: Exponents = exponents[tensor]
    return found
