"""From trained weights to what leaves the device, and the residual that stays (PROTOCOL 5.2 to 5.4, 8)."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedclient import codec
from fedclient.errors import CodecError, ModelError
from fedclient.training.delta import clip, kept_back, output_mask, rare_classes
from fedclient.training.loop import HeadTraining
from fedclient.values import Plan, TensorSpec

log = logging.getLogger(__name__)

_MARGIN = 0.999


@dataclass(frozen=True, kw_only=True)
class Packed:
    """An encoded delta, what it leaves for next time, and the size of every stage in bytes."""

    body: bytes
    residual: NDArray[np.float32]
    delta: NDArray[np.float32]  # that was encoded, and all that went into it
    encoded: codec.Encoded
    suppressed_classes: tuple[int, ...]
    sizes: dict[str, int]


def fold(
    residual: NDArray[np.float32], bodies: list[bytes], plan: Plan, tensors: tuple[TensorSpec, ...]
) -> NDArray[np.float32]:
    """Give returned updates back: add what each would have told the gateway to `residual`.

    One that does not decode under this plan (it has another codec) is reported and left out:
    it would stand in the way of every job to come.
    """
    total = residual.astype(np.float64)
    for body in bodies:
        try:
            codec.decode(body, tensors, plan.codec).add_to(total, 1.0)
        except CodecError as error:
            log.warning("a returned update is dropped: %s", error)
    return total.astype(np.float32)


def pack(
    training: HeadTraining,
    base: NDArray[np.float32],
    residual: NDArray[np.float32],
    min_per_class: int,
    max_bytes: int | None = None,
) -> Packed:
    """Encode the trained weights less `base`, plus `residual`; all flat float32 [P].

    Personal layers and statistics are exactly zero in all of it, whatever the weights and `residual`
    have there.  The delta is clipped to the plan's norm bound before anything is added, and so is
    the sum: what is left over can then never be longer than the bound either.  The bound is for all of
    the plan's epochs, and less by as many as the device had no time for.  The body has at most `max_bytes`:
    what they have no room for stays in the residual.
    """
    model, plan = training.model, _for_its_epochs(training)
    trained = model.get_weights()
    withheld = rare_classes(training.examples, model.classes, min_per_class)
    kept = kept_back(model.tensors)
    wanted = clip(np.where(kept, np.float32(0), trained - base), plan.norm_bound) + residual
    wanted[kept] = 0.0
    if withheld.any():
        model.set_weights(base)
        wanted[output_mask(model, withheld)] = 0.0
        model.set_weights(trained)
    wanted = clip(wanted, plan.norm_bound)
    if not np.isfinite(wanted).all():
        raise ModelError("the trained weights are not finite: the plan's learning rate is too high")
    encoded = encode_within(wanted, model.tensors, plan, _share_of_what_is_sent(kept), max_bytes)
    return Packed(
        body=encoded.body,
        delta=wanted,
        encoded=encoded,
        residual=clip(wanted - encoded.decoded, plan.norm_bound),
        suppressed_classes=tuple(np.flatnonzero(withheld).tolist()),
        sizes={
            "fp32": wanted.nbytes,
            "sparsified": encoded.sparsified_bytes,
            "quantized": encoded.quantized_bytes,
            "encoded": len(encoded.body),
        },
    )


def _for_its_epochs(training: HeadTraining) -> Plan:
    plan, done = training.plan, training.epoch
    if not 0 < done < plan.epochs:
        return plan
    return replace(plan, norm_bound=plan.norm_bound * (done / plan.epochs))


def _share_of_what_is_sent(kept: NDArray[np.bool_]) -> float:
    """Return the share of elements that can be sent: a personal layer buys no room for others."""
    share = 1 - np.count_nonzero(kept) / kept.size
    if not share:
        raise ModelError("every tensor of the head is personal or a statistic: there is nothing to federate")
    return share


def encode_within(
    wanted: NDArray[np.float32],
    tensors: tuple[TensorSpec, ...],
    plan: Plan,
    share: float = 1.0,
    max_bytes: int | None = None,
) -> codec.Encoded:
    """Encode `wanted` [P] so that what the gateway computes is within the norm bound.

    Quantisation can lengthen it.  `share` and `max_bytes`, and what is raised, are as of `codec.encode`.
    """
    while True:
        encoded = codec.encode(wanted, tensors, plan.codec, share=share, max_bytes=max_bytes)
        norm = encoded.content.norm()
        if norm <= plan.norm_bound:
            return encoded
        length = float(np.linalg.norm(wanted.astype(np.float64)))
        wanted = clip(wanted, length * plan.norm_bound / norm * _MARGIN)  # shorter each time: it ends
