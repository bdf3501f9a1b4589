"""Magnitudes from 1 on by their octaves: numbers of one bit length, whatever they range over.

    longest   5 bits: the bit length of the largest, 1 to 24
    lengths   for d = 1, 2, ... longest - 1: which magnitudes of d bits or more have more (`binary.py`)
    next      for d = 2, 3, ... longest: the bit after the first of those with d bits (`binary.py`)
    rest      ditto, planes of d - 2 bits (`bits.py`)

Small ones cost least where they are common, as in what rounding leaves of a bell; each layer is coded at its
own density, so no table is needed.  Below the second bit hardly anything leans.  A sequence has one code.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedclient.codec import binary
from fedclient.codec.bits import BitReader, BitWriter
from fedclient.errors import CodecError

MAX_BITS: Final = 24  # what a float32 holds exactly
_LENGTH_BITS: Final = 5


def write(out: BitWriter, magnitudes: NDArray[np.int64]) -> None:
    """Write `magnitudes` [n >= 1], from 1 to 2^24 - 1; n is for the caller to tell."""
    lengths = np.frexp(magnitudes.astype(np.float64))[1]
    longest = int(lengths.max())
    out.number(longest, _LENGTH_BITS)
    reached = lengths
    for depth in range(1, longest):
        longer = reached > depth
        binary.write(out, longer.view(np.uint8))
        reached = reached[longer]
    for depth in range(2, longest + 1):
        numbers = magnitudes[lengths == depth]
        binary.write(out, (numbers >> depth - 2 & 1).astype(np.uint8))
        out.planes(numbers & (1 << depth - 2) - 1, depth - 2)


def read(source: BitReader, count: int) -> NDArray[np.int64]:
    """Read `count` >= 1 magnitudes; raises CodecError unless they are as the encoder writes them."""
    longest = source.number(_LENGTH_BITS)
    if not 1 <= longest <= MAX_BITS:
        raise CodecError(f"the body has integers of {longest} bits, where 1 to {MAX_BITS} are possible")
    lengths = np.ones(count, dtype=np.uint8)
    reached = np.arange(count)
    for _ in range(1, longest):
        reached = reached[binary.read(source, reached.size).view(np.bool_)]
        lengths[reached] += 1
    if not reached.size:
        raise CodecError(f"the body has no integer of the {longest} bits it declares")
    magnitudes = np.ones(count, dtype=np.int64)
    for depth in range(2, longest + 1):
        own = (lengths == depth).nonzero()[0]
        high = 2 + binary.read(source, own.size).astype(np.int64)
        magnitudes[own] = (high << depth - 2) + source.planes(own.size, depth - 2)
    return magnitudes
