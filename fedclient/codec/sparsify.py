"""Which elements of a delta are sent: exactly the k largest (Stich et al. 2018).

A partition of all elements would take ten times as long as all else in the codec.  So a sample gives a bound
that a few more than k elements pass, and only these are partitioned; where the sample misled, all are.
"""

from __future__ import annotations

import math
from bisect import bisect
from typing import Final

import numpy as np
from numpy.typing import NDArray

_SAMPLE: Final = 4096  # elements looked at for the bound, about; at most one of 13
_STEPS: Final = (13, 29, 61, 127, 251, 509, 1021)  # primes: a sample goes through all columns of a kernel
_SPREADS: Final = (2.5, 8.0)  # how far the share that passes may be off, in deviations: seldom, hardly ever
_WORTH_IT: Final = 2048  # shorter vectors are partitioned as they are
_LONG: Final = 1 << 16  # longer vectors are compared as floats, in one pass less over them
_SIGN: Final = np.uint32(0x7FFF_FFFF)  # all bits but the sign's
_BINS: Final = 12  # bits of a histogram's bins


def top_k(vector: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Choose the `k` >= 1 largest magnitudes of `vector` [P]: increasing indices, [<= k].

    Of equal magnitudes at the edge the lowest indices win, so the choice never depends on
    the partitioning algorithm.  Zeros carry nothing and are never chosen: fewer than k may result.
    What is not finite counts as larger than all that is: the caller finds it among the chosen.
    """
    # The bits of non-negative floats order like the floats.
    bits = vector.view(np.uint32)
    if k >= vector.size:
        return (bits & _SIGN).nonzero()[0].astype(np.int64, copy=False)
    passed = _candidates(vector, k)
    passing = bits[passed]
    passing &= _SIGN
    edge = max(np.uint32(1), _largest(passing, k))
    kept = (passing >= edge).nonzero()[0]
    if kept.size > k:
        ties = (passing[kept] == edge).nonzero()[0]
        kept = np.delete(kept, ties[ties.size - (kept.size - k) :])
    chosen: NDArray[np.int64] = passed[kept].astype(np.int64, copy=False)
    return chosen


def _candidates(vector: NDArray[np.float32], k: int) -> NDArray[np.intp]:
    """Return increasing indices [>= k] that hold the `k` largest and all that equal the least of these."""
    size = vector.size
    if size >= _WORTH_IT:
        sample = vector.view(np.uint32)[:: _STEPS[bisect(_STEPS, size // _SAMPLE, lo=1) - 1]] & _SIGN
        expected = k * sample.size / size
        for spread in _SPREADS:
            rank = math.ceil(expected + spread * math.sqrt(expected) + 4)
            if rank < sample.size:
                sample.partition(sample.size - rank)
                passed = _at_least(vector, sample[sample.size - rank])
                if passed.size >= k:
                    return passed
    return np.arange(size)


def _at_least(vector: NDArray[np.float32], bound: np.uint32) -> NDArray[np.intp]:
    """Return the increasing indices of all magnitudes in `vector` that have the bits `bound` or more."""
    if vector.size < _LONG:
        return ((vector.view(np.uint32) & _SIGN) >= bound).nonzero()[0]
    with np.errstate(invalid="ignore"):
        below = np.abs(vector) < bound.view(np.float32)
    return np.logical_not(below, out=below).nonzero()[0]  # NaN fails every comparison


def _largest(numbers: NDArray[np.uint32], k: int) -> np.uint32:
    """Return the `k`-th largest of `numbers` [>= k]: by a histogram first, as branches cost most here."""
    size = numbers.size
    if size >= _WORTH_IT:
        least = numbers.min()
        shift = max(0, int(numbers.max() - least).bit_length() - _BINS)
        bins = (numbers - least) >> np.uint32(shift)
        above = np.bincount(bins)[::-1].cumsum()  # how many are in the highest bins
        number = int(above.searchsorted(k))
        k -= int(above[number - 1]) if number else 0
        numbers = numbers[bins == np.uint32(above.size - 1 - number)]
    found: np.uint32 = np.partition(numbers, numbers.size - k)[numbers.size - k]
    return found
