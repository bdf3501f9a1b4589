"""In which order an epoch takes the examples: a function of (seed, epoch) and the labels alone.

So a job that was stopped goes on with the very rows that would have come next (PROTOCOL 5.1).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def order(labels: NDArray[np.int32], seed: int, epoch: int, *, balanced: bool) -> NDArray[np.int64]:
    """Return as many row numbers as there are labels.

    Plain: every row once.  Balanced: every class that is there equally often, but for one row where
    it does not come out even; of a large class other rows in each epoch, of a small one each row
    several times, and none of them twice more than another.
    """
    generator = np.random.Generator(np.random.PCG64([seed, epoch]))
    if not balanced:
        return np.asarray(generator.permutation(len(labels)))
    classes = generator.permutation(np.unique(labels))  # whose turn comes first gets the odd rows
    shares = np.full(len(classes), len(labels) // len(classes))
    shares[: len(labels) % len(classes)] += 1
    drawn = [
        _drawn(generator, np.flatnonzero(labels == one), int(share))
        for one, share in zip(classes, shares, strict=True)
    ]
    return np.asarray(generator.permutation(np.concatenate(drawn)))


def _drawn(generator: np.random.Generator, rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Go through `rows` in a random order, again and again in another one, until there are `count`."""
    rounds = [generator.permutation(rows) for _ in range(-(-count // len(rows)))]
    return np.asarray(np.concatenate([rows[:0], *rounds])[:count])  # no rounds: more classes than draws
