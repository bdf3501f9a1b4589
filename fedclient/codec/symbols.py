"""Small numbers by a prefix code (Huffman 1952), a layer of bits after the other, so no loop is per number.

    table    shortest length f (5 bits), then for each length d = f, f + 1, ... how many symbols have it, in
             bit_length(slots) bits; slots = 2^f at first, then 2 * (slots - how many), and 0 ends the table
    heads    the first f bits of each code, as planes (`bits.py`); where f is 1, by `binary.py`
    layers   for each further length: the next bit of each code that is longer, by `binary.py`

Codes are canonical and their lengths rise with the symbol: of the prefixes of one length, in order of their
value, the first are the codes of the next symbols and the others go on.  So the common symbols are best the
small ones, which holds for the levels of a tail and, by their numbering, for groups.

A decoder insists on a complete code that has its last symbol in use; it does not ask whether it is the best.
"""

from __future__ import annotations

from heapq import heapify, heappop, heapreplace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fedclient.codec import binary
from fedclient.codec.bits import BitReader, BitWriter
from fedclient.errors import CodecError

_MAX_LENGTH: Final = 24  # the floor on weights keeps codes below it
_NODE: Final = 13  # bits of a node's number: two for each of at most 4,096 symbols
_NODES: Final = (1 << _NODE) - 1
_SYMBOLS: Final = 256  # what an encoder has at most; a decoder's alphabet can be larger
_SHARE: Final = 12  # no symbol's weight is below 2^-12 of all


def write(out: BitWriter, symbols: NDArray[np.integer[Any]]) -> None:
    """Write `symbols` [n >= 1], numbers below 256 that start at 0; n is for the caller to tell."""
    ends = _ends(np.bincount(symbols).tolist())  # how many symbols have each length
    shortest = next(length for length, count in enumerate(ends) if count)
    _write_table(out, ends, shortest)
    maps = _maps(ends)
    # Strings of bytes are mapped, and thinned out, several times as fast as arrays.
    left = symbols.astype(np.uint8).tobytes()
    if shortest != 1:
        for plane in maps[:shortest]:
            out.bits(np.frombuffer(left.translate(plane), dtype=np.uint8))
    else:
        binary.write(out, np.frombuffer(left.translate(maps[0]), dtype=np.uint8))
    ended = 0
    for layer, end in zip(maps[shortest:], ends[shortest:], strict=False):
        left = left.translate(None, delete=bytes(range(ended, ended + end)))  # lengths rise with the symbol
        ended += end
        binary.write(out, np.frombuffer(left.translate(layer), dtype=np.uint8))


def read(source: BitReader, count: int, alphabet: int) -> NDArray[np.int64]:
    """Read `count` >= 1 symbols below `alphabet`.

    Raises CodecError for a table that no encoder writes, and where bits are missing.
    """
    shortest, ends = _read_table(source, alphabet)
    rank = _read_layer(source, count, shortest)
    layers = []  # of each: the symbols, were they the last, and which go on
    offset = 0
    for end in ends[:-1]:
        longer = (rank >= np.uint16(end)).nonzero()[0]
        layers.append((rank + np.uint16(offset), longer))
        rank = rank.take(longer)
        rank -= np.uint16(end)
        rank += rank
        rank += binary.read(source, rank.size)
        offset += end
    if not rank.size or ends[-1] != int(rank.max()) + 1:
        raise CodecError("the body has a table of codes whose last is not used")
    symbols = rank + np.uint16(offset)
    for found, longer in reversed(layers):
        found[longer] = symbols
        symbols = found
    return symbols.astype(np.int64)


def _read_layer(source: BitReader, count: int, width: int) -> NDArray[np.uint16]:
    if width == 1:
        return binary.read(source, count).astype(np.uint16)
    return source.planes(count, width).astype(np.uint16)  # a table is for fewer than 2^14 prefixes


def _write_table(out: BitWriter, ends: list[int], shortest: int) -> None:
    out.number(shortest, 5)
    slots = 1 << shortest
    for end in ends[shortest:]:
        out.number(end, slots.bit_length())
        slots = 2 * (slots - end)


def _read_table(source: BitReader, alphabet: int) -> tuple[int, list[int]]:
    shortest = source.number(5)
    slots, total = 1 << shortest, 0
    ends: list[int] = []
    while slots:
        if slots > 2 * alphabet or shortest + len(ends) > _MAX_LENGTH:
            raise CodecError("the body has a table of codes that is too long")
        end = source.number(slots.bit_length())
        if end > slots or (not ends and not end):
            raise CodecError("the body has a table of codes that no encoder writes")
        ends.append(end)
        total += end
        slots = 2 * (slots - end)
    if total > alphabet:
        raise CodecError(f"the body has a table of {total} symbols where there are {alphabet}")
    return shortest, ends


def _maps(ends: list[int]) -> list[bytes]:
    """Return for each bit of the canonical codes, the first first, a map of symbols to it."""
    longest = len(ends) - 1
    codes: list[int] = []  # of `longest` bits, zeros behind
    first = 0
    for length, end in enumerate(ends):
        rest = longest - length
        codes += range(first << rest, first + end << rest, 1 << rest)
        first = 2 * (first + end)
    bits = np.array(codes) >> np.arange(longest - 1, -1, -1)[:, np.newaxis]
    bits &= 1
    padded = np.zeros((longest, _SYMBOLS), dtype=np.uint8)
    padded[:, : len(codes)] = bits
    joined = padded.tobytes()
    return [joined[at : at + _SYMBOLS] for at in range(0, len(joined), _SYMBOLS)]


def _ends(counts: list[int]) -> list[int]:
    """Return how many symbols get a code of 0, 1, 2 ... bits: Huffman's lengths for `counts` [S]."""
    size = len(counts)
    least = max(1, sum(counts) >> (_SHARE - 1))
    # An unused symbol weighs half a used one.  Node numbers in the low bits break ties, so equal counts give
    # equal codes on every machine.
    heap = [max(2 * count, least) << _NODE | node for node, count in enumerate(counts)]
    heapify(heap)
    parents = [0] * (2 * size - 1)
    for node in range(size, 2 * size - 1):
        first, second = heappop(heap), heap[0]
        parents[first & _NODES] = parents[second & _NODES] = node
        heapreplace(heap, (first >> _NODE) + (second >> _NODE) << _NODE | node)
    depths, ends = [0] * (2 * size - 1), [0] * (_MAX_LENGTH + 1)
    for node in range(2 * size - 3, -1, -1):
        depths[node] = depths[parents[node]] + 1
    for depth in depths[:size]:
        ends[depth] += 1
    while not ends[-1]:
        ends.pop()
    return ends
