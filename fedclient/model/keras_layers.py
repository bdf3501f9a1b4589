"""Which layers on top of a Keras model can be a head of ours, and what their weights are called here.  Pure.

From the output down, the head may be what `head.py` writes and nothing else:

    [Softmax] Dense                          one trainable layer: its outputs are the classes
    [Softmax] Dense [ReLU] Dense             two: the lower one is the hidden layer

An activation may be the layer's own or a layer by itself; Dropout does nothing here and may be anywhere.
A layer without a bias gets one of zeros, which is trained as well.  Keras itself is handed in: this file
knows its classes only as attributes of the module.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fedclient.errors import ModelError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

NAMES: Final = ("output", "hidden")  # of the head's layers, from the output down
_REMEDY: Final = "make fewer layers trainable, or let the model end in Dense, ReLU and Dense"


@dataclass(frozen=True, kw_only=True)
class Split:
    """A Keras model, the part of it below the head, and the head's weights as fedclient names them."""

    model: Any
    backbone: Any
    layers: tuple[str, ...]  # names in the Keras model, from the head's input to the output
    weights: dict[str, NDArray[np.float32]]
    ends_in_softmax: bool

    @property
    def classes(self) -> int:
        return len(self.weights["output/bias"])

    @property
    def hidden(self) -> int | None:
        return len(self.weights["hidden/bias"]) if "hidden/bias" in self.weights else None


def split(keras: Any, model: Any, top: int | Sequence[str]) -> Split:
    """Find the `top` Dense layers, counted or by their names, and what is below them.

    Raises ModelError for a model that does not end in them, UsageError for a number of layers that no
    head has.
    """
    if not isinstance(model, keras.Model):
        raise ModelError(f"this is no Keras model but {type(model).__name__}")
    inputs, outputs = (getattr(model, name, None) for name in ("inputs", "outputs"))
    if not inputs or not outputs:
        raise ModelError("the model has no shape yet: call it once on a batch, or begin it with keras.Input")
    if len(inputs) != 1 or len(outputs) != 1:
        raise ModelError(
            f"the model must have one input and one output, not {len(inputs)} and {len(outputs)}"
        )
    count = top if isinstance(top, int) else len(top)
    if not 1 <= count <= len(NAMES):
        raise UsageError(f"a head has one or two Dense layers, not {count}")
    walk = _Walk(keras, model)
    while len(walk.dense) < count:
        walk.down()
    names = tuple(layer.name for layer in reversed(walk.dense))
    if not isinstance(top, int) and set(names) != set(top):
        raise ModelError(f"the last Dense layers are {', '.join(names)}, not {', '.join(top)}: {_REMEDY}")
    return Split(
        model=model,
        backbone=_backbone(keras, model, walk.tensor),
        layers=names,
        weights=_weights(walk.dense),
        ends_in_softmax=walk.ends_in_softmax,
    )


@dataclass
class _Walk:
    """From a model's output down; `tensor` is what the layers passed so far are computed from."""

    keras: Any
    model: Any
    dense: list[Any] = field(default_factory=list)
    ends_in_softmax: bool = False
    is_rectified: bool = False  # between this tensor and the Dense layer above it

    def __post_init__(self) -> None:
        self.tensor = self.model.outputs[0]

    def down(self) -> None:
        """Pass one layer.  Raises ModelError for one that no head has."""
        layer = self._made_by()
        if isinstance(layer, self.keras.layers.Dropout):
            pass
        elif type(layer) is self.keras.layers.Dense:
            self._activation(layer, layer.activation)
            self._pass_dense(layer)
        elif type(layer) is self.keras.layers.Activation:
            self._activation(layer, layer.activation)
        elif type(layer) is self.keras.layers.Softmax and layer.axis in {-1, 1}:
            self._activation(layer, self.keras.activations.softmax)
        elif type(layer) is self.keras.layers.ReLU and (layer.max_value, layer.threshold) == (None, 0):
            self._activation(layer, None if layer.negative_slope else self.keras.activations.relu)
        else:
            raise ModelError(f"{_told(layer)} cannot be in a head: {_REMEDY}")
        self.tensor = layer.input

    def _made_by(self) -> Any:
        for layer in self.model.layers:
            try:
                if layer.output is self.tensor:
                    return layer
            except (AttributeError, ValueError):  # it has several outputs, or is called several times
                continue
        raise ModelError(
            "what the head is fed is not the output of one layer: a model inside the model, or a layer that "
            "is used twice, cannot be in a head"
        )

    def _activation(self, layer: Any, function: Any) -> None:
        known = self.keras.activations
        if function is known.linear:
            return
        if function is known.softmax and not self.dense and not self.ends_in_softmax:
            self.ends_in_softmax = True
        elif function is known.relu and self.dense:
            self.is_rectified = True
        else:
            name = getattr(function, "__name__", "of its own")
            want = "ReLU and then Dense" if self.dense else "softmax, or no activation at all"
            raise ModelError(f"{_told(layer)} has the activation {name}, a head has {want} there")

    def _pass_dense(self, layer: Any) -> None:
        if self.dense and not self.is_rectified:
            raise ModelError(f"{_told(layer)} has no ReLU after it, as a head's hidden layer has: {_REMEDY}")
        if len(layer.input.shape) != 2:
            raise ModelError(
                f"{_told(layer)} is fed {list(layer.input.shape)}: flatten it, or pool it, before"
            )
        self.dense.append(layer)
        self.is_rectified = False


def _backbone(keras: Any, model: Any, tensor: Any) -> Any:
    if tensor is model.inputs[0]:
        raise ModelError(
            "the model is nothing but a head, so no backbone would be left: fedclient model new-head writes "
            "a head for raw samples"
        )
    return keras.Model(model.inputs, tensor)


def _weights(dense: list[Any]) -> dict[str, NDArray[np.float32]]:
    weights = {}
    for name, layer in zip(NAMES, dense, strict=False):
        kernel = np.asarray(layer.kernel, np.float32)  # [inputs, outputs]
        bias = np.zeros(layer.units) if layer.bias is None else np.asarray(layer.bias)
        weights[f"{name}/kernel"] = np.ascontiguousarray(kernel.T)
        weights[f"{name}/bias"] = bias.astype(np.float32)
    return weights


def _told(layer: Any) -> str:
    return f"the layer {layer.name!r} ({type(layer).__name__})"
