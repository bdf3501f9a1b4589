"""Prove on the installed runtime that a model trains, and that it computes what it should.

A head that we wrote is compared with the NumPy reference: the loss, every weight and the optimiser's state
after each of some steps (`compared.py`).  Somebody else's model must give back exactly the weights it was
given, stay finite, and lose less on a batch it has seen.  This runs the model in this process; `check.py`
runs it in a child.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from fedclient.errors import DataError, FedClientError, ModelError
from fedclient.model import compared
from fedclient.model.head import METADATA_NAME
from fedclient.model.reader import read_metadata
from fedclient.runtime import RUNTIME_NAME, TrainableModel, load
from fedclient.runtime.interpreter import open_signatures
from fedclient.values import parameters

if TYPE_CHECKING:
    from fedclient.values import TensorSpec

TOLERANCE: Final = 1e-4  # float32 against float64; measured: 3e-6 at 1280 features
LEARNING_RATES: Final = (0.1, 0.01, 0.001)  # for a stranger's model: one of them must make the loss fall
STEPS: Final = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What was found; `reason` is a sentence either way, the error is None for others' models."""

    ok: bool
    reason: str
    signatures: tuple[str, ...] = ()
    tensors: tuple[TensorSpec, ...] = ()
    max_relative_error: float | None = None


def prove_json(model: bytes) -> bytes:
    """Return `prove(model)` as JSON, for the other side of a pipe."""
    return json.dumps(asdict(prove(model))).encode()


def prove(model: bytes) -> Report:
    """Load, train and compare; whatever is wrong with `model` is in the report."""
    signatures: tuple[str, ...] = ()
    tensors: tuple[TensorSpec, ...] = ()
    try:
        signatures = tuple(sorted(open_signatures(model, threads=1, delegates=False)))
        loaded = load(model)
        tensors = loaded.tensors
        ours = read_metadata(model, METADATA_NAME)
        error = None if ours is None else compared.largest_error(loaded, ours)
        if ours is None:
            _prove_foreign(loaded)
        _try_features(loaded)
    except FedClientError as problem:
        return Report(ok=False, reason=str(problem), signatures=signatures, tensors=tensors)
    ok = error is None or error <= TOLERANCE
    found = "it gives back the weights it is given, and the loss falls on a repeated batch"
    if error is not None:
        steps = compared.steps_of(parameters(tensors))
        found = f"{steps} steps {'match' if ok else 'differ from'} the NumPy reference by {error:.1e}"
    return Report(
        ok=ok,
        reason=f"on {RUNTIME_NAME}, {found}",
        signatures=signatures,
        tensors=tensors,
        max_relative_error=error,
    )


def _prove_foreign(model: TrainableModel) -> None:
    rng = np.random.default_rng(0)
    start, state = model.get_weights(), model.get_state()
    noise = rng.normal(scale=0.1, size=start.shape).astype(np.float32)
    model.set_weights(start + noise)
    if not np.array_equal(model.get_weights(), start + noise):
        raise ModelError("get_weights does not return what set_weights was given")
    batch = model.fixed_batch or 8
    x = rng.normal(size=(batch, *model.x_shape)).astype(np.float32)
    y = (np.arange(batch, dtype=np.int32) + 1) % max(model.classes, 2)  # not all 0: a zero model knows that
    for rate in LEARNING_RATES:
        model.set_weights(start)
        model.set_state(state)
        hyper = dict.fromkeys(model.hyper_parameters, 0.0) | {"learning_rate": rate}
        try:
            losses = [model.train_step(x, y, hyper) for _ in range(STEPS)]
            model.get_weights()
            model.infer(x)
        except DataError:
            raise
        except FedClientError as problem:
            failure = str(problem)
            continue
        if losses[-1] < losses[0]:
            return
        failure = f"the loss does not fall on a repeated batch: {losses[0]:.4g}, then {losses[-1]:.4g}"
    raise ModelError(failure)


def _try_features(model: TrainableModel) -> None:
    if model.has_features:
        model.extract(np.zeros((2, *model.sample_shape), model.sample_dtype))
