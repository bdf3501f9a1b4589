"""The body of the mode fitted: the largest elements, as many and as exact as a byte budget has room for.

    mode      3 bits
    length    bit_length(n) in bit_length(bit_length(k)) bits; nothing follows n = 0
    count     n without its first bit
    levels    1 bit: 0 where values are signs
    then      places, signs and values as in `sparse.py`; there are at most 128 levels

k is the plan's bound, max(1, round(density * P)): density 1 where the bytes alone decide.  The receiver need
not know how n, cells and levels were chosen (`tradeoff.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedclient.codec import sparse, tradeoff
from fedclient.codec.bits import BitReader, BitWriter
from fedclient.codec.budget import most_that_fit
from fedclient.codec.layout import layout
from fedclient.codec.sparse import MODE_BITS, NOT_FINITE, Sparse
from fedclient.codec.sparsify import top_k
from fedclient.codec.tradeoff import LEVELS, Choice, Tail, binomial_bits
from fedclient.errors import CodecError, DataError
from fedclient.limits import VALUE_BITS
from fedclient.values import Codec, CodecMode, TensorSpec

_NEAR: Final = 0.98  # of the room: no better choice is looked for
_AIM: Final = 0.992
_LOOKS: Final = 4
_DENSEST: Final = 0.5  # positions of few classes take this share of the usual bits, or more
_HEAD_BITS: Final = 20.0  # mode, count, levels, order, and half a byte of padding


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """A body and what it decodes to."""

    body: bytes
    sent: Sparse


def write(
    vector: NDArray[np.float32],
    tensors: tuple[TensorSpec, ...],
    codec: Codec,
    share: float = 1.0,
    max_bytes: int | None = None,
) -> Written | None:
    """Encode flat `vector` [P] with the least squared error within `max_bytes`; None: nothing fits.

    At most `share` of the plan's k elements are sent.  Without a bound on bytes the error is the least that
    128 levels leave.
    Raises DataError when a value is NaN or infinite, CodecError when the plan is out of bounds.
    """
    head = layout(tensors)
    most, bound = head.budget(codec.density * share), head.budget(codec.density)
    looked_at = min(most, _conceivable(max_bytes, vector.size))
    while True:
        found = _write_largest(vector, tensors, looked_at, bound, max_bytes)
        if found is None or found.sent.values.size < looked_at or looked_at == most:
            return found
        looked_at = min(most, 4 * looked_at)  # places were cheaper than conceived


def _write_largest(
    vector: NDArray[np.float32],
    tensors: tuple[TensorSpec, ...],
    looked_at: int,
    bound: int,
    max_bytes: int | None,
) -> Written | None:
    """Encode some of the `looked_at` largest elements; `bound` is the plan's k."""
    chosen = top_k(vector, looked_at)
    values = vector[chosen]
    if not np.isfinite(values).all():  # they would be among the largest
        raise DataError(NOT_FINITE)
    if not sparse.worth_sending(values, signs=False):
        return _empty(bound, max_bytes)
    tail = Tail(np.abs(values), vector.size)

    @lru_cache(maxsize=1)  # the search for the count begins with what the choice ended with
    def encode(count: int, choice: Choice) -> Written:
        taken = top_k(values, count)
        return _encode(chosen[taken], values[taken], tensors, bound, choice)

    if max_bytes is None:
        choice = tradeoff.choose(tail, math.inf)
        return encode(choice.count, choice)
    choice = _choose(tail, encode, max_bytes)
    return most_that_fit(lambda count: encode(count, choice), choice.count, values.size, max_bytes)


def read(data: bytes, tensors: tuple[TensorSpec, ...], codec: Codec) -> Sparse:
    """Decode the body `data`; raises CodecError unless it is as an encoder writes it."""
    most = layout(tensors).budget(codec.density)
    source = BitReader(data)
    if source.number(MODE_BITS) != CodecMode.FITTED:
        raise CodecError(f"the body's mode is not the plan's, {CodecMode.FITTED.value}")
    count = _read_count(source, most)
    alphabet = LEVELS if count and source.number(1) else 0
    return sparse.read_elements(source, count, tensors, alphabet)


def least_bytes(vector: NDArray[np.float32], tensors: tuple[TensorSpec, ...], codec: Codec) -> int:
    """Return the size of a body that has but the largest element of `vector`."""
    chosen = top_k(vector, 1)
    bound = layout(tensors).budget(codec.density)
    if not chosen.size:
        return 1
    choice = Choice(count=1, cells=None, bits=0.0, places=0.0)
    return len(_encode(chosen, vector[chosen], tensors, bound, choice).body)


def _choose(tail: Tail, encode: Callable[[int, Choice], Written], max_bytes: int) -> Choice:
    """Choose by what is predicted, encode, and choose again where that was too much or far too little.

    The first time, what was off is put down to the places: classes differ.  Later it is only counted in.
    """
    limit, ratio = 8.0 * max_bytes - _HEAD_BITS, 1.0
    choice = tradeoff.choose(tail, limit, ratio)
    for look in range(_LOOKS):
        size = len(encode(choice.count, choice).body)
        if _NEAR * max_bytes <= size <= max_bytes:
            break
        off = 8.0 * size - _HEAD_BITS - choice.bits
        if look == 0 and choice.places:
            ratio = max(_DENSEST, (choice.places + off) / choice.places)
        else:
            limit -= 8.0 * (size - _AIM * max_bytes)
        choice = tradeoff.choose(tail, limit, ratio)
    return choice


def _conceivable(max_bytes: int | None, size: int) -> int:
    """Return how many elements so few bytes can have: a bit each, and half of the usual for places."""
    if max_bytes is None:
        return size
    low, high = 1, size
    while low < high:
        count = (low + high + 1) // 2
        places = float(binomial_bits(np.array([float(count)]), size)[0])
        low, high = (count, high) if count + _DENSEST * places <= 8 * max_bytes else (low, count - 1)
    return low


def _encode(
    chosen: NDArray[np.int64],
    values: NDArray[np.float32],
    tensors: tuple[TensorSpec, ...],
    bound: int,
    choice: Choice,
) -> Written:
    """Write `values` [n] of the increasing positions `chosen` [n], n at most `bound`."""
    out = BitWriter()
    out.number(CodecMode.FITTED, MODE_BITS)
    _write_count(out, chosen.size, bound)
    out.number(int(choice.cells is not None), 1)
    quantiser = None if choice.cells is None else partial(tradeoff.quantise, cells=choice.cells)
    sent = sparse.write_elements(out, chosen, values, tensors, quantiser)
    bits = 1 if choice.cells is None else VALUE_BITS[1]
    return Written(body=out.to_bytes(), sent=replace(sent, quantized_bits=bits * chosen.size))


def _empty(bound: int, max_bytes: int | None) -> Written | None:
    out = BitWriter()
    out.number(CodecMode.FITTED, MODE_BITS)
    _write_count(out, 0, bound)
    body = out.to_bytes()
    nothing = Sparse(indices=np.empty(0, dtype=np.int64), values=np.empty(0, dtype=np.float32))
    return Written(body=body, sent=nothing) if max_bytes is None or len(body) <= max_bytes else None


def _write_count(out: BitWriter, count: int, most: int) -> None:
    length = count.bit_length()
    out.number(length, most.bit_length().bit_length())
    if length > 1:
        out.number(count - (1 << (length - 1)), length - 1)


def _read_count(source: BitReader, most: int) -> int:
    length = source.number(most.bit_length().bit_length())
    if length > most.bit_length():
        raise CodecError(f"the body declares more values than the plan's {most}")
    if length < 2:
        return length
    count = 1 << (length - 1) | source.number(length - 1)
    if count > most:
        raise CodecError(f"the body declares {count} values where the plan allows {most}")
    return count
