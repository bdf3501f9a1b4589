"""The orders in which a body may go through a head, and the segments that its groups are made of.

    1 columns   of a tensor with two or more axes, a segment for each index of the last, as a kernel's classes
    2 rows      of a tensor with two or more axes, a segment for each index of the first

Any other tensor is one segment.  Segments are numbered tensor by tensor, and by the index within each.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fedclient.codec.layout import layout
from fedclient.limits import MAX_SEGMENTS
from fedclient.values import TensorSpec


class Order(IntEnum):
    """How the positions of a body run; the numbers are on the wire."""

    WHOLE = 0  # through the flat head
    COLUMNS = 1
    ROWS = 2


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Segments:
    """S segments of a head: the elements base, base + stride, base + 2 stride ... of the flat vector."""

    base: NDArray[np.int64]  # [S]
    stride: NDArray[np.int64]  # [S]
    size: NDArray[np.int64]  # [S], elements
    tensors: tuple[tuple[int, int, int, int], ...]  # of each: its end, its base, its segments, its first one

    def locate(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the segment [n] and the place in it [n] of increasing flat `indices` [n]."""
        segment, place = np.empty_like(indices), np.empty_like(indices)
        begin = 0
        for end, base, count, first in self.tensors:
            stop = int(indices.searchsorted(end))
            if stop > begin:
                local, stride = indices[begin:stop] - base, int(self.stride[first])
                if stride == 1:  # contiguous segments
                    segment[begin:stop] = local // self.size[first]
                    place[begin:stop] = local - segment[begin:stop] * self.size[first]
                else:
                    place[begin:stop] = local // count
                    segment[begin:stop] = local - place[begin:stop] * count
                segment[begin:stop] += first
            begin = stop
        return segment, place


@lru_cache(maxsize=8)
def segments(tensors: tuple[TensorSpec, ...]) -> dict[Order, Segments]:
    """Cut a head into segments in each order in which they are more than tensors, and not too many."""
    return {order: cut for order in (Order.COLUMNS, Order.ROWS) if (cut := _segments(tensors, order))}


def _segments(tensors: tuple[TensorSpec, ...], order: Order) -> Segments | None:
    bounds = layout(tensors).bounds.tolist()
    counts = [_count(tensor, order) for tensor in tensors]
    if not len(tensors) < sum(counts) <= MAX_SEGMENTS:
        return None
    base: list[int] = []
    stride: list[int] = []
    sizes: list[int] = []
    parts = []
    for number, (tensor, count) in enumerate(zip(tensors, counts, strict=True)):
        size = tensor.size // count
        parts.append((bounds[number + 1], bounds[number], count, len(base)))
        apart = order is Order.COLUMNS and count > 1
        base += [bounds[number] + index * (1 if apart else size) for index in range(count)]
        stride += [count if apart else 1] * count
        sizes += [size] * count
    return Segments(
        base=np.array(base, dtype=np.int64),
        stride=np.array(stride, dtype=np.int64),
        size=np.array(sizes, dtype=np.int64),
        tensors=tuple(parts),
    )


def _count(tensor: TensorSpec, order: Order) -> int:
    if len(tensor.shape) < 2:
        return 1
    return tensor.shape[-1 if order is Order.COLUMNS else 0]
