"""Make a trainable file of a Keras model: its top layers are the head, all below is converted.

The only file that knows TensorFlow, which no device needs.  A model leaves here like one that
`fedclient model attach-head` made, by the same code and with the same proof; then `predict` is compared
with the Keras model itself.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fedclient.errors import ModelError, UsageError
from fedclient.model import keras_layers
from fedclient.model.attach import Attached, NewHead
from fedclient.model.attach_check import Proved, attach_proved
from fedclient.model.document import Document
from fedclient.model.options import VARIANCE_FLOOR, HeadOptions
from fedclient.model.schema import Op
from fedclient.runtime.interpreter import open_signatures
from fedclient.values import MEAN, MEAN_SQUARE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedclient.model.keras_layers import Split

TOLERANCE: Final = 1e-4  # of the largest prediction: float32 in two orders of summation
CALIBRATION_ROWS: Final = 256  # samples that int8's ranges are measured on: more change little
COMPARED_ROWS: Final = 16
_SHORT: Final = 160  # characters of what somebody else's error says
_MISSING_OPS: Final = re.compile(r"(?:Flex|Custom) ops: *([\w, ]+)")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What to make of it; int8 and normalisation measure `samples` [N, ...], and the proof runs on them."""

    options: HeadOptions = field(default_factory=HeadOptions)
    labels: tuple[str, ...] = ()
    int8: bool = False
    samples: NDArray[Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A proved file; `max_prediction_error`: of the Keras model's largest, with int8 what that costs."""

    attached: Attached
    proved: Proved
    parent: bytes  # the backbone alone, as TensorFlow converted it
    max_prediction_error: float


def tensorflow() -> Any:
    """Return the module, or raise UsageError that says how to get it."""
    try:
        import tensorflow as tf  # noqa: PLC0415 - 1.4 GB, for this one command
    except ImportError:
        raise UsageError("a Keras model needs TensorFlow: pip install 'fedclient[keras]'") from None
    return tf


def load(path: str) -> Any:
    """Return the model in a .keras or .h5 file; code that is pickled in it is not run.

    Raises ModelError.
    """
    keras = tensorflow().keras
    try:
        return keras.models.load_model(path, compile=False)
    except Exception as error:  # noqa: BLE001 - Keras raises a dozen kinds
        raise ModelError(f"{path}: Keras cannot load it: {_line(error)}") from None


def split(model: Any, top: int | Sequence[str] = 1) -> Split:
    """Cut a Keras model below its `top` Dense layers, counted or by their names.

    Raises ModelError for a model that does not end in them, UsageError for a number that no head has.
    """
    return keras_layers.split(tensorflow().keras, model, top)


def export(found: Split, wanted: Wanted) -> Exported:
    """Return a trainable file that predicts what the Keras model does, and starts with its weights.

    Raises ModelError when the model cannot be converted or proved, UsageError for what no head has.
    """
    if wanted.samples is None and (wanted.int8 or wanted.options.normalize):
        raise UsageError("int8 and normalisation are measured on samples: give some with --data")
    parent = convert(found.backbone, wanted.samples if wanted.int8 else None)
    head = NewHead(
        classes=found.classes,
        hidden=found.hidden,
        tap=str(Document.read(parent).graphs[0].outputs[0]),
        options=wanted.options,
        labels=wanted.labels,
        given=_normalized(found, wanted) if wanted.options.normalize else found.weights,
    )
    attached, proved = attach_proved(parent, head, wanted.samples)
    error = _difference(found, attached.data, wanted.samples)
    if not wanted.int8 and not error <= TOLERANCE:
        raise ModelError(f"nothing is written: it predicts otherwise than the Keras model, by {error:.1e}")
    return Exported(attached=attached, proved=proved, parent=parent, max_prediction_error=error)


def convert(backbone: Any, samples: NDArray[Any] | None = None) -> bytes:
    """Return the backbone as a .tflite file of built-in ops, in int8 where `samples` are given.

    One that cannot take several samples at once (an LSTM's lists need fixed sizes) takes one.
    Raises ModelError when it needs ops that the TFLite runtimes do not have.
    """
    given = backbone.inputs[0]
    try:
        plain = _converted(backbone)
    except Exception:  # noqa: BLE001 - the converter raises all kinds, and so does code of the model
        try:
            keras = tensorflow().keras
            one = keras.Input(batch_shape=(1, *given.shape[1:]), dtype=given.dtype)
            plain = _converted(keras.Model(one, backbone(one)))
        except Exception as error:  # noqa: BLE001 - ditto
            raise ModelError(_why_not(error)) from None
    if samples is None:
        return plain
    if any(one.op == Op.WHILE for one in Document.read(plain).graphs[0].operators):
        raise ModelError(
            "TensorFlow crashes when it measures int8 ranges in a loop (LSTM, GRU): leave --int8 out"
        )
    try:
        return _converted(backbone, samples[:CALIBRATION_ROWS].astype(given.dtype))
    except Exception as error:  # noqa: BLE001 - ditto
        raise ModelError(f"in int8: {_why_not(error)}") from None


def _converted(backbone: Any, samples: NDArray[Any] | None = None) -> bytes:
    lite = tensorflow().lite
    converter = lite.TFLiteConverter.from_keras_model(backbone)
    converter.target_spec.supported_ops = [lite.OpsSet.TFLITE_BUILTINS]
    if samples is not None:
        converter.optimizations = [lite.Optimize.DEFAULT]
        converter.target_spec.supported_ops = [lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.representative_dataset = lambda: ([row[None]] for row in samples)
    with redirect_stdout(io.StringIO()):  # it tells where its temporary files are
        return bytes(converter.convert())


def _why_not(error: Exception) -> str:
    listed = _MISSING_OPS.findall(str(error))
    if ops := sorted({op for names in listed for op in re.split(r"\W+", names) if op}):
        return (
            f"the backbone needs ops that TFLite runtimes do not have ({', '.join(ops)}): "
            "replace the layers that they come from"
        )
    return f"TensorFlow cannot convert the backbone to built-in ops: {_line(error)}"


def _normalized(found: Split, wanted: Wanted) -> dict[str, NDArray[np.float32]]:
    """Return weights with the samples' statistics that make of (x - mean) / deviation what they did of x.

    A federation with `statistics` puts its own in their place; the more the samples are like
    its devices', the less the predictions change then.
    """
    x = _predicted(found.backbone, wanted.samples).astype(np.float64)
    mean = x.mean(axis=0).astype(np.float32)
    square = np.square(x).mean(axis=0)
    constant = square - np.square(mean, dtype=np.float64) <= VARIANCE_FLOOR
    square = np.where(constant, np.square(mean) + 1.0, square).astype(np.float32)
    lowest = "hidden" if found.hidden else "output"
    kernel, bias = found.weights[f"{lowest}/kernel"], found.weights[f"{lowest}/bias"]
    return {
        **found.weights,
        MEAN: mean,
        MEAN_SQUARE: square,
        f"{lowest}/kernel": kernel * np.sqrt(square - np.square(mean)),
        f"{lowest}/bias": bias + kernel @ mean,
    }


def _difference(found: Split, file: bytes, samples: NDArray[Any] | None) -> float:
    """Return how far `predict` is from the Keras model, relative to its largest prediction."""
    predict = open_signatures(file, threads=1, delegates=False)["predict"]
    port, output = predict.inputs[0], predict.outputs[0]
    if samples is None:  # then it takes floats or bytes: the proof has refused the rest
        high = 255 if port.dtype == np.uint8 else 1
        samples = high * np.random.default_rng(0).random((COMPARED_ROWS, *port.shape[1:]))
    rows = samples[:COMPARED_ROWS].astype(port.dtype)
    logits = np.concatenate([predict({port.name: row[None]})[output.name] for row in rows])
    if found.ends_in_softmax:
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        logits = odds / odds.sum(axis=1, keepdims=True)
    truth = _predicted(found.model, rows)
    return float(np.abs(logits - truth).max() / (np.abs(truth).max() or 1.0))


def _predicted(model: Any, rows: NDArray[Any] | None) -> NDArray[np.float32]:
    return np.asarray(model.predict(rows, verbose=0), np.float32)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:_SHORT].rstrip(". ") or type(error).__name__
