"""Updates into the next head: validated, weighted, summed up in row order.  Pure, NumPy.

Memory is O(model): one float64 vector, whatever the number of devices.  The sum is a cache of
the database's rows: added in the same order, it is bit-identical (PROTOCOL 4.4).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from fedclient import codec
from fedclient.errors import CodecError
from fedclient.values import Manifest, Plan, Reason, parameters

NORM_TOLERANCE = 1.01  # int8 rounds after the device has clipped (PROTOCOL 5.4)


def sample_weight(bucket: int, max_bucket: int) -> float:
    """Weight of an update by its sample-count bucket, capped so that one device cannot dominate."""
    return float(2 ** min(bucket, max_bucket))


def bucket_is_possible(bucket: int, plan: Plan) -> bool:
    """Tell whether a job under `plan` can have trained on floor(log2(samples)) = `bucket`."""
    return bucket <= int(math.log2(plan.max_examples))


def inspect(body: bytes, manifest: Manifest) -> codec.Decoded | Reason:
    """Decode an update's body, or say why it is refused: SHAPE, NONFINITE or NORM."""
    try:
        decoded = codec.decode(body, manifest.tensors, manifest.plan.codec)
    except CodecError:
        return Reason.SHAPE
    return check(decoded, manifest.plan.norm_bound)


def check(decoded: codec.Decoded, norm_bound: float) -> codec.Decoded | Reason:
    """Return `decoded` if all its values are finite and its L2 norm is within the bound."""
    norm = decoded.norm()
    if not math.isfinite(norm):
        return Reason.NONFINITE
    return decoded if norm <= norm_bound * NORM_TOLERANCE else Reason.NORM


class RunningSum:
    """The weighted sum of the updates counted so far for one head."""

    def __init__(self, manifest: Manifest) -> None:
        self._total: NDArray[np.float64] = np.zeros(parameters(manifest.tensors))
        self._weight = 0.0

    def add(self, decoded: codec.Decoded, weight: float) -> None:
        """Add an update that `inspect` let through."""
        decoded.add_to(self._total, weight)
        self._weight += weight

    def finish(self, head: NDArray[np.float32], learning_rate: float) -> NDArray[np.float32]:
        """Return `head` [P] moved by `learning_rate` times the weighted mean; `head` is not changed."""
        if not self._weight:
            return head.copy()
        mean = self._total / self._weight
        return np.asarray(head.astype(np.float64) + learning_rate * mean, dtype=np.float32)
