"""What may leave the device of a trained head: the privacy floor, error feedback, the norm bound.

For a dense softmax head the gradient of a class's row is a sum over that class's examples;
with few of them, weight delta over bias delta is nearly one example's embedding.  So rows of
classes with too few examples are neither sent nor kept (PROTOCOL 8).  It reduces the leak;
it is no guarantee.  Personal layers and feature statistics are no part of a delta at all.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from fedclient.errors import PrivacyFloor
from fedclient.runtime import TrainableModel
from fedclient.training.loop import Examples
from fedclient.values import TensorSpec

_TRIAL_ROWS = 16
_TRIAL_SHIFT = 0.5
_TRIAL_NOISE = 1e-4  # of float32 logits


def clip(vector: NDArray[np.float32], bound: float) -> NDArray[np.float32]:
    """Scale `vector` down to L2 norm `bound` if it is longer."""
    norm = float(np.sqrt(np.dot(vector.astype(np.float64), vector.astype(np.float64))))
    return vector if norm <= bound else (vector * np.float32(bound / norm)).astype(np.float32)


def kept_back(tensors: tuple[TensorSpec, ...]) -> NDArray[np.bool_]:
    """Mark the elements of the flat head that no training sends: personal layers and feature statistics."""
    marks = [np.full(tensor.size, not tensor.is_in_deltas) for tensor in tensors]
    return np.concatenate(marks) if marks else np.zeros(0, dtype=bool)


def rare_classes(examples: Examples, classes: int, min_per_class: int) -> NDArray[np.bool_]:
    """Mark the classes, of `classes`, with fewer than `min_per_class` distinct examples.

    A model with a single output has two classes on one row: it is marked if either is rare.
    """
    contents = {
        (label, blake2b(row.tobytes(), digest_size=16).digest())
        for label, row in zip(examples.y.tolist(), examples.x, strict=True)
    }
    counts = np.bincount([label for label, _ in contents], minlength=max(classes, 2))
    rare: NDArray[np.bool_] = counts < min_per_class
    return rare if classes > 1 else rare.any(keepdims=True)


def output_mask(model: TrainableModel, rare: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mark the elements of the flat head that belong to rare classes' rows of the output layer.

    Which axis of which tensor holds the classes is not believed but tried: a shift of class
    0's slice of the output layer moves that class's logit against the others, and nothing
    else.  Where the trial moves nothing at all, the axis is taken for one that holds the
    classes: too much is withheld rather than too little.  Statistics of features have no classes.
    Raises PrivacyFloor when a rare class's row is not found.
    """
    before = model.get_weights()
    marked = np.zeros(len(before), dtype=bool)
    at = 0
    try:
        for tensor in model.tensors:
            part = marked[at : at + tensor.size].reshape(tensor.shape)
            for axis in _class_axes(model, tensor, slice(at, at + tensor.size), len(rare)):
                part[(slice(None),) * axis + (rare,)] = True
            at += tensor.size
    finally:
        model.set_weights(before)
    if rare.any() and not marked.any():
        raise PrivacyFloor("which weights belong to the classes with too few samples cannot be told")
    return marked


def _class_axes(model: TrainableModel, tensor: TensorSpec, part: slice, classes: int) -> list[int]:
    """Return the axes of `tensor` that hold the classes, by trial on each axis of that length."""
    axes = [axis for axis, length in enumerate(tensor.shape) if length == classes and not tensor.is_statistic]
    moved = {axis: _moved(model, tensor, part, axis) for axis in axes}
    return [axis for axis in axes if moved[axis] == {0}] or [axis for axis in axes if not moved[axis]]


def _moved(model: TrainableModel, tensor: TensorSpec, part: slice, axis: int) -> set[int]:
    """Return which logits move, against the last class's, when slice 0 of `axis` is shifted."""
    rows = np.random.Generator(np.random.PCG64(1)).normal(
        size=(model.fixed_batch or _TRIAL_ROWS, *model.x_shape)
    )
    x = rows.astype(np.float32)
    before = model.get_weights()
    shifted = before.copy()
    shifted[part].reshape(tensor.shape)[(slice(None),) * axis + (0,)] += _TRIAL_SHIFT
    rest = _against_last(model.infer(x))
    model.set_weights(shifted)
    changed = np.abs(_against_last(model.infer(x)) - rest) > _TRIAL_NOISE
    model.set_weights(before)
    return set(np.flatnonzero(changed.any(axis=0)).tolist())


def _against_last(outputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Differences to the last class; of logarithms where a model returns probabilities for logits."""
    values = outputs.astype(np.float64)
    if (values >= 0).all() and np.allclose(values.sum(axis=1), 1.0, atol=1e-3):
        values = np.log(values + 1e-12)
    return (values - values[:, -1:]).astype(np.float32)
