"""Updates into the next head: validated, weighted, summed up in row order.  Pure, NumPy.

With w the weight of an update, d its delta and e the epochs it did (FedNova: Wang et al. 2020):

    head += learning_rate * (sum w e / sum w) * (sum w d/e / sum w)

So a device that does twice the epochs of another does not pull twice as hard, and where all did as many
this is the weighted mean of the deltas, bit for bit.  Personal layers and feature statistics are not moved.

Under a plan with `statistics` the updates are statistics, and their weighted mean becomes the head's.

Memory is O(model): one float64 vector, whatever the number of devices.  The sum is a cache of
the database's rows: added in the same order, it is bit-identical (PROTOCOL 4.4).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from fedclient import codec
from fedclient.errors import CodecError
from fedclient.model.options import VARIANCE_FLOOR
from fedclient.values import Manifest, Plan, Reason, TensorSpec, Update, parameters

NORM_TOLERANCE = 1.01  # int8 rounds after the device has clipped (PROTOCOL 5.4)
_LEAST_SPREAD = 2.0**-20  # of a variance to the squared mean: below, float32 cannot tell it from 0


def sample_weight(bucket: int, max_bucket: int) -> float:
    """Weight of an update by its sample-count bucket, capped so that one device cannot dominate."""
    return float(2 ** min(bucket, max_bucket))


def claims_are_possible(update: Update, plan: Plan) -> bool:
    """Tell whether a job under `plan` can have had floor(log2(samples)) = bucket, and done so many epochs."""
    if update.bucket > int(math.log2(plan.max_examples)):
        return False
    return update.epochs is None or (update.epochs <= plan.epochs and not plan.statistics)


def norm_bound(plan: Plan, epochs: int) -> float:
    """Return the bound on the L2 norm of a delta that `epochs` passes made."""
    return plan.norm_bound * (epochs / plan.epochs)


def inspect(body: bytes, manifest: Manifest, epochs: int | None = None) -> codec.Decoded | Reason:
    """Decode an update's body, or say why it is refused: SHAPE, NONFINITE or NORM.

    The plan's norm bound is for all its epochs.  With fewer `epochs` it is as much less, since the delta
    of each epoch counts the same: to claim few epochs buys nobody a stronger pull.  A body alone that is
    longer than a whole message may be is no honest device's: deltas would grow with it, for everybody.
    """
    plan = manifest.plan
    if plan.max_update_bytes and len(body) > plan.max_update_bytes:
        return Reason.SHAPE
    try:
        decoded = codec.decode(body, manifest.tensors, plan.body_codec)
    except CodecError:
        return Reason.SHAPE
    if plan.statistics:
        return decoded  # the codec has their bounds
    return check(decoded, norm_bound(plan, epochs or plan.epochs))


def check(decoded: codec.Decoded, norm_bound: float) -> codec.Decoded | Reason:
    """Return `decoded` if all its values are finite and its L2 norm is within the bound."""
    norm = decoded.norm()
    if not math.isfinite(norm):
        return Reason.NONFINITE
    return decoded if norm <= norm_bound * NORM_TOLERANCE else Reason.NORM


class RunningSum:
    """The weighted sum of the updates counted so far for one head."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._total: NDArray[np.float64] = np.zeros(parameters(manifest.tensors))
        self._weight = 0.0
        self._steps = 0.0  # sum of w e, with e as a multiple of the first update's
        self._first_epochs = 0

    def add(self, decoded: codec.Decoded, weight: float, epochs: int = 1) -> None:
        """Add an update that `inspect` let through and that took `epochs` passes."""
        # As multiples of the first one's: where all are equal they are 1 exactly, and round nothing.
        self._first_epochs = self._first_epochs or epochs
        decoded.add_to(self._total, weight * (self._first_epochs / epochs))
        self._weight += weight
        self._steps += weight * (epochs / self._first_epochs)

    def change(self, learning_rate: float) -> NDArray[np.float64]:
        """Return how far the updates move the head [P]."""
        if not self._weight:
            return np.zeros_like(self._total)
        mean = self._total / self._weight
        mean[_untrained(self._manifest.tensors)] = 0.0
        moved: NDArray[np.float64] = learning_rate * (self._steps / self._weight) * mean
        return moved

    def statistics(self, head: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return `head` [P] with the statistics that were collected; `head` itself is not changed."""
        return _with_statistics(head, self._total / self._weight, self._manifest.tensors)


def _untrained(tensors: tuple[TensorSpec, ...]) -> NDArray[np.bool_]:
    """Mark the elements [P] that no update moves, whatever it says."""
    marks = [not tensor.is_in_deltas for tensor in tensors]
    return np.repeat(marks, [tensor.size for tensor in tensors])


def _with_statistics(
    head: NDArray[np.float32], pooled: NDArray[np.float64], tensors: tuple[TensorSpec, ...]
) -> NDArray[np.float32]:
    """Return `head` [P] with the statistics in `pooled` [P].

    What does not vary would be divided by nearly nothing, and a device where it does vary could not train.
    So a constant feature is divided by its own magnitude, one that is always 0 by 1.
    """
    mean, square = pooled[codec.statistics_of(tensors)].astype(np.float32)
    centre = np.square(mean, dtype=np.float64)
    constant = square - centre <= np.maximum(centre * _LEAST_SPREAD, VARIANCE_FLOOR)
    scale = np.where(centre > VARIANCE_FLOOR, centre, 1.0)
    result = head.copy()
    result[codec.statistics_of(tensors)] = mean, np.where(constant, centre + scale, square)
    return result
