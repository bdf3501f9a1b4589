"""Heads on a grid: each value is an integer times a power of two, whole (`full`) or as a change (`delta`).

So a head is the same on every machine, whichever way it came: nothing is ever rounded.

    full     the tensors of feature statistics as float32, little-endian, then the integers of all others
    delta    integers: the change of those tensors that deltas move; all else stays as it is

`integers.py` has the bits.  All that a decoder returns is +0 or a normal float32, and its sums are exact.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedclient.codec import integers
from fedclient.codec.layout import layout
from fedclient.errors import CodecError
from fedclient.values import TensorSpec

_TINY: Final = float(np.finfo(np.float32).tiny)
_LARGEST: Final = float(np.finfo(np.float32).max)


def head_blob(head: NDArray[np.float32], tensors: tuple[TensorSpec, ...]) -> bytes:
    """Encode a whole `head` [P]; raises CodecError unless its values are on grids of 24 bits."""
    _check_canonical(head, tensors)
    on_grid, moved = _parts(tensors, full=True)
    raw = head[~on_grid].astype("<f4").tobytes()
    return raw + integers.write(head[on_grid].astype(np.float64), moved)


def head_from(full: bytes, tensors: tuple[TensorSpec, ...]) -> NDArray[np.float32]:
    """Decode a whole head [P]; raises CodecError unless `full` is as an encoder writes it."""
    head = np.zeros(layout(tensors).parameters, dtype=np.float32)
    on_grid, moved = _parts(tensors, full=True)
    split = 4 * int(np.count_nonzero(~on_grid))
    if len(full) < split:
        raise CodecError(f"the head has {len(full)} bytes where its feature statistics take {split}")
    head[~on_grid] = np.frombuffer(full[:split], dtype="<f4")
    indices, values = integers.read(full[split:], moved)
    whole = np.zeros(np.count_nonzero(on_grid), dtype=np.float32)
    with np.errstate(over="ignore"):  # infinity is refused
        whole[indices] = values
    head[on_grid] = whole
    _check_canonical(head, tensors)
    return head


def delta_blob(
    before: NDArray[np.float32], after: NDArray[np.float32], tensors: tuple[TensorSpec, ...]
) -> bytes:
    """Encode what leads from head `before` [P] to `after` [P].

    Raises CodecError where no delta does: in tensors that none moves, or beyond a grid of 24 bits.
    """
    _check_canonical(after, tensors)
    moves, moved = _parts(tensors, full=False)
    if (before[~moves] != after[~moves]).any():
        raise CodecError("the heads differ in tensors that no delta moves")
    change = after[moves].astype(np.float64) - before[moves]
    if (_exact_sum(before[moves], change) != after[moves]).any():
        raise CodecError("the heads are too far apart for an exact difference")
    return integers.write(change, moved)


def head_after(
    before: NDArray[np.float32], delta: bytes, tensors: tuple[TensorSpec, ...]
) -> NDArray[np.float32]:
    """Return the head [P] that `delta` leads to from the canonical head `before` [P], bit for bit.

    Takes time and memory for what changes, and little for the rest of a large head.
    Raises CodecError unless it is as an encoder writes it, and all sums are exact.
    """
    _check_shape(before, tensors)
    moves, moved = _parts(tensors, full=False)
    indices, change = integers.read(delta, moved)
    head, part = before.copy(), before[moves]
    part[indices] = _exact_sum(part[indices], change)
    _check_values(part[indices])
    head[moves] = part
    return head


@lru_cache(maxsize=8)
def _parts(
    tensors: tuple[TensorSpec, ...], *, full: bool
) -> tuple[NDArray[np.bool_], tuple[TensorSpec, ...]]:
    """Return which elements [P] travel as integers, and the tensors that they are."""
    marks = [not tensor.is_statistic if full else tensor.is_in_deltas for tensor in tensors]
    elements = np.repeat(marks, layout(tensors).sizes)
    elements.flags.writeable = False
    return elements, tuple(one for one, mark in zip(tensors, marks, strict=True) if mark)


def _check_canonical(head: NDArray[np.float32], tensors: tuple[TensorSpec, ...]) -> None:
    _check_shape(head, tensors)
    _check_values(head)


def _check_shape(head: NDArray[np.float32], tensors: tuple[TensorSpec, ...]) -> None:
    if head.shape != (layout(tensors).parameters,) or head.dtype != np.float32:
        raise ValueError(f"want float32 [{layout(tensors).parameters}], got {head.dtype} {list(head.shape)}")


def _check_values(values: NDArray[np.float32]) -> None:
    magnitudes = np.abs(values)
    # Comparisons with NaN fail; the bits of +0 are all 0, those of -0 are not.
    if not ((magnitudes >= _TINY) & (magnitudes <= _LARGEST) | (values.view(np.uint32) == 0)).all():
        raise CodecError("the head has a value that is neither +0 nor a normal number")


def _exact_sum(before: NDArray[np.float32], change: NDArray[np.float64]) -> NDArray[np.float32]:
    """Add in float64, and insist that float32 has the result without rounding."""
    old = before.astype(np.float64)
    total = old + change
    # One of these differences is exact, that with the larger of the two (Dekker 1971).
    exact = (total - old == change) & (total - change == old) & (np.abs(total) <= _LARGEST)
    if not exact.all():
        raise CodecError("the head's new values cannot be had without rounding")
    found = total.astype(np.float32)
    if (found != total).any():
        raise CodecError("the head's new values do not fit float32")
    return found
