"""What one training step of our heads must compute, in NumPy and float64.

The formulas are in `head.py`; this follows them independently of any runtime, so that the two can be
compared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

Weights = dict[str, "NDArray[np.float64]"]


def step(
    weights: Mapping[str, NDArray[np.float32]],
    x: NDArray[np.float32],
    y: NDArray[np.int32],
    learning_rate: float,
) -> tuple[float, Weights]:
    """Return the loss before, and all weights after, one step on x [B, D] and labels y [B]."""
    w = {name: value.astype(np.float64) for name, value in weights.items()}
    below = x.astype(np.float64)
    if hidden := "hidden/kernel" in w:
        sums = below @ w["hidden/kernel"].T + w["hidden/bias"]
        inputs = np.maximum(sums, 0)
    else:
        inputs = below
    logits = inputs @ w["output/kernel"].T + w["output/bias"]
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    rows = np.arange(len(y))
    loss = -log_p[rows, y].mean()
    gradient = np.exp(log_p)
    gradient[rows, y] -= 1
    gradient /= len(y)
    slopes = {"output/kernel": gradient.T @ inputs, "output/bias": gradient.sum(axis=0)}
    if hidden:
        gradient = (gradient @ w["output/kernel"]) * (sums > 0)
        slopes |= {"hidden/kernel": gradient.T @ below, "hidden/bias": gradient.sum(axis=0)}
    return float(loss), {name: w[name] - learning_rate * slopes[name] for name in w}
