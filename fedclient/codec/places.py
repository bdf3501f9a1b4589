"""Where the n values of a sparse body stand: the order in which it goes through the head, and positions.

    order     2 bits: 0 whole, 1 columns, 2 rows (`segments.py`)
    groups    unless whole: the group of each segment (`symbols.py`), then how many values each group has, but
              for the last, in bit_length(elements of the group) bits
    places    for each group: positions in it (`golomb.py`)

Whole is one group.  The others are numbered by how many segments they have, the most first.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedclient.codec import golomb, symbols
from fedclient.codec.bits import BitReader, BitWriter
from fedclient.codec.grouping import Grouping, arrange, choose
from fedclient.codec.layout import layout
from fedclient.codec.segments import Order, Segments, segments
from fedclient.errors import CodecError
from fedclient.limits import MAX_GROUPS
from fedclient.values import TensorSpec


def write(
    out: BitWriter, indices: NDArray[np.int64], negative: NDArray[np.bool_], tensors: tuple[TensorSpec, ...]
) -> tuple[NDArray[np.intp] | None, list[int]]:
    """Write increasing `indices` [n >= 1], n being told, in the shortest order; signs count for that, too.

    Returns which of `indices` come one after the other [n], None: as they are; and how many each group has.
    """
    size = layout(tensors).parameters
    grouping = choose(indices, negative, tensors, size)
    if grouping is None:
        out.number(Order.WHOLE, 2)
        golomb.write(out, indices, size)
        return None, [indices.size]
    segment, place = segments(tensors)[grouping.order].locate(indices)
    follows = _inverse(grouping.sequence).astype(np.uint16)[segment]  # radix sort is for 16 bits
    turn = np.argsort(follows, kind="stable")
    places = (grouping.starts[segment] + place)[turn]
    begins = np.concatenate(([0], np.cumsum(grouping.sizes)))
    cuts = places.searchsorted(begins)
    counts = (cuts[1:] - cuts[:-1]).tolist()
    out.number(grouping.order, 2)
    symbols.write(out, grouping.labels)
    for count, of in zip(counts[:-1], grouping.sizes, strict=False):
        out.number(count, of.bit_length())
    for number, of in enumerate(grouping.sizes):
        golomb.write(out, places[cuts[number] : cuts[number + 1]] - begins[number], of)
    return turn, counts


def read(
    source: BitReader, count: int, tensors: tuple[TensorSpec, ...]
) -> tuple[NDArray[np.int64], list[int]]:
    """Read `count` >= 1 flat indices, none twice, in the body's order, and how many each group has.

    Raises CodecError for groups that no encoder makes.
    """
    size = layout(tensors).parameters
    number = source.number(2)
    if number == Order.WHOLE:
        return golomb.read(source, count, size), [count]
    cuts = segments(tensors)
    if number not in cuts:
        raise CodecError("the body goes through the head in an order that it does not have")
    order = Order(number)
    cut = cuts[order]
    grouping = _read_groups(source, cut, order)
    counts = [source.number(of.bit_length()) for of in grouping.sizes[:-1]]
    counts.append(count - sum(counts))
    begins = np.cumsum([0, *grouping.sizes])
    places = []
    for begin, of, held in zip(begins.tolist(), grouping.sizes, counts, strict=False):
        if not 0 <= held <= of:
            raise CodecError(f"the body declares {held} values in a group of {of} elements")
        places.append(golomb.read(source, held, of) + begin)
    return _flat(np.concatenate(places), cut, grouping), counts


def _read_groups(source: BitReader, cut: Segments, order: Order) -> Grouping:
    labels = symbols.read(source, cut.size.size, MAX_GROUPS)
    members = np.bincount(labels)
    if members.size < 2 or not members.all() or (members[1:] > members[:-1]).any():
        raise CodecError("the body has groups that no encoder makes")
    return arrange(cut, order, labels)


def _flat(places: NDArray[np.int64], cut: Segments, grouping: Grouping) -> NDArray[np.int64]:
    """Return the flat indices of increasing `places` in a new order of the head."""
    sequence = grouping.sequence
    starts = grouping.starts[sequence]
    cuts = np.append(places.searchsorted(starts), places.size)
    counts = cuts[1:] - cuts[:-1]
    stride = cut.stride[sequence]
    flat: NDArray[np.int64] = places * np.repeat(stride, counts)
    flat += np.repeat(cut.base[sequence] - starts * stride, counts)
    return flat


def _inverse(sequence: NDArray[np.int64]) -> NDArray[np.int64]:
    inverse = np.empty_like(sequence)
    inverse[sequence] = np.arange(sequence.size)
    return inverse
