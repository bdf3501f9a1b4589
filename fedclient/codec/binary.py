"""A sequence of bits, as it is or by where its rarer value stands, whichever is shorter.

    flag     1 bit: 0 as it is, n bits follow
             1: the number of ones in bit_length(n) bits, then their positions (`golomb.py`)

The flag is 1 where the rarer value has a share below 0.4 (beyond, there is nothing to gain) and what follows
is less than n bits.  A decoder insists on it, so a sequence has one code.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate

import numpy as np

from fedclient.codec import golomb
from fedclient.codec.bits import BitReader, Bits, BitWriter
from fedclient.errors import CodecError


def write(out: BitWriter, bits: Bits) -> None:
    """Write `bits` [n]; n is for the caller to tell."""
    listed = _listed(bits)
    out.number(int(listed is not None), 1)
    if listed is None:
        out.bits(bits)
    else:
        out.append(listed)


def read(source: BitReader, count: int) -> Bits:
    """Read `count` bits; raises CodecError unless they are as the encoder writes them."""
    if not source.number(1):
        plain = source.bits(count)
        if _listed(plain) is not None:
            raise CodecError("the body has plain bits where positions are shorter")
        return plain
    before = source.left
    ones = source.number(count.bit_length())
    if ones > count:
        raise CodecError(f"the body declares {ones} ones among {count} bits")
    if not _leans(ones, count):
        raise CodecError("the body lists positions of bits that do not lean")
    found = golomb.read(source, ones, count)
    if before - source.left >= count:
        raise CodecError("the body lists positions where plain bits are as short")
    bits: Bits = np.zeros(count, dtype=np.uint8)
    bits[found] = 1
    return bits


def write_groups(out: BitWriter, bits: Bits, counts: list[int]) -> None:
    """Write `bits` [n] as a sequence for each group: the next `counts[g]` of them, n in all."""
    for end, count in zip(accumulate(counts), counts, strict=True):
        write(out, bits[end - count : end])


def read_groups(source: BitReader, counts: Iterable[int]) -> Bits:
    """Read the bits [n] of all groups, at least one; raises as `read`."""
    return np.concatenate([read(source, count) for count in counts])


def _listed(bits: Bits) -> BitWriter | None:
    """Return the positions of the ones in `bits`, where they are shorter than `bits`."""
    count, ones = bits.size, int(np.count_nonzero(bits))
    if not _leans(ones, count):
        return None
    if count.bit_length() + golomb.least_bits(ones, count) >= count:
        return None
    listed = BitWriter()
    listed.number(ones, count.bit_length())
    golomb.write(listed, bits.view(np.bool_).nonzero()[0], count)
    return listed if listed.size < count else None


def _leans(ones: int, count: int) -> bool:
    return 5 * min(ones, count - ones) < 2 * count
