"""A sequence of bits, as it is or by where its rarer value stands, whichever is shorter.

    flag     1 bit: 0 as it is, n bits follow
             1: the number of ones in bit_length(n) bits, then their positions (`golomb.py`)

The flag is 1 only where that makes fewer bits; a decoder insists on it.  So a sequence has one code.
"""

from __future__ import annotations

import numpy as np

from fedclient.codec import golomb
from fedclient.codec.bits import BitReader, Bits, BitWriter
from fedclient.errors import CodecError


def write(out: BitWriter, bits: Bits) -> None:
    """Write `bits` [n]; n is for the caller to tell."""
    count = bits.size
    ones = int(np.count_nonzero(bits))
    if 5 * min(ones, count - ones) < 2 * count:  # beyond 0.4 nothing can be gained
        sparse = BitWriter()
        sparse.number(ones, count.bit_length())
        golomb.write(sparse, bits.view(np.bool_).nonzero()[0], count)
        if sparse.size < count:
            out.number(1, 1)
            out.append(sparse)
            return
    out.number(0, 1)
    out.bits(bits)


def read(source: BitReader, count: int) -> Bits:
    """Read `count` bits; raises CodecError unless they are as the encoder writes them."""
    if not source.number(1):
        return source.bits(count)
    before = source.left
    ones = source.number(count.bit_length())
    if ones > count:
        raise CodecError(f"the body declares {ones} ones among {count} bits")
    found = golomb.read(source, ones, count)
    if before - source.left >= count:
        raise CodecError("the body lists positions where plain bits are as short")
    bits: Bits = np.zeros(count, dtype=np.uint8)
    bits[found] = 1
    return bits
