"""A zoo of small models of others, as converters write them: what attach-head must take, or refuse by name.

Each function returns the bytes of a .tflite file; the same call gives the same bytes.  All take one
picture [1, 8, 8, 3] unless they say otherwise.  `RUNS` really run on the plain runtime, `REFUSED` say why
they do not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fedclient.model import schema
from fedclient.model.schema import Op, TensorType
from fedclient.model.writer import ModelWriter, Quantization, Scalar, Table

SIDE, CHANNELS, FEATURES, CLASSES = 8, 3, 6, 4
SAME, VALID = 0, 1  # enum Padding
RELU, TANH = 1, 4  # enum ActivationFunctionType
KERNEL_VERSIONS = {TensorType.FLOAT32: 1, TensorType.UINT8: 1, TensorType.INT8: 3}
CONNECTED_VERSIONS = {TensorType.FLOAT32: 1, TensorType.UINT8: 1, TensorType.INT8: 4}
INTEGER_VERSIONS = {TensorType.FLOAT32: 1, TensorType.UINT8: 1, TensorType.INT8: 2}


@dataclass(frozen=True, kw_only=True)
class Layers:
    """The numbers that a graph computes with; per-tensor `int8` and `uint8`, or int8 per output channel."""

    kind: TensorType = TensorType.FLOAT32
    per_channel: bool = False
    batch: int = 1
    side: int = SIDE

    @property
    def quantized(self) -> bool:
        return self.kind != TensorType.FLOAT32


def random(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


class Backbone:
    """One graph that layers are added to, in float32 or in integers."""

    def __init__(self, how: Layers, name: str = "serving_default") -> None:
        self.model = ModelWriter("backbone")
        self.how = how
        self.graph = self.model.graph(name)
        self.zero = {TensorType.UINT8: 128, TensorType.INT8: 0}.get(how.kind, 0)

    def activations(self, shape: tuple[int, ...], name: str, scale: float = 1 / 32) -> int:
        tensor = self.graph.tensor(shape, self.how.kind, name)
        return self._quantized(tensor, scale)

    def picture(self) -> int:
        side = self.how.side
        shape = (self.how.batch, side, side, CHANNELS)
        types = {TensorType.FLOAT32: np.float32, TensorType.UINT8: np.uint8, TensorType.INT8: np.int8}
        return self._quantized(self.graph.input("image", shape, types[self.how.kind]), 1 / 128)

    def _quantized(self, tensor: int, scale: float, zero: int | None = None) -> int:
        if not self.how.quantized:
            return tensor
        point = self.zero if zero is None else zero
        return self.graph.quantize(tensor, Quantization(scale=(scale,), zero_point=(point,)))

    def weights(self, value: np.ndarray, input_scale: float) -> tuple[int, int]:
        """Add a kernel, its output channels first, and a bias; only convolutions have scales per channel."""
        channels = len(value)
        if not self.how.quantized:
            return self.graph.constant(value), self.graph.constant(random(99, channels))
        per_channel = self.how.per_channel and value.ndim == 4
        scales = (1 + np.arange(channels) / channels * per_channel) / 64
        whole = np.clip(np.round(value.T / scales).T, -127, 127)
        offset, dtype = (128, np.uint8) if self.how.kind == TensorType.UINT8 else (0, np.int8)
        kernel = self.graph.constant((whole + offset).astype(dtype))
        bias = self.graph.constant(np.round(random(99, channels) / (scales * input_scale)).astype(np.int32))
        if not per_channel:
            scales = scales[:1]
        self._scaled(kernel, scales, offset)
        self._scaled(bias, scales * input_scale, 0)
        return kernel, bias

    def _scaled(self, tensor: int, scales: np.ndarray, point: int) -> None:
        how = Quantization(scale=tuple(map(float, scales)), zero_point=(point,) * len(scales))
        self.graph.quantize(tensor, how)

    def conv(self, x: int, name: str, width: tuple[int, int, int], *, scale: float = 1 / 128) -> int:
        """Add CONV_2D with stride 1; `width`: channels in and out, and the side of the square kernel."""
        inner, outer, side = width
        kernel, bias = self.weights(random(outer, outer, side, side, inner) / side, scale)
        shape = (self.how.batch, self.how.side, self.how.side, outer)
        options = {0: Scalar("Int8", SAME), 1: Scalar("Int32", 1), 2: Scalar("Int32", 1)}
        options |= {3: Scalar("Int8", RELU), 4: Scalar("Int32", 1), 5: Scalar("Int32", 1)}
        if side == 1:
            del options[3]
        out = self.activations(shape, name)
        return self.graph.typed_op(
            Op.CONV_2D, [x, kernel, bias], out, options, KERNEL_VERSIONS[self.how.kind]
        )

    def mean(self, x: int, channels: int, name: str = "mean") -> int:
        axes = self.graph.constant(np.array([1, 2], np.int32))
        out = self.activations((self.how.batch, channels), name)
        return self.graph.typed_op(Op.MEAN, [x, axes], out, {}, INTEGER_VERSIONS[self.how.kind])

    def connected(self, x: int, inner: int, outer: int, name: str = "logits") -> int:
        kernel, bias = self.weights(random(7, outer, inner), 1 / 32)
        out = self.activations((self.how.batch, outer), name, 1 / 16)
        version = CONNECTED_VERSIONS[self.how.kind]
        return self.graph.typed_op(Op.FULLY_CONNECTED, [x, kernel, bias], out, {}, version)

    def softmax(self, x: int, classes: int = CLASSES) -> int:
        out = self.graph.tensor((self.how.batch, classes), self.how.kind, "probabilities")
        # The scale and zero point that the kernel asks for.
        self._quantized(out, 1 / 256, -128 if self.how.kind == TensorType.INT8 else 0)
        version = INTEGER_VERSIONS[self.how.kind]
        return self.graph.typed_op(Op.SOFTMAX, [x], out, {0: Scalar("Float32", 1.0)}, version)

    def finish(self, **outputs: int) -> bytes:
        for name, tensor in outputs.items():
            self.graph.output(name, tensor)
        return self.model.to_bytes()


def classifier(how: Layers = Layers()) -> bytes:  # noqa: B008 - frozen
    """Convolution, mean over the map, fully connected, softmax: the tap is `mean`."""
    model = Backbone(how)
    features = model.mean(model.conv(model.picture(), "map", (CHANNELS, FEATURES, 3)), FEATURES)
    return model.finish(probabilities=model.softmax(model.connected(features, FEATURES, CLASSES)))


def embedder(how: Layers = Layers()) -> bytes:  # noqa: B008 - frozen
    """The output itself is the embedding: the tap is `mean`."""
    model = Backbone(how)
    return model.finish(
        embedding=model.mean(model.conv(model.picture(), "map", (CHANNELS, FEATURES, 3)), FEATURES)
    )


def int8() -> bytes:
    return classifier(Layers(kind=TensorType.INT8))


def int8_per_channel() -> bytes:
    return classifier(Layers(kind=TensorType.INT8, per_channel=True))


def uint8() -> bytes:
    return classifier(Layers(kind=TensorType.UINT8))


def int8_embedder() -> bytes:
    return embedder(Layers(kind=TensorType.INT8))


def uint8_embedder() -> bytes:
    return embedder(Layers(kind=TensorType.UINT8))


def dynamic_batch() -> bytes:
    """[-1, 8, 8, 3]."""
    return classifier(Layers(batch=-1))


def dynamic_sides() -> bytes:
    """[1, -1, -1, 3]: pictures of any size."""
    return classifier(Layers(side=-1))


def conv_head_pooled() -> bytes:
    """Average pool, 1x1 convolution as the head, reshape, softmax: the tap is `pool`, as in MobileNet v1."""
    model = Backbone(Layers())
    x = model.conv(model.picture(), "map", (CHANNELS, FEATURES, 3))
    pool = {1: Scalar("Int32", 1), 2: Scalar("Int32", 1), 0: Scalar("Int8", VALID)}
    pool |= {3: Scalar("Int32", SIDE), 4: Scalar("Int32", SIDE)}
    pooled = model.graph.tensor((1, 1, 1, FEATURES), TensorType.FLOAT32, "pool")
    model.graph.typed_op(Op.AVERAGE_POOL_2D, [x], pooled, pool)
    kernel, bias = model.weights(random(3, CLASSES, 1, 1, FEATURES), 1.0)
    options = {0: Scalar("Int8", SAME), 1: Scalar("Int32", 1), 2: Scalar("Int32", 1)}
    options |= {4: Scalar("Int32", 1), 5: Scalar("Int32", 1)}
    head = model.graph.tensor((1, 1, 1, CLASSES), TensorType.FLOAT32, "head")
    model.graph.typed_op(Op.CONV_2D, [pooled, kernel, bias], head, options)
    shape = model.graph.constant(np.array([1, CLASSES], np.int32))
    flat = model.graph.tensor((1, CLASSES), TensorType.FLOAT32, "flat")
    model.graph.typed_op(Op.RESHAPE, [head, shape], flat, {0: (1, CLASSES)})
    return model.finish(probabilities=model.softmax(flat))


def conv_head_meaned(how: Layers = Layers()) -> bytes:  # noqa: B008 - frozen
    """1x1 convolution as the head, then the mean over the map: the tap is `map`, still 8 x 8."""
    model = Backbone(how)
    x = model.conv(model.picture(), "map", (CHANNELS, FEATURES, 3))
    head = model.conv(x, "head", (FEATURES, CLASSES, 1), scale=1 / 32)
    return model.finish(probabilities=model.softmax(model.mean(head, CLASSES)))


def int8_conv_head() -> bytes:
    return conv_head_meaned(Layers(kind=TensorType.INT8, per_channel=True))


def stubborn() -> bytes:
    """It says that its batch is dynamic and refuses any but 1: a RESHAPE to [1, 6] is in the way."""
    model = Backbone(Layers(batch=-1))
    x = model.mean(model.conv(model.picture(), "map", (CHANNELS, FEATURES, 3)), FEATURES)
    shape = model.graph.constant(np.array([1, FEATURES], np.int32))
    flat = model.graph.tensor((1, FEATURES), TensorType.FLOAT32, "flat")
    model.graph.typed_op(Op.RESHAPE, [x, shape], flat, {0: (1, FEATURES)})
    return model.finish(probabilities=model.softmax(model.connected(flat, FEATURES, CLASSES)))


def two_inputs() -> bytes:
    model = Backbone(Layers())
    x = model.mean(model.conv(model.picture(), "map", (CHANNELS, FEATURES, 3)), FEATURES)
    gain = model.graph.input("gain", (1, FEATURES))
    x = model.graph.op(Op.MUL, [x, gain], (1, FEATURES))
    return model.finish(logits=model.connected(x, FEATURES, CLASSES))


def two_outputs() -> bytes:
    """Two heads upon one mean."""
    model = Backbone(Layers())
    x = model.mean(model.conv(model.picture(), "map", (CHANNELS, FEATURES, 3)), FEATURES)
    left = model.connected(x, FEATURES, CLASSES, "left")
    return model.finish(left=left, right=model.connected(x, FEATURES, 2, "right"))


def float16_weights() -> bytes:
    """As post-training float16 quantisation writes: each weight is float16, made float32 by DEQUANTIZE."""
    model = Backbone(Layers())
    graph, x = model.graph, model.picture()
    halves = {}
    for name, value in {
        "kernel": random(6, FEATURES, 3, 3, CHANNELS) / 3,
        "bias": random(99, FEATURES),
        "top": random(7, CLASSES, FEATURES),
        "base": random(98, CLASSES),
    }.items():
        halves[name] = graph.dequantize(graph.constant(value.astype(np.float16)), value.shape)
    options = {0: Scalar("Int8", SAME), 1: Scalar("Int32", 1), 2: Scalar("Int32", 1)}
    options |= {3: Scalar("Int8", RELU), 4: Scalar("Int32", 1), 5: Scalar("Int32", 1)}
    inputs = [x, halves["kernel"], halves["bias"]]
    x = graph.op(Op.CONV_2D, inputs, (1, SIDE, SIDE, FEATURES), options)
    x = model.mean(x, FEATURES)
    x = graph.op(Op.FULLY_CONNECTED, [x, halves["top"], halves["base"]], (1, CLASSES))
    return model.finish(probabilities=model.softmax(x))


STEPS, UNITS = 5, 6  # of the recurrent models: their input is [1, 5, 3]


def lstm() -> bytes:
    """A fused LSTM over [1, 5, 3] whose state is in variable tensors; its last step is the tap `last`."""
    model = Backbone(Layers())
    graph, batch = model.graph, 1
    x = graph.input("sequence", (batch, STEPS, CHANNELS))
    inputs = [graph.constant(random(i, UNITS, CHANNELS)) for i in range(4)]
    recurrent = [graph.constant(random(10 + i, UNITS, UNITS)) for i in range(4)]
    biases = [graph.constant(random(20 + i, UNITS)) for i in range(4)]
    state = [graph.variable((batch, UNITS), TensorType.FLOAT32, name) for name in ("activation", "cell")]
    absent = [-1] * 3  # peepholes
    projection = [-1] * 2
    sequence = graph.tensor((batch, STEPS, UNITS), TensorType.FLOAT32, "sequence")
    graph.typed_op(
        Op.UNIDIRECTIONAL_SEQUENCE_LSTM,
        [x, *inputs, *recurrent, *absent, *biases, *projection, *state, *[-1] * 4],
        sequence,
        {0: Scalar("Int8", TANH)},
    )
    return _last_step(model, sequence)


def _last_step(model: Backbone, sequence: int) -> bytes:
    graph = model.graph
    begin, end, stride = (
        graph.constant(np.array(values, np.int32)) for values in ([0, -1, 0], [0, 0, 0], [1, 1, 1])
    )
    masks = {0: Scalar("Int32", 5), 1: Scalar("Int32", 7), 4: Scalar("Int32", 2)}
    last = graph.tensor((1, UNITS), TensorType.FLOAT32, "last")
    graph.typed_op(Op.STRIDED_SLICE, [sequence, begin, end, stride], last, masks)
    return model.finish(probabilities=model.softmax(model.connected(last, UNITS, CLASSES)))


def loop() -> bytes:
    """[1, 6] three times through one layer, in a WHILE with graphs for its condition and its body."""
    model = Backbone(Layers())
    graph, shape = model.graph, (1, FEATURES)
    condition, body = (model.model.graph(name, signature=False) for name in ("condition", "body"))
    x = graph.input("x", shape)
    count = graph.constant(np.zeros((), np.int32))
    for inner in (condition, body):
        inner.input("count", (), np.int32)
        inner.input("value", shape)
    less = condition.tensor((), TensorType.BOOL)
    condition.typed_op(Op.LESS, [0, condition.constant(np.array(3, np.int32))], less)
    condition.output("goes_on", less)
    one = body.constant(np.array(1, np.int32))
    body.output("count", body.typed_op(Op.ADD, [0, one], body.tensor((), TensorType.INT32)))
    kernel, bias = body.constant(random(5, FEATURES, FEATURES)), body.constant(random(6, FEATURES))
    options: Table = {0: Scalar("Int8", RELU)}
    body.output("value", body.op(Op.FULLY_CONNECTED, [1, kernel, bias], shape, options))
    done = graph.tensor((), TensorType.INT32)
    looped = graph.tensor(shape, TensorType.FLOAT32, "looped")
    calls = {0: Scalar("Int32", condition.index), 1: Scalar("Int32", body.index)}
    outer = {schema.Operator.OPTIONS_TYPE: Scalar("Uint8", schema.OPTIONS[Op.WHILE])}
    outer |= {schema.Operator.OPTIONS: calls}
    graph.many_op(model.model.code(Op.WHILE), [count, x], [done, looped], outer)
    return model.finish(probabilities=model.softmax(model.connected(looped, FEATURES, CLASSES)))


def flex() -> bytes:
    """One of TensorFlow's own operators below the head."""
    return _custom("FlexErf")


def custom() -> bytes:
    """An operator of somebody's own library below the head."""
    return _custom("MyPrivateOp")


def _custom(name: str) -> bytes:
    model = Backbone(Layers())
    x = model.mean(model.conv(model.picture(), "map", (CHANNELS, FEATURES, 3)), FEATURES)
    out = model.graph.tensor((1, FEATURES), TensorType.FLOAT32, "private")
    model.graph.many_op(model.model.code(Op.CUSTOM, 1, name), [x], [out])
    return model.finish(probabilities=model.softmax(model.connected(out, FEATURES, CLASSES)))


def broken_quantization(scale: tuple[float, ...] = (0.0,), zero_point: tuple[int, ...] = (0,)) -> bytes:
    """The map of an int8 model has parameters that no kernel can compute with."""
    model = Backbone(Layers(kind=TensorType.INT8))
    x = model.conv(model.picture(), "map", (CHANNELS, FEATURES, 3))
    model.graph.quantize(x, Quantization(scale=scale, zero_point=zero_point))
    return model.finish(
        probabilities=model.softmax(model.connected(model.mean(x, FEATURES), FEATURES, CLASSES))
    )


def too_new() -> bytes:
    """A version of MEAN that no runtime has yet."""
    model = Backbone(Layers())
    x = model.conv(model.picture(), "map", (CHANNELS, FEATURES, 3))
    axes = model.graph.constant(np.array([1, 2], np.int32))
    x = model.graph.op(Op.MEAN, [x, axes], (1, FEATURES), {}, 99)
    return model.finish(probabilities=model.softmax(model.connected(x, FEATURES, CLASSES)))


RUNS: dict[str, Callable[[], bytes]] = {
    make.__name__: make
    for make in (
        classifier,
        embedder,
        int8,
        int8_per_channel,
        uint8,
        int8_embedder,
        uint8_embedder,
        dynamic_batch,
        dynamic_sides,
        conv_head_pooled,
        conv_head_meaned,
        int8_conv_head,
        stubborn,
        two_inputs,
        two_outputs,
        float16_weights,
        lstm,
        loop,
    )
}
REFUSED: dict[str, Callable[[], bytes]] = {
    make.__name__: make for make in (flex, custom, broken_quantization, too_new)
}
