"""The walk from a model's output down, on stand-ins for Keras: what TensorFlow has is in test_keras.py."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

from fedclient.errors import ModelError, UsageError
from fedclient.model.keras_layers import split


class Model:
    """Layers in a row; `keras.Model(inputs, output)` is what is below the cut."""

    def __init__(self, inputs, output) -> None:
        self.inputs, self.outputs, self.layers = inputs, [output], []


class Layer:
    def __init__(self, name, **settings) -> None:
        self.name = name
        self.__dict__.update(settings)


class Dense(Layer):
    pass


class Activation(Layer):
    pass


class Dropout(Layer):
    pass


class Softmax(Layer):
    axis = -1


class ReLU(Layer):
    max_value, threshold, negative_slope = None, 0.0, 0.0


class BatchNormalization(Layer):
    pass


def linear(): ...
def relu(): ...
def softmax(): ...
def tanh(): ...


KERAS = SimpleNamespace(
    Model=Model,
    layers=SimpleNamespace(Dense=Dense, Activation=Activation, Dropout=Dropout, Softmax=Softmax, ReLU=ReLU),
    activations=SimpleNamespace(linear=linear, relu=relu, softmax=softmax),
)


def dense(name, inputs, units, activation=linear, *, bias=True):
    kernel = np.arange(inputs * units, dtype=np.float32).reshape(inputs, units)
    values = np.arange(units, dtype=np.float32) if bias else None
    return Dense(name, units=units, kernel=kernel, bias=values, activation=activation)


def model(*layers, shape=(None, 6)):
    tensors = [SimpleNamespace(shape=shape) for _ in range(len(layers) + 1)]
    for layer, (below, above) in zip(layers, pairwise(tensors), strict=True):
        layer.input, layer.output = below, above
    made = Model([tensors[0]], tensors[-1])
    made.layers = list(layers)
    return made


BODY = Layer("body")


def test_one_layer_is_the_output_and_what_is_below_is_the_backbone():
    made = model(BODY, dense("old", 6, 4, relu), dense("top", 4, 3, softmax))
    found = split(KERAS, made, 1)
    assert (found.layers, found.classes, found.hidden, found.ends_in_softmax) == (("top",), 3, None, True)
    assert found.weights.keys() == {"output/kernel", "output/bias"}
    assert np.array_equal(found.weights["output/kernel"], made.layers[2].kernel.T)
    assert found.weights["output/kernel"].flags.c_contiguous
    assert found.backbone.outputs == [made.layers[2].input]


def test_two_layers_have_a_relu_between_them_and_dropout_is_nothing():
    made = model(
        BODY,
        dense("low", 6, 4),
        Activation("act", activation=relu),
        Dropout("drop"),
        dense("top", 4, 3, bias=False),
        Softmax("odds"),
    )
    found = split(KERAS, made, ["low", "top"])
    assert (found.layers, found.classes, found.hidden, found.ends_in_softmax) == (("low", "top"), 3, 4, True)
    assert found.weights["hidden/kernel"].shape == (4, 6)
    assert found.weights["output/bias"].tolist() == [0, 0, 0]
    assert found.backbone.outputs == [BODY.output]
    assert split(KERAS, model(BODY, dense("low", 6, 4), ReLU("r"), dense("top", 4, 3)), 2).hidden == 4


@pytest.mark.parametrize(
    ("layers", "top", "said"),
    [
        ([dense("top", 6, 3, tanh)], 1, "'top' .Dense. has the activation tanh"),
        ([dense("top", 6, 3, softmax), Softmax("odds")], 1, "'top' .Dense. has the activation softmax"),
        ([dense("low", 6, 4), dense("top", 4, 3)], 2, "'low' .Dense. has no ReLU after it"),
        ([dense("low", 6, 4, tanh), dense("top", 4, 3)], 2, "'low' .Dense. has the activation tanh"),
        ([dense("low", 6, 4, relu), BatchNormalization("bn"), dense("top", 4, 3)], 2, "'bn' .BatchNorm"),
        ([dense("low", 6, 4), ReLU("r", max_value=6.0), dense("top", 4, 3)], 2, "'r' .ReLU. cannot be"),
        (
            [dense("low", 6, 4), ReLU("r", negative_slope=0.1), dense("top", 4, 3)],
            2,
            "'r' .ReLU. has the act",
        ),
        ([dense("low", 6, 4, relu), dense("top", 4, 3)], ["low"], "the last Dense layers are top, not low"),
        ([], 1, "'body' .Layer. cannot be in a head"),
    ],
)
def test_what_no_head_has_is_refused_by_name(layers, top, said):
    with pytest.raises(ModelError, match=said):
        split(KERAS, model(BODY, *layers), top)


def test_a_head_has_one_layer_or_two():
    for top in (0, 3, ["a", "b", "c"]):
        with pytest.raises(UsageError, match="one or two Dense layers"):
            split(KERAS, model(BODY, dense("top", 6, 3)), top)


def test_models_of_another_shape_are_refused():
    with pytest.raises(ModelError, match="no Keras model but dict"):
        split(KERAS, {}, 1)
    with pytest.raises(ModelError, match="nothing but a head"):
        split(KERAS, model(dense("top", 6, 3)), 1)
    with pytest.raises(ModelError, match=r"'top' \(Dense\) is fed \[None, 8, 5\]"):
        split(KERAS, model(BODY, dense("top", 5, 3), shape=(None, 8, 5)), 1)
    two = model(BODY, dense("top", 6, 3))
    two.outputs *= 2
    with pytest.raises(ModelError, match="one input and one output, not 1 and 2"):
        split(KERAS, two, 1)
    shapeless = model(BODY, dense("top", 6, 3))
    shapeless.inputs = None
    with pytest.raises(ModelError, match="no shape yet"):
        split(KERAS, shapeless, 1)
    nested = model(BODY, dense("top", 6, 3))
    nested.outputs = [object()]
    with pytest.raises(ModelError, match="a model inside the model"):
        split(KERAS, nested, 1)
