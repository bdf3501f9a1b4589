"""Mean and mean of squares of features: what a head with `normalize` standardises its input by."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedclient.errors import ModelError
from fedclient.values import MEAN, MEAN_SQUARE, TensorSpec

_ROWS = 256  # at once, in float64: a sum of many float32 squares loses its last digits


def has_statistics(tensors: tuple[TensorSpec, ...]) -> bool:
    """Whether a head of these tensors standardises its input."""
    return any(tensor.is_statistic for tensor in tensors)


def with_statistics(
    weights: NDArray[np.float32], tensors: tuple[TensorSpec, ...], x: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return a copy of the flat `weights` [P] whose statistics are those of the rows `x`, all else as it was.

    Standardising by them needs no look at more than one device's sums: those of several devices,
    weighted by their rows, are those of all rows together.  Raises ModelError where they do not fit.
    """
    found = weights.copy()
    of = statistics(x)
    at = 0
    for tensor in tensors:
        if tensor.is_statistic:
            values = of[tensor.name]
            if tensor.size != values.size:
                raise ModelError(
                    f"{tensor.name} has {tensor.size} elements, there are {values.size} features"
                )
            found[at : at + tensor.size] = values
        at += tensor.size
    return found


def statistics(x: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """Return the mean and the mean of squares over the rows `x`, flat, by tensor name."""
    rows = x.reshape(len(x), -1)
    total, squares = np.zeros((2, rows.shape[1]))
    for start in range(0, len(rows), _ROWS):
        part = rows[start : start + _ROWS].astype(np.float64)
        total += part.sum(axis=0)
        squares += np.square(part).sum(axis=0)
    sums = {MEAN: total, MEAN_SQUARE: squares}
    return {name: (one / len(rows)).astype(np.float32) for name, one in sums.items()}
