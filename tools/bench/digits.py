"""Digits on ten devices: the task that bytes are counted on, with heads of two sizes, three ways to deal.

The packaged digits (`fedclient/testing/data/digits.md`), a fifth of them held out.  The heads are linear:

    pixels     the 64 pixels, as in the demo: 650 parameters
    features   1,280 random features of them, as many as a MobileNet has: 12,810 parameters

Random features (Rahimi and Recht 2007) are max(W x + b, 0), with W and b drawn once for all seeds.  Both
kinds are brought to mean 0 and deviation about 1 among the training samples, and the random ones divided by
sqrt(20): then |x|^2 is about 64 for both, and one learning rate means the same.

    iid          every device has as many samples of each class, about 14
    two_classes  every device has two of the ten, neighbours in the demo's ring; a class is on two devices
    dirichlet    of every class each device has a share drawn from Dirichlet(0.3) (Hsu et al. 2019)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedclient.model.head import write_head
from fedclient.testing.digits import CLASSES, DATA, FEATURES, HOLDOUT, RING
from fedclient.training.loop import Examples

DEVICES: Final = 10
SPLITS: Final = ("iid", "two_classes", "dirichlet")
HEADS: Final = {"pixels": FEATURES, "features": 1280}
_CONCENTRATION: Final = 0.3
_MIN_DEVIATION: Final = np.float32(0.1)
_MAP_SEED: Final = 1280


@dataclass(frozen=True, kw_only=True)
class Task:
    """A head with no training yet, each device's own samples, and samples that no device has."""

    model: bytes
    devices: list[Examples]
    holdout: Examples


def task(head: str, split: str, seed: int) -> Task:
    """Deal the digits out; `seed` decides what is held out and who has what."""
    with np.load(DATA) as data:
        x, y = data["x"].astype(np.float32) / 16, data["y"].astype(np.int32)
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(y))
    held_out, training = order[:HOLDOUT], order[HOLDOUT:]
    x = _scaled(x, training)
    if head == "features":
        x = _scaled(random_features(x), training) * np.float32((FEATURES / HEADS[head]) ** 0.5)
    return Task(
        model=write_head(HEADS[head], CLASSES),
        devices=[Examples(x=x[own], y=y[own]) for own in _dealt(y, training, split, seed)],
        holdout=Examples(x=x[held_out], y=y[held_out]),
    )


def random_features(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return max(W x + b, 0) of each row: W is normal with variance 1/64, b with 1/4."""
    generator = np.random.Generator(np.random.PCG64(_MAP_SEED))
    weights = generator.normal(scale=FEATURES**-0.5, size=(FEATURES, HEADS["features"]))
    bias = generator.normal(scale=0.5, size=HEADS["features"])
    return np.maximum(x @ weights + bias, 0).astype(np.float32)


def _scaled(x: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    found: NDArray[np.float32] = (x - x[rows].mean(axis=0)) / (x[rows].std(axis=0) + _MIN_DEVIATION)
    return found


def _dealt(
    y: NDArray[np.int32], training: NDArray[np.int64], split: str, seed: int
) -> list[NDArray[np.int64]]:
    """Deal each class out to the devices, so that every sample is on one of them."""
    generator = np.random.Generator(np.random.PCG64([seed, _MAP_SEED]))
    rows: list[list[NDArray[np.int64]]] = [[] for _ in range(DEVICES)]
    for turn, digit in enumerate(RING):
        own = training[y[training] == digit]
        owners = list(range(DEVICES)) if split != "two_classes" else [turn, (turn + 1) % DEVICES]
        if split == "dirichlet":
            shares = np.cumsum(generator.dirichlet([_CONCENTRATION] * DEVICES))[:-1]
            parts = np.split(own, (shares * len(own)).astype(int))
        else:
            parts = np.array_split(own, len(owners))
        for device, part in zip(owners, parts, strict=True):
            rows[(device + turn) % DEVICES if split == "iid" else device].append(part)
    return [np.concatenate(parts) for parts in rows]
