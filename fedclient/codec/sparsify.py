"""Which elements of a delta are sent: exactly the k largest (Stich et al. 2018).

A partition of all elements would take ten times as long as all else in the codec.  So a sample gives a bound
that a few more than k elements pass, and only these are partitioned; where the sample misled, all are.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

_SAMPLE: Final = 4096  # elements looked at for the bound, at most; at least one of eight
_WORTH_IT: Final = 2048  # shorter vectors are partitioned as they are
_SIGN: Final = np.uint32(0x7FFF_FFFF)  # all bits but the sign's


def top_k(vector: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Choose the `k` >= 1 largest magnitudes of `vector` [P]: increasing indices, [<= k].

    Of equal magnitudes at the edge the lowest indices win, so the choice never depends on
    the partitioning algorithm.  Zeros carry nothing and are never chosen: fewer than k may result.
    What is not finite counts as larger than all that is: the caller finds it among the chosen.
    """
    # The bits of non-negative floats order like the floats, and integers partition faster.
    magnitudes = vector.view(np.uint32) & _SIGN
    if k >= vector.size:
        return magnitudes.nonzero()[0].astype(np.int64, copy=False)
    passed = _candidates(magnitudes, k)
    passing = magnitudes[passed]
    edge = max(np.uint32(1), np.partition(passing, passed.size - k)[passed.size - k])
    kept = (passing >= edge).nonzero()[0]
    if kept.size > k:
        ties = (passing[kept] == edge).nonzero()[0]
        kept = np.delete(kept, ties[ties.size - (kept.size - k) :])
    chosen: NDArray[np.int64] = passed[kept].astype(np.int64, copy=False)
    return chosen


def _candidates(magnitudes: NDArray[np.uint32], k: int) -> NDArray[np.intp]:
    """Return increasing indices [>= k] that hold the `k` largest and all that equal the least of these."""
    size = magnitudes.size
    if size >= _WORTH_IT:
        sample = magnitudes[:: max(8, size // _SAMPLE)].copy()
        expected = k * sample.size / size
        rank = math.ceil(expected + 4 * math.sqrt(expected) + 4)  # the share that passes varies by a root
        if rank < sample.size:
            bound = np.partition(sample, sample.size - rank)[sample.size - rank]
            passed: NDArray[np.intp] = (magnitudes >= bound).nonzero()[0]
            if passed.size >= k:
                return passed
    return np.arange(size)
