"""The orders in which a body may go through a head, and the segments that its groups are made of.

    1 columns   of a tensor with two or more axes, a segment for each index of the last, as a kernel's classes
    2 rows      of a tensor with two or more axes, a segment for each index of the first

Any other tensor is one segment.  Segments are numbered tensor by tensor, and by the index within each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedclient.codec.layout import layout
from fedclient.limits import MAX_SEGMENTS
from fedclient.values import TensorSpec

_SMALL: Final = 1 << 15  # elements


class Order(IntEnum):
    """How the positions of a body run; the numbers are on the wire."""

    WHOLE = 0  # through the flat head
    COLUMNS = 1
    ROWS = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """The segments that one tensor has in one order."""

    first: np.uint32  # the number of the first
    divisor: np.uint32  # of an element's place in the tensor
    columns: bool  # the remainder tells the segment, else the quotient
    single: bool  # there is one segment only


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Segments:
    """S segments of a head: the elements base, base + stride, base + 2 stride ... of the flat vector."""

    base: NDArray[np.int64]  # [S]
    stride: NDArray[np.int64]  # [S]
    size: NDArray[np.int64]  # [S], elements
    bounds: NDArray[np.int64]  # [T + 1], of the tensors
    parts: tuple[_Part, ...]  # [T]

    def locate(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        """Return the segment [n] and the place in it [n] of increasing flat `indices` [n]."""
        segment, place = np.empty(indices.size, dtype=np.uint32), np.empty(indices.size, dtype=np.uint32)
        for number, at, local in _by_tensor(indices, self.bounds):
            part = self.parts[number]
            quotient = local // part.divisor
            rest = local - quotient * part.divisor
            segment[at], place[at] = (rest, quotient) if part.columns else (quotient, rest)
            segment[at] += part.first
        return segment, place


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Survey:
    """The segments of all orders that a head has, numbered through."""

    cuts: dict[Order, Segments]
    bounds: NDArray[np.int64]  # [T + 1], of the tensors
    parts: list[list[_Part]]  # [T, orders], with numbers of all orders
    begins: NDArray[np.intp]  # [orders], where those of each order begin
    size: NDArray[np.float64]  # [all], elements
    doublings: NDArray[np.float64]  # [all], log2(e size)
    table: NDArray[np.uint32] | None = None  # [orders, P], of a small head: divisions would take longer

    def locate(self, indices: NDArray[np.int64]) -> NDArray[np.uint32]:
        """Return the segment of increasing flat `indices` [n] in each order, [orders, n]."""
        if self.table is not None:
            return self.table.take(indices, axis=1)
        found = np.empty((len(self.cuts), indices.size), dtype=np.uint32)
        for number, at, local in _by_tensor(indices, self.bounds):
            divisor, quotient = None, local
            for row, part in zip(found, self.parts[number], strict=True):
                if part.single:
                    row[at] = part.first
                    continue
                if part.divisor != divisor:  # a matrix has the same for columns and rows
                    divisor, quotient = part.divisor, local // part.divisor
                segment = local - quotient * part.divisor if part.columns else quotient
                np.add(segment, part.first, out=row[at])
        return found


def _by_tensor(
    indices: NDArray[np.int64], bounds: NDArray[np.int64]
) -> Iterator[tuple[int, slice, NDArray[np.uint32]]]:
    """Yield each tensor that has some of increasing flat `indices`: its number, which, their places in it."""
    narrow = indices.astype(np.uint32)  # several times as fast to divide
    begin = 0
    for number, stop in enumerate(indices.searchsorted(bounds[1:]).tolist()):
        if stop > begin:
            at = slice(begin, stop)
            yield number, at, narrow[at] - np.uint32(bounds[number])
        begin = stop


@lru_cache(maxsize=8)
def segments(tensors: tuple[TensorSpec, ...]) -> dict[Order, Segments]:
    """Cut a head into segments in each order in which they are more than tensors, and not too many."""
    return {order: cut for order in (Order.COLUMNS, Order.ROWS) if (cut := _segments(tensors, order))}


@lru_cache(maxsize=8)
def survey(tensors: tuple[TensorSpec, ...]) -> Survey | None:
    """Number the segments of all orders through; None where the head has no order but the flat one."""
    cuts = segments(tensors)
    if not cuts:
        return None
    orders = list(cuts.values())
    lengths = np.array([cut.size.size for cut in orders])
    begins = lengths.cumsum() - lengths
    parts = [
        [replace(part, first=np.uint32(begin + part.first)) for begin, part in zip(begins, own, strict=True)]
        for own in zip(*(cut.parts for cut in orders), strict=True)
    ]
    size = np.concatenate([cut.size for cut in orders]).astype(np.float64)
    found = Survey(
        cuts=cuts,
        bounds=orders[0].bounds,
        parts=parts,
        begins=begins,
        size=size,
        doublings=np.log2(math.e * size),
    )
    elements = int(found.bounds[-1])
    return found if elements > _SMALL else replace(found, table=found.locate(np.arange(elements)))


def _segments(tensors: tuple[TensorSpec, ...], order: Order) -> Segments | None:
    bounds = layout(tensors).bounds
    counts = [_count(tensor, order) for tensor in tensors]
    if not len(tensors) < sum(counts) <= MAX_SEGMENTS:
        return None
    base: list[int] = []
    stride: list[int] = []
    sizes: list[int] = []
    parts = []
    for begin, tensor, count in zip(bounds.tolist(), tensors, counts, strict=False):
        size = tensor.size // count
        columns = order is Order.COLUMNS and count > 1
        divisor = np.uint32(count if columns else size)
        parts.append(_Part(first=np.uint32(len(base)), divisor=divisor, columns=columns, single=count == 1))
        base += [begin + index * (1 if columns else size) for index in range(count)]
        stride += [count if columns else 1] * count
        sizes += [size] * count
    return Segments(
        base=np.array(base, dtype=np.int64),
        stride=np.array(stride, dtype=np.int64),
        size=np.array(sizes, dtype=np.int64),
        bounds=bounds,
        parts=tuple(parts),
    )


def _count(tensor: TensorSpec, order: Order) -> int:
    if len(tensor.shape) < 2:
        return 1
    return tensor.shape[-1 if order is Order.COLUMNS else 0]
