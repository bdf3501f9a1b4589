"""Feature statistics as they are: the body of an update where a plan says `statistics`.

    body     mode (1 byte: 4), D means, D means of squares (float32, little-endian)

D is the number of elements of `normalize/mean`; `normalize/mean_square` has as many.  The values are a
device's own statistics and no delta: the difference of a small mean square to a base of 1 would have lost
its digits in float32.  The rules of a decoder:

1. The length is 1 + 8 D bytes.
2. Each value is +0 or a normal number.  So a content has one body.
3. A mean of squares is at most the square of `MAX_FEATURE`.
4. It is not below the square of its mean, but for rounding.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedclient.codec.layout import layout
from fedclient.errors import CodecError, DataError
from fedclient.limits import MAX_FEATURE
from fedclient.values import MEAN, MEAN_SQUARE, TensorSpec

_TINY: Final = float(np.finfo(np.float32).tiny)  # below it some boards have zeros
_ROUNDING: Final = 2.0**-20  # relative: both numbers are rounded to float32, and one is squared


@lru_cache(maxsize=8)
def positions(tensors: tuple[TensorSpec, ...]) -> NDArray[np.int64]:
    """Return where mean and mean of squares lie in the flat head, [2, D].

    Raises CodecError for a head without feature statistics.
    """
    bounds = layout(tensors).bounds
    named = {tensor.name: at for at, tensor in enumerate(tensors) if tensor.is_statistic}
    if len(named) != 2 or len({tensors[at].shape for at in named.values()}) != 1:
        raise CodecError(f"the head has no feature statistics: {MEAN} and {MEAN_SQUARE}, of one shape")
    found = np.stack([np.arange(bounds[at], bounds[at + 1]) for at in (named[MEAN], named[MEAN_SQUARE])])
    found.flags.writeable = False
    return found


def pack(vector: NDArray[np.float32], tensors: tuple[TensorSpec, ...]) -> NDArray[np.float32]:
    """Take the statistics [2, D] out of the finite flat `vector` [P], as they will be received.

    Raises DataError for features that are out of bounds.
    """
    values: NDArray[np.float32] = vector[positions(tensors)]
    values[np.abs(values) < _TINY] = 0.0
    if wrong := _broken_rule(values):
        raise DataError(f"{wrong}: scale the features")
    return values


def write(values: NDArray[np.float32]) -> bytes:
    """Write statistics [2, D]."""
    return values.astype("<f4").tobytes()


def read(data: bytes, tensors: tuple[TensorSpec, ...]) -> NDArray[np.float32]:
    """Read statistics [2, D], of which `data` consists; raises CodecError unless every rule above holds."""
    shape = positions(tensors).shape
    if len(data) != 4 * shape[0] * shape[1]:
        raise CodecError(f"the body has {len(data)} bytes where statistics of {shape[1]} features belong")
    values = np.frombuffer(data, dtype="<f4").astype(np.float32, copy=False).reshape(shape)
    zero = values.view(np.uint32) == 0
    if not (zero | (np.abs(values) >= _TINY)).all():  # NaN fails too
        raise CodecError("the body has a statistic that is neither 0 nor a normal number")
    if wrong := _broken_rule(values):
        raise CodecError(f"the body's statistics are impossible: {wrong}")
    return values


def _broken_rule(values: NDArray[np.float32]) -> str:
    """Say what is wrong with statistics [2, D], if anything is."""
    mean, square = values.astype(np.float64)
    if not (square <= MAX_FEATURE**2).all():
        return f"a feature is beyond {MAX_FEATURE:g} on average"
    if not (square >= mean**2 * (1 - _ROUNDING) - _TINY).all():
        return "a mean of squares is below the square of its mean"
    return ""
