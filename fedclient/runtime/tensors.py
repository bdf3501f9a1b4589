"""A head as tensors by name, and as one flat vector: UTF-8 name order, C order, float32."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from fedclient.errors import ModelError
from fedclient.values import TensorSpec, parameters

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


LARGEST: Final = float(np.finfo(np.float32).max)


def bounded(array: NDArray[np.float32]) -> bool:
    """Tell whether all values are finite and below the largest float32.

    TFLite's arithmetic clamps an overflow to that largest number, which then looks like any other.
    """
    return bool((np.abs(array) < LARGEST).all())


def specs(arrays: Mapping[str, NDArray[np.float32]]) -> tuple[TensorSpec, ...]:
    """Return name and shape of each array, in the order of the flat vector."""
    names = sorted(arrays, key=str.encode)
    return tuple(TensorSpec(name=name, shape=arrays[name].shape) for name in names)


def flatten(
    arrays: Mapping[str, NDArray[np.float32]], tensors: tuple[TensorSpec, ...]
) -> NDArray[np.float32]:
    """Return a new flat float32 [P].

    Raises ModelError when `arrays` are not exactly `tensors`: names, shapes, float32, finite.
    """
    if arrays.keys() != {tensor.name for tensor in tensors}:
        want, got = ", ".join(tensor.name for tensor in tensors), ", ".join(sorted(arrays))
        raise ModelError(f"the head's tensors must be {want}, not {got}")
    for tensor in tensors:
        _check(tensor, arrays[tensor.name])
    parts = [arrays[tensor.name].ravel(order="C") for tensor in tensors]
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def unflatten(flat: NDArray[np.float32], tensors: tuple[TensorSpec, ...]) -> dict[str, NDArray[np.float32]]:
    """Return the tensors of flat float32 [P] by name, each a copy.

    Raises ModelError when the length, the type or a value cannot be a head of these `tensors`.
    """
    if flat.dtype != np.float32 or flat.shape != (parameters(tensors),):
        want = parameters(tensors)
        raise ModelError(f"a head of this model is float32 [{want}], not {flat.dtype} {list(flat.shape)}")
    ends = np.cumsum([tensor.size for tensor in tensors])
    parts = np.split(flat, ends[:-1])
    arrays = {
        tensor.name: part.reshape(tensor.shape).copy() for tensor, part in zip(tensors, parts, strict=True)
    }
    for tensor in tensors:
        _check(tensor, arrays[tensor.name])
    return arrays


def _check(tensor: TensorSpec, array: NDArray[np.float32]) -> None:
    if array.dtype != np.float32 or array.shape != tensor.shape:
        want, got = f"float32 {list(tensor.shape)}", f"{array.dtype} {list(array.shape)}"
        raise ModelError(f"tensor {tensor.name!r} must be {want}, not {got}")
    if not bounded(array):
        raise ModelError(
            f"tensor {tensor.name!r} is not finite: the training diverged, lower the learning rate"
        )
