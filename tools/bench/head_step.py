"""A training step of a head beside NumPy's matrix products of the same step: prints one JSON object.

1280 features, 128 hidden units, 26 classes, 32 rows, one thread.  Both sides are measured in turn, in blocks
of a few calls, so that what else the machine does meets both; medians, in milliseconds of
processor time:

    matmul_ms      the five products of a step, in NumPy (OpenBLAS)
    numpy_step_ms  a whole step of the same optimiser in NumPy, in float32 and in place
    head_ms        TrainableModel.train_step
    ratio          head_ms / matmul_ms
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from fedclient import runtime
from fedclient.model.head import HeadOptions, Optimizer, write_head

FEATURES, HIDDEN, CLASSES, ROWS = 1280, 128, 26, 32
TURNS, CALLS, WARM = 24, 12, 3  # the first calls of a block find the other side's data in the cache
HYPER = {"learning_rate": 1e-3, "momentum": 0.9}
REGULARISED = {"plain": {"l2": 0.0, "mu": 0.0}, "l2_and_mu": {"l2": 1e-3, "mu": 1e-2}}


class NumpyHead:
    """The same step, written as one would for speed."""

    def __init__(self, optimizer: Optimizer) -> None:
        rng = np.random.default_rng(0)
        sizes = {"w1": (HIDDEN, FEATURES), "b1": HIDDEN, "w2": (CLASSES, HIDDEN), "b2": CLASSES}
        self.x = rng.normal(size=(ROWS, FEATURES)).astype(np.float32)
        # Other labels each time: what is learnt by heart has slopes below the normal floats, which are slow.
        self._labels = itertools.cycle(rng.integers(0, CLASSES, (1000, ROWS)))
        self.w = {name: rng.normal(scale=0.03, size=size).astype(np.float32) for name, size in sizes.items()}
        self.slots = [{name: np.zeros_like(value) for name, value in self.w.items()} for _ in range(2)]
        self.optimizer = optimizer

    @property
    def y(self) -> Any:
        return next(self._labels)

    def products(self) -> None:
        w, x = self.w, self.x
        h = x @ w["w1"].T
        z = h @ w["w2"].T
        under = z @ w["w2"]
        _ = z.T @ h, under.T @ x

    def step(self) -> None:
        w, x = self.w, self.x
        h = np.maximum(x @ w["w1"].T + w["b1"], 0)
        z = h @ w["w2"].T + w["b2"]
        p = np.exp(z - z.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        p[np.arange(ROWS), self.y] -= 1
        p *= 1 / ROWS
        under = (p @ w["w2"]) * (h > 0)
        slopes = {"w1": under.T @ x, "b1": under.sum(axis=0), "w2": p.T @ h, "b2": p.sum(axis=0)}
        for name, slope in slopes.items():
            w[name] -= np.float32(HYPER["learning_rate"]) * self._direction(name, slope)

    def _direction(self, name: str, slope: Any) -> Any:
        first, second = self.slots
        if self.optimizer is Optimizer.MOMENTUM:
            first[name] *= np.float32(HYPER["momentum"])
            first[name] += slope
            return first[name]
        if self.optimizer is Optimizer.ADAM:
            first[name] *= np.float32(0.9)
            first[name] += np.float32(0.1) * slope
            second[name] *= np.float32(0.999)
            second[name] += np.float32(0.001) * slope * slope
            return first[name] / (np.sqrt(second[name]) + np.float32(1e-7))
        return slope


def medians(actions: dict[str, Callable[[], object]]) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(TURNS):
        for name, action in actions.items():
            block = [seconds(action) for _ in range(CALLS)]
            times[name] += block[WARM:]
    return {name: round(statistics.median(found) * 1e3, 3) for name, found in times.items()}


def seconds(action: Callable[[], object]) -> float:
    started = time.thread_time()
    action()
    return time.thread_time() - started


def measure(optimizer: Optimizer) -> dict[str, Any]:
    other = NumpyHead(optimizer)
    actions: dict[str, Callable[[], object]] = {"matmul_ms": other.products, "numpy_step_ms": other.step}
    options = HeadOptions(optimizer=optimizer)
    for name, regularised in REGULARISED.items():
        head = runtime.load(write_head(FEATURES, CLASSES, HIDDEN, options=options))
        hyper = {key: value for key, value in (HYPER | regularised).items() if key in head.hyper_parameters}
        actions[name] = lambda head=head, hyper=hyper: head.train_step(other.x, other.y, hyper)
    found = medians(actions)
    numpy_side = {name: found[name] for name in ("matmul_ms", "numpy_step_ms")}
    heads = {
        name: {"head_ms": found[name], "ratio": round(found[name] / found["matmul_ms"], 2)}
        for name in REGULARISED
    }
    return numpy_side | heads


if __name__ == "__main__":
    setting = {"features": FEATURES, "hidden": HIDDEN, "classes": CLASSES, "rows": ROWS}
    heads = {optimizer.value: measure(optimizer) for optimizer in Optimizer}
    print(
        json.dumps({**setting, "runtime": runtime.RUNTIME_NAME, "numpy": np.__version__, **heads}, indent=2)
    )
