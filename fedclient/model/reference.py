"""What the training of our heads must compute, in NumPy and float64.

The formulas are in `head.py`; this follows them independently of any runtime, so that the two can be
compared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedclient.model.options import ADAM_EPSILON, ADAM_FIRST, ADAM_SECOND, VARIANCE_FLOOR, Optimizer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

Arrays = dict[str, "NDArray[np.float64]"]


class Reference:
    """One head in training: `weights` and `state` by the names that the file gives them."""

    def __init__(
        self, weights: Mapping[str, NDArray[np.float32]], optimizer: Optimizer = Optimizer.SGD
    ) -> None:
        self.weights: Arrays = {name: value.astype(np.float64) for name, value in weights.items()}
        self._optimizer = optimizer
        trained = {name: value for name, value in self.weights.items() if not name.startswith("normalize/")}
        zeros = {name: np.zeros_like(value) for name, value in trained.items()}
        sent = {name: value.copy() for name, value in trained.items() if not name.startswith("personal/")}
        self.state: Arrays = {f"anchor/{name}": value for name, value in sent.items()}
        if optimizer is Optimizer.MOMENTUM:
            self.state |= {f"momentum/{name}": zero for name, zero in zeros.items()}
        if optimizer is Optimizer.ADAM:
            self.state |= {
                f"{kind}/{name}": zero for kind in ("first", "second") for name, zero in zeros.items()
            }
            self.state |= {"first": np.zeros(1), "second": np.zeros(1)}
        self._slopes: Arrays = {}

    def step(self, x: NDArray[np.float32], y: NDArray[np.int32], hyper: Mapping[str, float]) -> float:
        """Take one step on x [B, D] and labels y [B]; return the loss before it."""
        loss = self.look(x, y, hyper)
        self.move(hyper)
        return loss

    def look(self, x: NDArray[np.float32], y: NDArray[np.int32], hyper: Mapping[str, float]) -> float:
        """Do the first half of a step: the loss, and what the optimiser remembers of the slopes."""
        loss, self._slopes = gradient(self.weights, x, y)
        for name in self._slopes:
            if name.endswith("/kernel"):
                self._slopes[name] = self._slopes[name] + hyper.get("l2", 0.0) * self.weights[name]
            if f"anchor/{name}" in self.state:
                away = self.weights[name] - self.state[f"anchor/{name}"]
                self._slopes[name] = self._slopes[name] + hyper.get("mu", 0.0) * away
        for name, slope in self._slopes.items():
            if self._optimizer is Optimizer.MOMENTUM:
                self._gather(f"momentum/{name}", hyper["momentum"], hyper["learning_rate"] * slope)
            if self._optimizer is Optimizer.ADAM:
                self._gather(f"first/{name}", ADAM_FIRST, slope)
                self._gather(f"second/{name}", ADAM_SECOND, slope**2)
        if self._optimizer is Optimizer.ADAM:
            self._gather("first", ADAM_FIRST, np.ones(1))
            self._gather("second", ADAM_SECOND, np.ones(1))
        return loss

    def move(self, hyper: Mapping[str, float]) -> None:
        """Do the second half: move the weights, by the state as it is now."""
        for name, slope in self._slopes.items():
            change = hyper["learning_rate"] * slope
            if self._optimizer is Optimizer.MOMENTUM:
                change = self.state[f"momentum/{name}"]
            if self._optimizer is Optimizer.ADAM:
                first = self.state[f"first/{name}"] / self.state["first"]
                second = self.state[f"second/{name}"] / self.state["second"]
                change = hyper["learning_rate"] * first / (np.sqrt(second) + ADAM_EPSILON)
            self.weights[name] = self.weights[name] - change

    def _gather(self, slot: str, keep: float, new: NDArray[np.float64]) -> None:
        self.state[slot] = keep * self.state[slot] + new


def gradient(weights: Arrays, x: NDArray[np.float32], y: NDArray[np.int32]) -> tuple[float, Arrays]:
    """Return the loss and its slope over every trained tensor."""
    w, below = weights, _input(weights, x)
    sums = hidden_sums(weights, x)
    inputs = below if sums is None else np.maximum(sums, 0)
    outputs = [name for name in ("output", "personal") if f"{name}/kernel" in w]
    kernel = np.sum([w[f"{name}/kernel"] for name in outputs], axis=0)
    logits = inputs @ kernel.T + np.sum([w[f"{name}/bias"] for name in outputs], axis=0)
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    rows = np.arange(len(y))
    over = np.exp(log_p)
    over[rows, y] -= 1
    over /= len(y)
    slopes: Arrays = {}
    for name in outputs:
        slopes |= {f"{name}/kernel": over.T @ inputs, f"{name}/bias": over.sum(axis=0)}
    if sums is not None:
        under = (over @ kernel) * (sums > 0)
        slopes |= {"hidden/kernel": under.T @ below, "hidden/bias": under.sum(axis=0)}
    return float(-log_p[rows, y].mean()), slopes


def hidden_sums(weights: Arrays, x: NDArray[np.float32]) -> NDArray[np.float64] | None:
    """Return what max(z, 0) is applied to, None without a hidden layer."""
    if "hidden/kernel" not in weights:
        return None
    sums: NDArray[np.float64] = _input(weights, x) @ weights["hidden/kernel"].T + weights["hidden/bias"]
    return sums


def _input(weights: Arrays, x: NDArray[np.float32]) -> NDArray[np.float64]:
    rows = x.astype(np.float64)
    if "normalize/mean" not in weights:
        return rows
    mean, mean_square = weights["normalize/mean"], weights["normalize/mean_square"]
    scaled: NDArray[np.float64] = (rows - mean) / np.sqrt(np.maximum(mean_square - mean**2, VARIANCE_FLOOR))
    return scaled
