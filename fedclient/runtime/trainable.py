"""A model that can be trained here: weights in and out, one step, predictions, features.

Rows of a batch:

* `train_step` takes any number of rows, unless `fixed_batch` says exactly how many: padding would
  change the gradient, so another number is refused and the training loop is the one to choose.
* `infer` and `extract` take any number: they run in chunks, and where the file fixes the batch the last
  chunk is filled up with its last row and the surplus dropped.  A backbone that says its batch is dynamic
  but refuses to be resized runs row by row.

The head runs on the plain kernels (no delegate: the same on both runtimes, quiet, and faster to start
than what a head gains); the backbone gets an interpreter of its own, with delegates, on first use.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fedclient import limits
from fedclient.errors import DataError, ModelError
from fedclient.runtime import batches
from fedclient.runtime import tensors as flat_tensors
from fedclient.runtime.interpreter import Port, Signature, flex_ops, open_signatures
from fedclient.runtime.matching import LEARNING_RATE, REQUIRED, Roles, features_ports, match
from fedclient.runtime.tensors import LARGEST
from fedclient.values import TensorSpec, parameters

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


NEUTRAL: Final = {"l2": 0.0, "mu": 0.0}  # what these are where nobody asks for them


def load(model: bytes | Path, *, threads: int = 1) -> TrainableModel:
    """Open a .tflite file and prove that its weights can be read and written, and that it predicts.

    Raises ModelError, with the reason in one sentence.  A damaged file can crash the process inside
    the runtime: run files of unknown origin through `fedclient.model.check` first.
    """
    data = _read(model) if isinstance(model, Path) else model
    if len(data) > limits.MAX_MODEL_BYTES:
        raise ModelError(f"the model has {len(data)} bytes, more than {limits.MAX_MODEL_BYTES}")
    signatures = open_signatures(data, threads=threads, delegates=False)
    if missing := [name for name in REQUIRED if name not in signatures]:
        raise ModelError(_why_not(data, missing, tuple(signatures)))
    return TrainableModel(data, signatures, threads)


class TrainableModel:
    """A loaded model; made by `load`.

    `x_shape` and `features`: shape and size of one row of the head's input.  `sample_shape` and
    `sample_dtype`: of one raw sample, which is the same where `has_features` is False.
    """

    def __init__(self, model: bytes, signatures: dict[str, Signature], threads: int) -> None:
        self._model = model
        self._threads = threads
        self._run = signatures
        self._roles: Roles = match(signatures)
        self._backbone: Signature | None = None
        self.signatures: tuple[str, ...] = tuple(sorted(signatures))
        self.hyper_parameters: tuple[str, ...] = tuple(sorted(self._roles.hyper))
        self.tensors: tuple[TensorSpec, ...] = self._head()
        self.x_shape: tuple[int, ...] = self._roles.x.shape[1:]
        self.features: int = int(np.prod(self.x_shape))
        self.fixed_batch: int | None = batches.fixed_batch(self._roles.x)
        self.classes: int = self._classes()
        self.has_features: bool = "features" in signatures
        self._raw, self._features = self._roles.infer_x, ""
        if self.has_features:
            self._raw, self._features = features_ports(signatures["features"])
        self._raw_batch = batches.fixed_batch(self._raw)
        self.sample_shape: tuple[int, ...] = self._raw.shape[1:]
        self.sample_dtype: np.dtype[Any] = self._raw.dtype
        self.set_weights(self.get_weights())

    def get_weights(self) -> NDArray[np.float32]:
        """Return the head, flat float32 [P].

        Raises ModelError when training left a value that is not finite.
        """
        return flat_tensors.flatten(self._run["get_weights"]({}), self.tensors)

    def set_weights(self, flat: NDArray[np.float32]) -> None:
        """Replace the head by flat float32 [P].

        Raises ModelError when it does not fit or holds a value that is not finite; nothing changed then.
        """
        self._run["set_weights"](flat_tensors.unflatten(flat, self.tensors))

    def train_step(self, x: NDArray[np.float32], y: NDArray[Any], hyper: Mapping[str, float]) -> float:
        """Train on x float32 [B, *x_shape] and labels y [B]; return the loss before the step.

        y: class numbers for a model that takes integers or one-hot rows, or float targets for one that
        takes floats.  `hyper` must have what `hyper_parameters` names, but for l2 and mu, which are 0
        then; a learning rate that the model has no input for is passed over, any other is refused.

        Raises DataError for rows that do not fit, ModelError for a loss that is not finite.
        """
        if not len(x) or self.fixed_batch not in {None, len(x)}:
            raise DataError(
                f"the model trains on {self.fixed_batch or 'some'} rows at a time, not on {len(x)}"
            )
        inputs: dict[str, NDArray[Any]] = {
            self._roles.x.name: batches.checked(x, self._roles.x),
            self._roles.y.name: self._labels(y, len(x)),
        }
        loss = self._run["train"](inputs | self._hyper(hyper))[self._roles.loss]
        if loss.size != 1 or not flat_tensors.bounded(loss):
            raise ModelError(f"the loss is {loss.tolist()}: the training diverged, lower the learning rate")
        return float(loss.reshape(()))

    def infer(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return logits float32 [B, C] for x float32 [B, *x_shape].

        Raises DataError for rows that do not fit, ModelError for results that are not finite.
        """
        rows = batches.checked(x, self._roles.infer_x)
        batch = batches.fixed_batch(self._roles.infer_x)
        logits = batches.in_chunks(self._run["infer"], self._roles.infer_x, self._roles.logits, rows, batch)
        return batches.checked_result(logits, len(rows), self.classes, "logits")

    def as_samples(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return raw samples in `sample_dtype`, of any shape.

        Raises DataError for values that it cannot hold: a picture scaled to 0..1 is no uint8.
        """
        with np.errstate(invalid="ignore", over="ignore"):
            rows = np.asarray(x).astype(self.sample_dtype)
        if np.issubdtype(self.sample_dtype, np.integer) and not np.array_equal(rows, x):
            raise DataError(f"a sample has values that are no {self.sample_dtype}, which the model takes")
        return rows

    def extract(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Return features float32 [B, D] for raw samples [B, *sample_shape] of `sample_dtype`.

        Raises ModelError when the model has no `features`, DataError for samples that do not fit.
        """
        if not self.has_features:
            raise ModelError("the model has no signature 'features': its samples are the head's input")
        rows = batches.checked(x, self._raw)
        try:
            found = self._extract(rows)
        except ModelError:
            if self._raw_batch is not None:
                raise
            # It refuses to be resized; the interpreter that failed is in no known state.
            self._raw_batch, self._backbone = 1, None
            found = self._extract(rows)
        return batches.checked_result(found, len(rows), self.features, "features")

    def get_state(self) -> dict[str, NDArray[Any]]:
        """Return the optimiser's slots by name, {} where the model has none."""
        return self._run["get_state"]({}) if self._has_state else {}

    def set_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Put back what `get_state` returned.

        Raises ModelError when names, shapes or types are others, or a value is not finite.
        """
        current = self.get_state()
        if state.keys() != current.keys():
            raise ModelError(f"the optimiser's state must be {sorted(current)}, not {sorted(state)}")
        for name, value in state.items():
            if (value.shape, value.dtype) != (current[name].shape, current[name].dtype):
                raise ModelError(f"state {name!r} must be {current[name].dtype} {list(current[name].shape)}")
            if not np.isfinite(value).all():
                raise ModelError(f"state {name!r} holds NaN or infinity")
        if state:
            self._run["set_state"](state)

    def _extract(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        if self._backbone is None:
            opened = open_signatures(self._model, threads=self._threads, delegates=True)
            self._backbone = opened["features"]
        return batches.in_chunks(self._backbone, self._raw, self._features, rows, self._raw_batch)

    @property
    def _has_state(self) -> bool:
        return {"get_state", "set_state"} <= self._run.keys()

    def _head(self) -> tuple[TensorSpec, ...]:
        arrays = self._run["get_weights"]({})
        specs = flat_tensors.specs(arrays)
        if not 1 <= len(specs) <= limits.MAX_TENSORS or parameters(specs) > limits.MAX_HEAD_PARAMETERS:
            raise ModelError(
                f"a head of {len(specs)} tensors, {parameters(specs)} parameters is out of bounds"
            )
        settable = {port.name: port for port in self._run["set_weights"].inputs}
        if settable.keys() != arrays.keys():
            raise ModelError(
                f"'get_weights' returns {sorted(arrays)}, 'set_weights' takes {sorted(settable)}"
            )
        for spec in specs:
            port = settable[spec.name]
            if (
                len(spec.name.encode()) > limits.MAX_TENSOR_NAME_BYTES
                or len(spec.shape) > limits.MAX_TENSOR_RANK
            ):
                raise ModelError(f"tensor {spec.name[:40]!r} has too long a name or too many dimensions")
            if (
                port.dtype != np.float32
                or arrays[spec.name].dtype != np.float32
                or not _fits(spec.shape, port)
            ):
                raise ModelError(f"tensor {spec.name!r} must be float32 {list(spec.shape)}, not {port}")
        return specs

    def _classes(self) -> int:
        rows = np.zeros((batches.fixed_batch(self._roles.infer_x) or 1, *self.x_shape), np.float32)
        logits = self._run["infer"]({self._roles.infer_x.name: rows})[self._roles.logits]
        if logits.dtype != np.float32 or logits.ndim != 2 or len(logits) != len(rows) or not logits.size:
            raise ModelError(f"logits must be float32 [B, C], not {logits.dtype} {list(logits.shape)}")
        return int(logits.shape[1])

    def _labels(self, y: NDArray[Any], rows: int) -> NDArray[Any]:
        port, shape = self._roles.y, (rows, *self._roles.y.shape[1:])
        takes_floats = port.dtype.kind == "f"
        if y.dtype.kind in "iu" and y.shape == (rows,):
            highest = max(self.classes, 2) - 1
            regression = takes_floats and self.classes == 1
            # ONE_HOT makes a row of zeros of a class that is not there, and trains on it.
            if not regression and not 0 <= y.min() <= y.max() <= highest:
                raise DataError(f"labels must be 0 to {highest}, not {y.min()} to {y.max()}")
            if shape == (rows, self.classes) and self.classes > 1:
                y = y[:, None] == np.arange(self.classes)
        elif not (takes_floats and y.dtype.kind == "f" and np.isfinite(y).all()):
            raise DataError(f"labels must be integers [B], not {y.dtype} {list(y.shape)}")
        if y.size != np.prod(shape):
            raise DataError(f"labels must be {list(shape)}, not {list(y.shape)}")
        return np.asarray(y.reshape(shape).astype(port.dtype))

    def _hyper(self, values: Mapping[str, float]) -> dict[str, NDArray[np.float32]]:
        wanted = self._roles.hyper
        values = {name: value for name, value in NEUTRAL.items() if name in wanted} | dict(values)
        if missing := wanted.keys() - values.keys():
            raise ModelError(
                f"the model's 'train' also needs {sorted(missing)}, which the plan does not have"
            )
        if surplus := values.keys() - wanted.keys() - {LEARNING_RATE}:
            raise ModelError(f"the model's 'train' has no input for {sorted(surplus)}")
        if wrong := [name for name in wanted if not abs(values[name]) <= LARGEST]:
            raise ModelError(f"hyper-parameter {wrong[0]!r} is not finite")
        return {port.name: np.full(port.shape, values[name], np.float32) for name, port in wanted.items()}


def _fits(shape: tuple[int, ...], port: Port) -> bool:
    same_rank = len(shape) == len(port.shape)
    return same_rank and all(want in {-1, have} for have, want in zip(shape, port.shape, strict=True))


def _why_not(model: bytes, missing: list[str], found: tuple[str, ...]) -> str:
    if flex := flex_ops(model):
        ops = ", ".join(flex[:4])
        return (
            f"the model uses TensorFlow's Flex ops ({ops}), which TFLite runtimes do not contain: "
            "convert it with built-in ops only, with get_weights and set_weights instead of save and restore"
        )
    have = f"it has only {', '.join(found)}" if found else "it has none"
    return (
        f"the model cannot be trained: no signature {', '.join(missing)} ({have}); "
        "fedclient model attach-head makes a deployed model trainable, new-head writes a head for raw samples"
    )


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > limits.MAX_MODEL_BYTES:
            raise ModelError(f"{path} has more than {limits.MAX_MODEL_BYTES} bytes")
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from None
