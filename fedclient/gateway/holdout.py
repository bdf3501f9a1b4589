"""How good a head is on data that the gateway holds itself; only where it was given some."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedclient import runtime
from fedclient.errors import DataError
from fedclient.runtime.batches import class_numbers


class Holdout:
    """Samples x [N, ...] (raw, or features) with class numbers y [N], and a model to try heads in."""

    def __init__(self, model: bytes, x: NDArray[np.generic], y: NDArray[np.generic]) -> None:
        """Load the model; its features are computed once.  Raises ModelError, DataError."""
        if len(x) != len(y) or not len(x) or not np.issubdtype(y.dtype, np.integer):
            raise DataError(
                f"held-out data has {len(x)} samples and {len(y)} labels ({y.dtype}): give as many integers"
            )
        self._model = runtime.load(model)
        self._y = y
        raw = x.astype(self._model.sample_dtype) if self._model.sample_dtype == np.float32 else x
        self._x: NDArray[np.float32] = (
            self._model.extract(raw) if self._model.has_features else raw.astype(np.float32)
        )

    def accuracy(self, head: NDArray[np.float32]) -> float:
        """Return the share of samples that `head` [P] predicts right."""
        self._model.set_weights(head)
        return float((class_numbers(self._model.infer(self._x)) == self._y).mean())
