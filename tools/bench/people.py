"""People as devices: WISDM by user.

WISDM v1.1 (Kwapisz, Weiss, Moore 2010): 5418 windows of 43 features, 6 activities, 36 people with very
different habits.  The folds split people, not windows.  `wisdm.py` and `personal.py` measure with it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedclient.training.loop import Examples

SHARED = Path(os.environ.get("FEDCLIENT_SHARED", Path(__file__).parents[3] / "shared"))
FEATURES, CLASSES = 43, 6
FOLDS = 5


def data_path() -> Path | None:
    """Return where the recordings are, or None without the reference data."""
    path = SHARED / "data" / "wisdm" / "har.npz"
    return path if path.exists() else None


@dataclass(frozen=True, kw_only=True)
class Recordings:
    """Everybody's windows, in the order of the recording; `person` says whose each is."""

    x: NDArray[np.float32]
    y: NDArray[np.int32]
    person: NDArray[np.int64]

    @classmethod
    def load(cls, path: Path) -> Recordings:
        with np.load(path, allow_pickle=False) as data:
            return cls(x=data["x"], y=data["y"].astype(np.int32), person=data["client"])

    def folds(self) -> Iterator[tuple[list[int], list[int]]]:
        """Yield (people who take part, people held out)."""
        people = np.random.Generator(np.random.PCG64(0)).permutation(np.unique(self.person))
        for held_out in np.array_split(people, FOLDS):
            yield [int(one) for one in people if one not in held_out], [int(one) for one in held_out]

    def scaled(self, rows: NDArray[np.bool_]) -> Recordings:
        """Return the same with features scaled by mean and deviation of `rows`."""
        mean, deviation = self.x[rows].mean(axis=0), self.x[rows].std(axis=0)
        x = ((self.x - mean) / np.where(deviation > 0, deviation, 1)).astype(np.float32)
        return Recordings(x=x, y=self.y, person=self.person)

    def examples(self, rows: NDArray[np.bool_]) -> Examples:
        return Examples(x=self.x[rows], y=self.y[rows])
