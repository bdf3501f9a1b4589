"""Small foreign models, built with our own writer: other names, types, batches, features, state."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedclient.model import ops, passes, schema
from fedclient.model.layers import Head, head_of
from fedclient.model.options import HeadOptions
from fedclient.model.schema import Op, TensorType
from fedclient.model.writer import Graph, ModelWriter, Scalar

FEATURES, CLASSES = 4, 3


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """What is unusual about a linear head of 4 features and 3 classes."""

    x: str = "x"
    y: str = "y"
    infer_x: str = "x"
    loss: str = "loss"
    logits: str = "logits"
    rate: str | None = "learning_rate"  # None: built in
    rate_shape: tuple[int, ...] = (1,)
    one_hot: bool = False  # y is float32 [B, C]
    batch: int = -1
    features: str = ""  # "": none, "dynamic", "stubborn": says dynamic, takes one row; "infinite": not finite
    state: bool = False  # counts its steps
    extra: tuple[tuple[str, type], ...] = ()  # further inputs of train, [1] each
    swap: bool = False  # set_weights takes other names
    broken: bool = False  # get_weights does not give back what was set
    uphill: bool = False  # the loss rises


def build(kind: Foreign) -> bytes:
    head = head_of(FEATURES, CLASSES, None, 0, HeadOptions())
    model = ModelWriter("foreign")
    names = ["infer", "train", "get_weights", "set_weights"]
    names += ["features"] * bool(kind.features) + ["get_state", "set_state"] * kind.state
    graphs = {name: model.graph(name) for name in names}
    init = model.graph("init", signature=False)
    for name, shape in sorted(head.tensors.items() | {("steps", (1,))}):
        ops.assign(init, name, ops.filled(init, 0, shape))
    for graph in graphs.values():
        ops.call_once(graph, init)
    x = graphs["infer"].input(kind.infer_x, (kind.batch, FEATURES))
    graphs["infer"].output(kind.logits, passes.forward(graphs["infer"], head, x).logits)
    _train(graphs["train"], kind, head)
    for name, shape in head.tensors.items():
        value = ops.read(graphs["get_weights"], name, shape)
        if kind.broken:
            value = graphs["get_weights"].op(Op.NEG, [value], shape)
        graphs["get_weights"].output(name, value)
        setter = graphs["set_weights"]
        ops.assign(setter, name, setter.input(name + "!" * kind.swap, shape))
    if kind.features:
        _features(graphs["features"], kind.features)
    if kind.state:
        graphs["get_state"].output("steps", ops.read(graphs["get_state"], "steps", (1,)))
        ops.assign(graphs["set_state"], "steps", graphs["set_state"].input("steps", (1,)))
    return model.to_bytes()


def _train(graph: Graph, kind: Foreign, head: Head) -> None:
    x = graph.input(kind.x, (kind.batch, FEATURES))
    y_shape = (kind.batch, CLASSES) if kind.one_hot else (kind.batch,)
    y = graph.input(kind.y, y_shape, np.float32 if kind.one_hot else np.int32)
    one = graph.constant(np.array([-0.1 if kind.uphill else 0.1], np.float32))
    rate = one if kind.rate is None else graph.input(kind.rate, kind.rate_shape)
    if kind.uphill:
        rate = graph.op(Op.MUL, [rate, one], (1,))
    for name, dtype in kind.extra:
        graph.input(name, (1,), dtype)
    passed = passes.forward(graph, head, x)
    logits = passed.logits
    if kind.one_hot:
        shape = (-1, CLASSES)
        log_p = graph.op(Op.LOG_SOFTMAX, [logits], shape)
        both = ops.numbers(graph, 0, 1)
        total = graph.op(Op.SUM, [graph.op(Op.MUL, [y, log_p], shape), both], ())
        graph.output(kind.loss, graph.op(Op.NEG, [total], ()))
        slope = graph.op(Op.SUB, [graph.op(Op.EXP, [log_p], shape), y], shape)
    else:
        slope = passes.output_loss(graph, logits, y, CLASSES)
        graph._outputs = {kind.loss: graph._outputs["loss"]}
    shape = (CLASSES, FEATURES)
    change = ops.multiply(graph, ops.Products(graph, alike=False).transposed_by(slope, x, shape), rate, shape)
    kernel = passed.weights["output/kernel"]
    ops.assign(graph, "output/kernel", ops.subtract(graph, kernel, change, shape))
    if kind.state:
        more = ops.add(graph, ops.read(graph, "steps", (1,)), ops.number(graph, 1), (1,))
        ops.assign(graph, "steps", more)


def _features(graph: Graph, kind: str) -> None:
    """Image uint8 [B, 2, 2] -> features float32 [B, 4]: value / 16."""
    x = graph.input("x", (-1, 2, 2), np.uint8)
    cast = {
        schema.CAST_FROM: Scalar("Int8", TensorType.UINT8),
        schema.CAST_TO: Scalar("Int8", TensorType.FLOAT32),
    }
    floats = graph.op(Op.CAST, [x], (-1, 2, 2), cast)
    shape = ops.numbers(graph, 1 if kind == "stubborn" else -1, FEATURES)
    flat = graph.op(Op.RESHAPE, [floats, shape], (-1, FEATURES))
    sixteenth = graph.constant(np.array([np.inf if kind == "infinite" else 1 / 16], np.float32))
    graph.output("features", graph.op(Op.MUL, [flat, sixteenth], (-1, FEATURES)))
