"""Which elements of a delta are sent: exactly the k largest (Stich et al. 2018)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def top_k(vector: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Choose the `k` >= 1 largest magnitudes of the finite `vector` [P]: increasing indices, [<= k].

    Of equal magnitudes at the edge the lowest indices win, so the choice never depends on
    the partitioning algorithm.  Zeros carry nothing and are never chosen: fewer than k may result.
    """
    # The bits of non-negative floats order like the floats, and integers partition faster.
    magnitudes = np.abs(vector).view(np.uint32)
    edge = np.uint32(1)  # the least magnitude that is not zero
    if k < magnitudes.size:
        edge = max(edge, np.partition(magnitudes, magnitudes.size - k)[magnitudes.size - k])
    chosen = np.flatnonzero(magnitudes >= edge)
    if chosen.size > k:
        ties = np.flatnonzero(magnitudes[chosen] == edge)
        chosen = np.delete(chosen, ties[ties.size - (chosen.size - k) :])
    return chosen.astype(np.int64, copy=False)
