"""Our own heads against the NumPy reference, step by step, on the installed runtime.

Before each step the reference takes over the weights and the state that the runtime has, so that a
difference is that of one step.  Between its two halves it takes over the new state: Adam divides by the
root of a slope, and where that is nearly 0 the rounding of the slope alone would decide about the weight.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fedclient.errors import ModelError
from fedclient.model.head import METADATA_VERSION
from fedclient.model.options import HeadOptions, Optimizer
from fedclient.model.reference import Reference, hidden_sums
from fedclient.runtime.tensors import flatten, unflatten
from fedclient.values import MEAN, MEAN_SQUARE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from fedclient.runtime import TrainableModel

STEPS: Final = 20
FEWEST_STEPS: Final = 4  # of a head that is larger than MANY: it shall not take minutes on a small board
MANY: Final = 1_000_000
BATCHES: Final = (33, 1)  # in turn
REGULARISED: Final = ({"l2": 0.0, "mu": 0.0}, {"l2": 0.125, "mu": 0.25}, {"l2": 0.0, "mu": 0.25})
MOMENTUM: Final = 0.75
CHOICE: Final = 4  # as many rows are drawn for each that is used, where they are no more than MANY numbers


def largest_error(model: TrainableModel, metadata: bytes) -> float:
    """Return the largest error of loss, weights and state, relative to a tensor's largest change.

    Raises ModelError when the file is not what its metadata says, or does not give back what it was given.
    """
    hidden, options = _read(metadata)
    _check_tensors(model, hidden, options)
    reference = Reference(unflatten(model.get_weights(), model.tensors), options.optimizer)
    _check_state(model, reference)
    return _Comparison(model, reference, options).run()


def steps_of(size: int) -> int:
    """Return how many steps of a head of `size` parameters are compared."""
    return max(FEWEST_STEPS, min(STEPS, STEPS * MANY // size))


class _Comparison:
    def __init__(self, model: TrainableModel, reference: Reference, options: HeadOptions) -> None:
        self._model = model
        self._rng = np.random.default_rng(0)
        self._reference = reference
        width = max(size for tensor in model.tensors for size in tensor.shape)
        self._hyper = {
            "learning_rate": 4 / (4 + width)
        }  # low enough that the loss stays near its first value
        if options.optimizer is Optimizer.MOMENTUM:
            self._hyper["momentum"] = MOMENTUM

    def run(self) -> float:
        model = self._model
        start = self._start()
        model.set_weights(start)
        if model.get_weights().tobytes() != start.tobytes():
            raise ModelError("get_weights does not return what set_weights was given")
        errors = [self._step(number) for number in range(steps_of(start.size))]
        self._resume()
        return max(errors)

    def _start(self) -> NDArray[np.float32]:
        """Draw weights; where the input is normalised, by a variance near 1."""
        start = self._grid(self._model.get_weights().shape, 64)
        if MEAN_SQUARE in self._reference.weights:
            tensors = unflatten(start, self._model.tensors)
            tensors[MEAN_SQUARE] += 1
            start = flatten(tensors, self._model.tensors)
        return start

    def _step(self, number: int) -> float:
        model, reference = self._model, self._reference
        before, reference.weights = self._weights(), self._weights()
        old, reference.state = self._state(), self._state()
        x, y = self._batch(BATCHES[number % len(BATCHES)])
        hyper = self._hyper_of(number)
        loss, wanted = model.train_step(x, y, hyper), reference.look(x, y, hyper)
        errors = [abs(loss - wanted) / max(abs(wanted), 1e-3)]
        state = self._state()
        errors += [_error(state[name], value, old[name]) for name, value in reference.state.items()]
        reference.state = state
        reference.move(hyper)
        after = self._weights()
        errors += [_error(after[name], value, before[name]) for name, value in reference.weights.items()]
        return max(errors)

    def _hyper_of(self, number: int) -> dict[str, float]:
        regularised = REGULARISED[number % len(REGULARISED)]
        return self._hyper | {
            name: regularised[name] for name in regularised if name in self._model.hyper_parameters
        }

    def _resume(self) -> None:
        """What get_weights and get_state return must be all that a step depends on."""
        model, (x, y), hyper = self._model, self._batch(BATCHES[0]), self._hyper_of(1)
        weights, state = model.get_weights(), model.get_state()
        results = []
        for _ in range(2):
            model.set_weights(weights)
            model.set_state(state)
            if any(value.tobytes() != state[name].tobytes() for name, value in model.get_state().items()):
                raise ModelError("get_state does not return what set_state was given")
            model.train_step(x, y, hyper)
            results.append(model.get_weights().tobytes())
        if results[0] != results[1]:
            raise ModelError("a training resumed from get_weights and get_state is not the same")

    def _batch(self, rows: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Draw rows that keep away from the kink of max(z, 0), where rounding decides about the slope."""
        choice = max(1, min(CHOICE, MANY // (rows * self._model.features)))
        drawn = self._grid((choice * rows, *self._model.x_shape), 8)
        sums = hidden_sums(self._reference.weights, drawn)
        if sums is not None:
            drawn = drawn[np.argsort(-np.abs(sums).min(axis=1), kind="stable")]
        return drawn[:rows], self._rng.integers(0, self._model.classes, rows, np.int32)

    def _weights(self) -> dict[str, NDArray[np.float64]]:
        return _wide(unflatten(self._model.get_weights(), self._model.tensors))

    def _state(self) -> dict[str, NDArray[np.float64]]:
        return _wide(self._model.get_state())

    def _grid(self, shape: tuple[int, ...], parts: int) -> NDArray[np.float32]:
        return (self._rng.integers(-8, 9, shape) / parts).astype(np.float32)


def _error(found: NDArray[np.float64], wanted: NDArray[np.float64], before: NDArray[np.float64]) -> float:
    # A change that is small beside the value drowns in the value's own rounding.
    change = max(np.abs(wanted - before).max(), 0.01 * np.abs(before).max())
    return float(np.abs(found - wanted).max() / (change or 1.0))


def _wide(arrays: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float64]]:
    return {name: value.astype(np.float64) for name, value in arrays.items()}


def _read(metadata: bytes) -> tuple[int | None, HeadOptions]:
    """Return what a file says of its head; refuse what a later version wrote."""
    try:
        told: dict[str, Any] = json.loads(metadata)
        version, hidden = told["version"], told["hidden"]
        if version == 1:
            return hidden, HeadOptions()
        if version == METADATA_VERSION:
            chosen = {name: told[name] for name in ("normalize", "personal")}
            return hidden, HeadOptions(optimizer=Optimizer(told["optimizer"]), **chosen)
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ModelError("the metadata 'fedclient' in the file is damaged") from None
    raise ModelError(f"the head has format {version!r}, this version knows {METADATA_VERSION}: update")


def _check_tensors(model: TrainableModel, hidden: int | None, options: HeadOptions) -> None:
    inner = model.features if hidden is None else hidden
    want = {"output/bias": (model.classes,), "output/kernel": (model.classes, inner)}
    if hidden is not None:
        want |= {"hidden/bias": (hidden,), "hidden/kernel": (hidden, model.features)}
    if options.personal:
        want |= {"personal/bias": (model.classes,), "personal/kernel": (model.classes, inner)}
    if options.normalize:
        want |= dict.fromkeys((MEAN, MEAN_SQUARE), (model.features,))
    if {tensor.name: tensor.shape for tensor in model.tensors} != want:
        raise ModelError("the head's tensors are not what the metadata 'fedclient' in the file says")


def _check_state(model: TrainableModel, reference: Reference) -> None:
    """Refuse a state of other tensors; a head of version 1 has none, and needs none."""
    found = {name: value.shape for name, value in model.get_state().items()}
    want = {name: value.shape for name, value in reference.state.items()}
    slots = [name for name in want if not name.startswith("anchor/")]
    if found != want and (found or slots):
        raise ModelError("the optimiser's state is not what the metadata 'fedclient' in the file says")
