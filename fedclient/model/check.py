"""Check a .tflite file of unknown origin: the proof runs in a child process, which may crash."""

from __future__ import annotations

from typing import Final

from fedclient import limits
from fedclient.errors import ModelError
from fedclient.model.proof import Report
from fedclient.runtime import child
from fedclient.values import TensorSpec

__all__ = ["Report", "check"]

TIMEOUT_S: Final = 120.0  # the largest head takes seconds on a Pi Zero 2 W


def check(model: bytes, *, timeout_s: float = TIMEOUT_S) -> Report:
    """Return what is known of `model`; nothing is raised, whatever the bytes are."""
    if len(model) > limits.MAX_MODEL_BYTES:
        return Report(ok=False, reason=f"the model has more than {limits.MAX_MODEL_BYTES} bytes")
    try:
        told = child.ask("fedclient.model.proof", "prove_json", model, timeout_s=timeout_s)
    except ModelError as error:
        return Report(ok=False, reason=str(error))
    tensors = tuple(TensorSpec(name=spec["name"], shape=tuple(spec["shape"])) for spec in told["tensors"])
    return Report(**told | {"signatures": tuple(told["signatures"]), "tensors": tensors})
