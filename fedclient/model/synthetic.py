"""Samples for a proof where the caller gives none: noise, and smooth pictures, as an input takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fedclient.errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedclient.model.origin import Origin

ROWS: Final = 3  # of each kind
RAW_HIGH: Final = 255.0  # of what normalisation is given: pictures, in nearly every model
PICTURE: Final = (3, {1, 3, 4})  # dimensions of a picture, and how many channels one has


def noise(shape: tuple[int, ...], dtype: np.dtype[Any], origin: Origin) -> NDArray[Any]:
    """Return rows of uniform random values.

    Raises ModelError for whole numbers that stand for something: words, places.
    """
    return _in_range(np.random.default_rng(0).random((ROWS, *shape)), dtype, origin)


def pictures(shape: tuple[int, ...], dtype: np.dtype[Any], origin: Origin) -> NDArray[Any]:
    """Return rows that change smoothly along each dimension, as pictures and signals do.

    Raises ModelError like `noise`.
    """
    waves = np.zeros((ROWS, *shape))
    for axis, size in enumerate(shape):
        along = np.arange(size) / max(size - 1, 1)
        for row in range(ROWS):
            wave = np.cos(np.pi * (row + 1) * along + axis)
            waves[row] += wave.reshape([-1 if place == axis else 1 for place in range(len(shape))])
    return _in_range(0.5 + waves / (2 * len(shape)), dtype, origin)


def _in_range(parts: NDArray[np.float64], dtype: np.dtype[Any], origin: Origin) -> NDArray[Any]:
    """Stretch values of 0 to 1 over what the input takes."""
    if np.issubdtype(dtype, np.integer):
        if not origin.input.scale and dtype != np.uint8:
            raise ModelError(
                f"its input is {dtype} and not quantised, so what the numbers stand for is unknown: "
                "give some real samples with --data"
            )
        limits = np.iinfo(dtype)
        return np.asarray(np.round(limits.min + parts * (limits.max - limits.min)).astype(dtype))
    low, high = _range(parts.shape[1:], origin)
    return np.asarray((low + parts * (high - low)).astype(dtype))


def _range(shape: tuple[int, ...], origin: Origin) -> tuple[Any, Any]:
    if origin.input.range:
        low, high = origin.input.range
        return low, high
    known = origin.preprocessing
    if known and len(known.scale) in {1, shape[-1]}:
        offset, scale = np.array(known.offset), np.array(known.scale)
        return offset, offset + scale * RAW_HIGH
    dimensions, channels = PICTURE
    return (0.0, 1.0) if len(shape) == dimensions and shape[-1] in channels else (-1.0, 1.0)
