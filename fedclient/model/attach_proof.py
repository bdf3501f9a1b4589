"""Prove that a file with a new head computes what the model it was made of does.

The parent's tap is read where it is computed, from the parent's own file, which is told in a few bytes at its
end that the tap is one more output (`expose`): tflite-runtime 2.14 overwrites inner tensors even with
`experimental_preserve_all_tensors`, where the next operator works in place.  Then, on random input and on
pictures (the caller's samples, else synthetic ones):

| what | bound |
|---|---|
| features, plain kernels, against the parent's tap | `EXACT` of the largest |
| features with the delegates that devices use, against the parent's tap with them | `DELEGATED` of the largest, or two quantisation steps |
| delegates against plain kernels, a matter of the runtime and the parent | `DRIFT` of the largest |
| several rows at once against one by one | as the first |
| `predict` against `infer` of `features`, both kernels | as the first and the second |
| a row after another one | equal |

tflite-runtime 2.14 gives its delegate to graph 0 only, so its devices may compute `features` with plain kernels:
either will do.  The head's training is proved by `proof.py`.  All of it runs in a child (`attach_check.py`).
"""  # noqa: E501 - a table

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fedclient.errors import DataError, FedClientError, ModelError
from fedclient.model import proof, schema
from fedclient.model.origin import Origin, read_origin
from fedclient.model.reader import Table
from fedclient.model.synthetic import noise, pictures
from fedclient.runtime import load
from fedclient.runtime.batches import fixed_batch, in_chunks
from fedclient.runtime.inner import read_output
from fedclient.runtime.interpreter import Signature, open_signatures
from fedclient.values import MEAN_SQUARE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedclient.runtime import TrainableModel

EXACT: Final = 1e-6
DELEGATED: Final = 1e-4
DRIFT: Final = 0.25
BATCHED: Final = 1e-5  # several rows may be summed in another order
STEPS: Final = 2  # of quantisation


@dataclass(frozen=True, kw_only=True, slots=True)
class Proved:
    """What was found; `batch_fails`: a file that takes one row at a time may be right.

    The errors are relative to the largest feature, None where nothing was compared.
    """

    ok: bool
    reason: str
    batch_fails: bool = False
    max_feature_error: float | None = None
    max_delegate_error: float | None = None
    delegate_drift: float | None = None
    max_training_error: float | None = None


class _BatchFails(ModelError):
    """Several rows at once do not give what one by one gives."""


def pack(file: bytes, parent: bytes, samples: NDArray[Any] | None) -> bytes:
    """Return what `prove_json` takes; `parent`: b"" where it is not at hand."""
    told = {"file": len(file), "parent": len(parent)}
    rows = b"" if samples is None else samples.tobytes()
    shape = None if samples is None else [samples.dtype.str, list(samples.shape)]
    return b"\n".join([json.dumps(told | {"samples": shape}).encode(), file + parent + rows])


def prove_json(packed: bytes) -> bytes:
    """Return `prove` of what `pack` made as JSON, for the other side of a pipe."""
    head, _, body = packed.partition(b"\n")
    told = json.loads(head)
    end = told["file"] + told["parent"]
    samples = None
    if told["samples"]:
        dtype, shape = told["samples"]
        samples = np.frombuffer(body[end:], dtype).reshape(shape)
    return json.dumps(asdict(prove(body[: told["file"]], body[told["file"] : end], samples))).encode()


def prove(file: bytes, parent: bytes = b"", samples: NDArray[Any] | None = None) -> Proved:
    """Compare a trainable file with the model it was made of; whatever is wrong is in the result."""
    training = None
    try:
        origin = read_origin(file)
        if origin is None:
            raise ModelError("the file does not say which model it was made of: attach-head did not write it")
        _check_parent(origin, parent)
        report = proof.prove(file)
        training = report.max_relative_error
        if not report.ok:
            raise ModelError(report.reason)
        errors = _Comparison(file, parent, origin, samples).run()
    except _BatchFails as problem:
        return Proved(ok=False, reason=str(problem), batch_fails=True, max_training_error=training)
    except FedClientError as problem:
        return Proved(ok=False, reason=str(problem), max_training_error=training)
    return replace(errors, reason=_reason(errors, report.reason), max_training_error=training)


def expose(model: bytes, tensor: int) -> bytes:
    """Return `model` with one more output of graph 0: tensor number `tensor`.

    Raises ModelError when the file is damaged.
    """
    graph = Table.root(model).tables(schema.Model.SUBGRAPHS)[0]
    at, outputs = graph.field(schema.SubGraph.OUTPUTS), graph.integers(schema.SubGraph.OUTPUTS)
    if not at:
        raise ModelError("the .tflite file is damaged: its graph has no outputs")
    end = len(model) + -len(model) % 4
    data = bytearray(model.ljust(end, b"\0"))
    struct.pack_into("<I", data, at, end - at)  # where its vector of outputs is from now on
    return bytes(data) + struct.pack(f"<I{len(outputs) + 1}i", len(outputs) + 1, *outputs, tensor)


class _Comparison:
    def __init__(self, file: bytes, parent: bytes, origin: Origin, samples: NDArray[Any] | None) -> None:
        self._file = file
        self._parent = parent and expose(parent, origin.tap.index)
        self._origin = origin
        self._model = load(file)
        self._rows = _rows(self._model, origin, samples)

    def run(self) -> Proved:
        plain = open_signatures(self._file, threads=1, delegates=False)
        found = _one_by_one(plain["features"], self._rows)
        _check_batch(plain["features"], self._rows, found)
        device = self._model.extract(self._rows)
        self._check_memory()
        errors = Proved(ok=True, reason="")
        if self._parent:
            errors = self._compare(found, device)
        _check_predict(plain, self._model, self._rows, EXACT)
        fast = open_signatures(self._file, threads=1, delegates=True)
        _check_predict(fast, self._model, self._rows, DELEGATED)
        return errors

    def _compare(self, plain: NDArray[np.float32], device: NDArray[np.float32]) -> Proved:
        wanted, wanted_of_device = self._wanted(delegates=False), self._wanted(delegates=True)
        if plain.shape != wanted.shape:
            raise ModelError(f"the features are {list(plain.shape)}, not {list(wanted.shape)}")
        largest = float(np.abs(wanted).max())
        if not largest or (wanted == wanted[0]).all():
            raise ModelError(
                "the features are the same whatever the sample is: name another tensor with --tap, "
                "or give real samples with --data"
            )
        error, delegated, undelegated, drift = (
            float(np.abs(one - other).max()) / largest
            for one, other in (
                (plain, wanted),
                (device, wanted_of_device),
                (device, wanted),
                (wanted_of_device, wanted),
            )
        )
        delegated = min(delegated, undelegated)
        bound = max(DELEGATED, STEPS * (1 + EXACT) * max(self._origin.tap_scale, default=0) / largest)
        for what, value, most in (
            ("the features differ from the model's own", error, EXACT),
            ("with delegates, the features differ from the model's own", delegated, bound),
            ("the runtime's delegates compute other features than its plain kernels", drift, DRIFT),
        ):
            if not value <= most:
                raise ModelError(f"{what} by {value:.1e} of the largest, more than {most:.1e}")
        return Proved(
            ok=True,
            reason="",
            max_feature_error=error,
            max_delegate_error=delegated,
            delegate_drift=drift,
        )

    def _wanted(self, *, delegates: bool) -> NDArray[np.float32]:
        """Return what the parent's tap says, by the formulas instead of by operators."""
        tap, origin = self._origin.tap, self._origin
        found = read_output(
            self._parent, tap.index, self._rows, feed=origin.input.index, delegates=delegates
        ).astype(np.float64)
        if origin.tap_scale:
            found = (found - origin.tap_zero_point[0]) * origin.tap_scale[0]
        if found[0].size % tap.features or (found[0].size != tap.features and not tap.averaged):
            raise ModelError(f"the model's tap has {found[0].size} numbers, not {tap.features} features")
        rows = found.astype(np.float32).reshape(len(found), -1, tap.features)
        if tap.averaged:  # one place after the other in float32, as the operator sums: a large map has many
            total = rows[:, 0].copy()
            for place in range(1, rows.shape[1]):
                total += rows[:, place]
            return np.asarray(total / np.float32(rows.shape[1]))
        return rows.reshape(len(found), -1)

    def _check_memory(self) -> None:
        """The features of a row must not depend on the row before."""
        first, other = self._rows[:1], self._rows[-1:]
        before, _, after = (self._model.extract(rows) for rows in (first, other, first))
        if not np.array_equal(before, after):
            raise ModelError(
                "the features of a sample depend on the sample before it: the backbone keeps a state "
                "that nothing resets; export it without"
            )


def _rows(model: TrainableModel, origin: Origin, samples: NDArray[Any] | None) -> NDArray[Any]:
    shape, dtype = model.sample_shape, model.sample_dtype
    if samples is None:
        return np.concatenate([make(shape, dtype, origin) for make in (noise, pictures)])
    real = model.as_samples(samples)
    if real.shape[1:] != shape:
        raise DataError(f"the samples are {list(real.shape[1:])}, the model takes {list(shape)}")
    try:
        return np.concatenate([noise(shape, dtype, origin), real])
    except ModelError:  # whole numbers that stand for something: what is random is no sample
        return real


def _one_by_one(signature: Signature, rows: NDArray[Any]) -> NDArray[np.float32]:
    (port,), (output,) = signature.inputs, signature.outputs
    return in_chunks(signature, port, output.name, rows, fixed_batch(port) or 1)


def _check_batch(signature: Signature, rows: NDArray[Any], wanted: NDArray[np.float32]) -> None:
    (port,), (output,) = signature.inputs, signature.outputs
    if fixed_batch(port):
        return
    try:
        found = signature({port.name: rows})[output.name]
    except ModelError as error:
        raise _BatchFails(str(error)) from None
    if found.shape != wanted.shape or not _error(found, wanted) <= BATCHED:
        raise _BatchFails("several samples at once do not give what they give one by one")


def _check_predict(
    signatures: dict[str, Signature], model: TrainableModel, rows: NDArray[Any], bound: float
) -> None:
    """`predict` must be `infer` of `features`, and see the weights that `set_weights` sets."""
    rng = np.random.default_rng(1)
    weights = {
        tensor.name: rng.uniform(-0.5, 0.5, tensor.shape).astype(np.float32) for tensor in model.tensors
    }
    if MEAN_SQUARE in weights:
        weights[MEAN_SQUARE] += 1  # at least the square of the mean
    signatures["set_weights"](weights)
    wanted = _one_by_one(signatures["infer"], _one_by_one(signatures["features"], rows))
    error = _error(_one_by_one(signatures["predict"], rows), wanted)
    if not error <= bound:
        raise ModelError(f"'predict' differs from 'infer' of 'features' by {error:.1e} of the largest logit")


def _error(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    return float(np.abs(found - wanted).max() / (np.abs(wanted).max() or 1))


def _check_parent(origin: Origin, parent: bytes) -> None:
    if parent and sha256(parent).hexdigest() != origin.parent.sha256:
        raise ModelError(
            f"the file was made of another model: its parent's SHA-256 is {origin.parent.sha256}"
        )


def _reason(found: Proved, training: str) -> str:
    if found.max_feature_error is None:
        return f"{training}; its features are not compared, as the model it was made of is not given"
    error = found.max_feature_error
    return f"{training}; its features are those of the model, within {error:.1e} of the largest"
