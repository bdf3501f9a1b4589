"""Does the installed runtime train at all?  A small head that we wrote, a few steps, and NumPy's opinion.

The head is a file (`trial.tflite`, written by `write_head`), so nothing that writes models is needed.
A runtime that does not suit the processor ends the process: call this in a child (`runtime/child.py`).
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fedclient.errors import FedClientError, ModelError
from fedclient.model.reference import Arrays, Reference
from fedclient.runtime import RUNTIME_NAME, load
from fedclient.runtime.tensors import unflatten

if TYPE_CHECKING:
    from numpy.typing import NDArray

FEATURES, CLASSES = 4, 3  # of that head; all zeros at first
STEPS: Final = 8
RATE: Final = 0.5
TOLERANCE: Final = 1e-4  # float32 against float64, as in proof.py


def train_json(model: bytes) -> bytes:
    """Return what `train` found, or the `reason` why nothing, for the other side of a pipe."""
    try:
        return json.dumps(train(model)).encode()
    except FedClientError as error:
        return json.dumps({"reason": str(error)}).encode()


def train(model: bytes) -> dict[str, Any]:
    """Take some steps on one batch, each compared with the NumPy reference.

    Returns the runtime's name, the first and the last loss, and the seconds; raises ModelError.
    """
    started = time.monotonic()
    head = load(model)
    rng = np.random.default_rng(0)
    x = (rng.integers(-8, 9, (12, FEATURES)) / 8).astype(np.float32)
    y = np.arange(12, dtype=np.int32) % CLASSES
    losses: list[float] = []
    reference = Reference(unflatten(head.get_weights(), head.tensors))
    for _ in range(STEPS):
        wanted = reference.step(x, y, {"learning_rate": RATE})
        losses.append(head.train_step(x, y, {"learning_rate": RATE}))
        weights = unflatten(head.get_weights(), head.tensors)
        _compare((losses[-1], weights), (wanted, reference.weights))
    return {
        "runtime": RUNTIME_NAME,
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "seconds": time.monotonic() - started,
    }


def _compare(found: tuple[float, dict[str, NDArray[np.float32]]], wanted: tuple[float, Arrays]) -> None:
    errors = [abs(found[0] - wanted[0])]
    errors += [float(np.abs(found[1][name] - value).max()) for name, value in wanted[1].items()]
    if not max(errors) <= TOLERANCE:
        raise ModelError(f"a training step differs from what NumPy computes by {max(errors):.1e}")
