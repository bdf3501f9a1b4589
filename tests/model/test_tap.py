from __future__ import annotations

import numpy as np
import pytest

from fedclient.errors import ModelError
from fedclient.model.document import Document
from fedclient.model.schema import Op, TensorType
from fedclient.model.tap import Tap, choose_tap, operators_for
from fedclient.model.writer import Scalar
from tests.model import backbones
from tests.model.backbones import CHANNELS, CLASSES, FEATURES, RELU, Backbone, Layers

HEAD = "the input of the last FULLY_CONNECTED"
CONV_HEAD = "the input of the last 1x1 CONV_2D"
ITSELF = "the output itself"


def chosen(model: bytes, wanted: str | None = None) -> Tap:
    return choose_tap(Document.read(model), wanted)


def refused(model: bytes, wanted: str | None = None) -> str:
    with pytest.raises(ModelError) as refusal:
        chosen(model, wanted)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


@pytest.mark.parametrize(
    ("make", "name", "why"),
    [
        (backbones.classifier, "mean", HEAD),
        (backbones.embedder, "mean", ITSELF),
        (backbones.int8, "mean", HEAD),
        (backbones.uint8, "mean", HEAD),
        (backbones.int8_embedder, "mean", ITSELF),
        (backbones.dynamic_batch, "mean", HEAD),
        (backbones.conv_head_pooled, "pool", CONV_HEAD),
        (backbones.conv_head_meaned, "map", CONV_HEAD),
        (backbones.int8_conv_head, "map", CONV_HEAD),
        (backbones.stubborn, "flat", HEAD),
        (backbones.float16_weights, None, HEAD),
        (backbones.lstm, "last", HEAD),
        (backbones.loop, "looped", HEAD),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_zoo_is_cut_where_its_makers_say(make, name, why):
    tap = chosen(make())
    assert tap.name == name or name is None
    assert tap.why.startswith(why)
    assert tap.features == FEATURES
    assert tap.averaged == ("averaged over" in tap.why) == (name == "map")


def picture_to_map(how: Layers = Layers()) -> tuple[Backbone, int]:  # noqa: B008 - frozen
    model = Backbone(how)
    return model, model.conv(model.picture(), "map", (CHANNELS, FEATURES, 3))


def activated(model: Backbone, op: Op, x: int, shape: tuple[int, ...]) -> int:
    """Add a layer that has a ReLU of its own."""
    kernel = model.graph.constant(np.ones((shape[-1], *(1, 1) * (op == Op.CONV_2D), FEATURES), np.float32))
    bias = model.graph.constant(np.zeros(shape[-1], np.float32))
    options = {0: Scalar("Int8", RELU)}
    if op == Op.CONV_2D:
        options = {1: Scalar("Int32", 1), 2: Scalar("Int32", 1), 3: Scalar("Int8", RELU)}
    return model.graph.op(op, [x, kernel, bias], shape, options)


def test_a_layer_with_an_activation_ends_an_embedder():
    model, x = picture_to_map()
    dense = activated(model, Op.FULLY_CONNECTED, model.mean(x, FEATURES), (1, 5))
    tap = chosen(model.finish(embedding=dense))
    assert (tap.index, tap.features) == (dense, 5)
    model, x = picture_to_map()
    pooled = model.mean(activated(model, Op.CONV_2D, x, (1, 8, 8, 7)), 7)
    tap = chosen(model.finish(embedding=pooled))
    assert (tap.index, tap.features) == (pooled, 7)


def test_before_probabilities_it_is_a_head_all_the_same():
    """As in SqueezeNet: 1x1 convolution with ReLU, average, softmax."""
    model, x = picture_to_map()
    pooled = model.mean(activated(model, Op.CONV_2D, x, (1, 8, 8, CLASSES)), CLASSES)
    tap = chosen(model.finish(probabilities=model.softmax(pooled)))
    assert (tap.index, tap.averaged) == (x, True)


def test_sigmoid_reshape_and_dequantize_are_passed():
    model, x = picture_to_map()
    mean = model.mean(x, FEATURES)
    scores = model.graph.op(Op.LOGISTIC, [model.connected(mean, FEATURES, CLASSES)], (1, CLASSES))
    shape = model.graph.constant(np.array([CLASSES], np.int32))
    out = model.graph.op(Op.RESHAPE, [scores, shape], (CLASSES,), {0: (CLASSES,)})
    assert chosen(model.finish(scores=out)).index == mean
    model, x = picture_to_map(Layers(kind=TensorType.INT8))
    mean = model.mean(x, FEATURES)
    out = model.graph.dequantize(model.connected(mean, FEATURES, CLASSES), (1, CLASSES))
    tap = chosen(model.finish(scores=out))
    assert (tap.index, tap.dtype) == (mean, "int8")


def test_what_is_neither_a_head_nor_an_embedder_is_refused():
    model, x = picture_to_map()
    added = model.graph.op(Op.ADD, [x, x], (1, 8, 8, FEATURES))
    said = refused(model.finish(sums=added))
    assert "comes from ADD" in said
    assert "--tap" in said
    model, x = picture_to_map()
    assert "comes from SOFTMAX" in refused(model.finish(p=model.softmax(model.mean(x, FEATURES), FEATURES)))
    model = Backbone(Layers())
    x = model.graph.input("x", (1, FEATURES))
    assert "new-head" in refused(model.finish(logits=model.connected(x, FEATURES, CLASSES)))
    model = Backbone(Layers())
    assert "comes from an input" in refused(model.finish(same=model.picture()))


def test_inputs_and_outputs_are_one():
    assert "2 outputs ('left', 'right')" in refused(backbones.two_outputs())
    assert chosen(backbones.two_outputs(), "mean").name == "mean"
    said = refused(backbones.two_inputs())
    assert "exactly one input, not 2" in said
    assert "--tap" in said
    assert chosen(backbones.two_inputs(), "mean").features == FEATURES


def test_a_tap_is_asked_for_by_name_or_index():
    model = backbones.classifier()
    by_name = chosen(model, "map")
    assert by_name == chosen(model, str(by_name.index))
    assert by_name.why == "it was asked for with --tap; averaged over its height and width"
    assert (by_name.shape, by_name.features) == ((1, 8, 8, FEATURES), FEATURES)
    assert "is not in the model" in refused(model, "nothing")
    assert "is not in the model" in refused(model, "9" * 20)
    assert f"(did you mean tensor {by_name.index}, 'map'?)" in refused(model, "ma...")
    assert "is an input or a constant" in refused(model, "serving_default_image")
    assert "features are float32" in refused(float64_tap(), "wide")


def float64_tap() -> bytes:
    model, x = picture_to_map()
    mean = model.mean(x, FEATURES)
    wide = model.graph.tensor((1, FEATURES), TensorType.FLOAT64, "wide")
    model.graph.typed_op(Op.CAST, [mean], wide)
    return model.finish(wide=wide)


def test_two_tensors_of_one_name_need_an_index():
    model, x = picture_to_map()
    first = model.mean(x, FEATURES, "twin")
    second = model.graph.tensor((1, FEATURES), TensorType.FLOAT32, "twin")
    model.graph.typed_op(Op.NEG, [first], second)
    data = model.finish(logits=model.connected(second, FEATURES, CLASSES))
    assert f"[{first}, {second}]" in refused(data, "twin")
    assert chosen(data, str(first)).index == first


def one_layer(shape: tuple[int, ...], kind: TensorType = TensorType.FLOAT32) -> bytes:
    model = Backbone(Layers())
    x = model.graph.tensor(shape, kind, "samples")
    model.graph.feed("samples", x)
    return model.finish(out=model.graph.op(Op.MEAN, [x, model.graph.constant(np.array([0]))], (1, FEATURES)))


def test_a_sample_must_be_able_to_be_the_input():
    assert chosen(one_layer((1, 5, 5))).features == FEATURES
    assert "needs a batch dimension in front, as in [1, 5]" in refused(one_layer((5,)))
    assert "is int64 [1, 5]: samples are float32" in refused(one_layer((1, 5), TensorType.INT64))
    assert "only the batch may be dynamic" in refused(one_layer((1, -1, 3)))
    assert "only the batch may be dynamic" in refused(backbones.dynamic_sides())
    assert "needs a batch dimension" in refused(one_layer((1,) * 8))


def test_a_batch_of_nothing_is_refused():
    model = Backbone(Layers())
    x = model.graph.input("x", (1, 5))
    model.graph._tensors[x][0] = (0, 5)
    assert "[0, 5]: only the batch may be dynamic" in refused(model.finish(out=model.mean(x, 3)))


def test_features_have_a_fixed_size_and_a_batch():
    for shape in ((-1, -1), (FEATURES,)):
        model = Backbone(Layers())
        axis = model.graph.constant(np.array([1], np.int32))
        out = model.graph.op(Op.MEAN, [model.picture(), axis], shape)
        assert "features are a batch of rows" in refused(model.finish(out=out))


def test_a_size_that_the_file_gives_stays_though_it_is_called_dynamic():
    data = backbones.classifier()
    document = Document.read(data)
    assert document.graphs[0].tensors[0].shape == (1, 8, 8, 3)
    called = Backbone(Layers())
    x = called.graph.input("x", (1, 8, 8, 3))
    called.graph._tensors[x][7] = (-1, -1, -1, 3)
    assert chosen(called.finish(out=called.mean(x, 3))).features == 3


def test_only_what_the_tap_needs_is_kept():
    graph = Document.read(backbones.classifier()).graphs[0]
    names = [
        graph.operators[number].name for number in operators_for(graph, chosen(backbones.classifier()).index)
    ]
    assert names == ["CONV_2D", "MEAN"]


def test_what_sets_variables_before_the_tap_is_kept():
    model = Backbone(Layers())
    x = model.picture()
    once = [Op.CALL_ONCE, [], None, {0: Scalar("Int32", 0)}]
    model.graph.typed_op(*once)
    mean = model.mean(x, CHANNELS)
    model.graph.typed_op(*once)
    graph = Document.read(model.finish(out=mean)).graphs[0]
    assert operators_for(graph, mean) == (0, 1)
