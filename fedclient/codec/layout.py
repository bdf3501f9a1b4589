"""Where each tensor lies in the flat vector, and how many elements a plan lets travel."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fedclient.errors import CodecError
from fedclient.limits import MAX_HEAD_PARAMETERS, MAX_TENSORS
from fedclient.values import TensorSpec, parameters


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Layout:
    """The flat vector of a head: T tensors one after the other, P elements in all."""

    parameters: int  # P
    bounds: NDArray[np.int64]  # [T + 1], from 0 to P: tensor t is bounds[t] <= index < bounds[t + 1]
    sizes: NDArray[np.intp]  # [T], elements of each tensor

    def counts(self, indices: NDArray[np.int64]) -> NDArray[np.intp]:
        """Count the increasing `indices` [n] in each tensor that has any, [S <= T], in order."""
        cuts = indices.searchsorted(self.bounds)
        counts = cuts[1:] - cuts[:-1]
        return counts[counts > 0]

    def budget(self, density: float) -> int:
        """Return k, the most elements a sparse body may carry: max(1, round(density * P)), half to even.

        Raises CodecError when `density` is not in (0, 1].
        """
        if not 0 < density <= 1:
            raise CodecError(f"the plan's density is {density}: it must be above 0 and at most 1")
        return max(1, round(density * self.parameters))


@lru_cache(maxsize=8)  # a gateway decodes thousands of bodies for the same few heads
def layout(tensors: tuple[TensorSpec, ...]) -> Layout:
    """Lay out `tensors`, in the order given.

    Raises CodecError when they are no head within the bounds of `limits.py`.
    """
    if not 1 <= len(tensors) <= MAX_TENSORS:
        raise CodecError(f"a head has 1 to {MAX_TENSORS} tensors, this one has {len(tensors)}")
    for tensor in tensors:
        if min(tensor.shape, default=1) < 1:
            raise CodecError(f"tensor {tensor.name!r} of shape {tensor.shape} has no elements")
    total = parameters(tensors)
    if total > MAX_HEAD_PARAMETERS:
        raise CodecError(f"a head has at most {MAX_HEAD_PARAMETERS} parameters, this one has {total}")
    sizes = np.array([tensor.size for tensor in tensors], dtype=np.intp)
    bounds = np.concatenate(([0], np.cumsum(sizes, dtype=np.int64)))
    for shared in (sizes, bounds):
        shared.flags.writeable = False
    return Layout(parameters=total, bounds=bounds, sizes=sizes)
