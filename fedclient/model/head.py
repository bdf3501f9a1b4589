"""Write a trainable head: a softmax layer, or one hidden layer with max(z, 0) below it.

    z1 = x W1' + b1    h = max(z1, 0)    z = h W2' + b2    p = softmax(z)        (hidden)
    z  = x W'  + b     p = softmax(z)                                            (linear)

    loss = mean over the batch of -log p[y];    g = (p - one_hot(y)) / B
    W -= learning_rate * g' (input of the layer)    b -= learning_rate * sum(g)

| tensor          | shape  | starts as |
|-----------------|--------|-----------|
| `output/kernel` | [C, D] or [C, H], one row per class | zeros; with a hidden layer Glorot uniform |
| `output/bias`   | [C]    | zeros |
| `hidden/kernel` | [H, D] | He uniform |
| `hidden/bias`   | [H]    | zeros |

D features, C classes, H hidden units.  The signatures are those of DESIGN section 5; there is none with
a scalar input (LiteRT on aarch64 crashes on one), and the batch is dynamic.  The weights are resource
variables: every graph first runs the `init` graph once, so that whichever is called first finds them set.
The derivative of max(z, 0) at 0 is 0.  Weights that start as zeros are made by FILL and cost no bytes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fedclient import limits
from fedclient.errors import UsageError
from fedclient.model import schema
from fedclient.model.schema import Op, TensorType
from fedclient.model.writer import Graph, ModelWriter, Scalar

if TYPE_CHECKING:
    from numpy.typing import NDArray

METADATA_NAME: Final = "fedclient"
METADATA_VERSION: Final = 1
MAX_SEED: Final = 2**63 - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layer:
    name: str
    inputs: int
    outputs: int
    kernel: NDArray[np.float32] | None  # None: zeros

    @property
    def tensors(self) -> dict[str, tuple[int, ...]]:
        return {f"{self.name}/bias": (self.outputs,), f"{self.name}/kernel": (self.outputs, self.inputs)}


def write_head(features: int, classes: int, hidden: int | None = None, seed: int = 0) -> bytes:
    """Return a .tflite file of a head that can be trained; equal arguments give equal bytes.

    `seed` matters to a hidden head only.  Raises UsageError for a number out of its bounds.
    """
    _check(features, classes, hidden, seed)
    layers = _layers(features, classes, hidden, seed)
    model = ModelWriter("fedclient head")
    graphs = {name: model.graph(name) for name in ("infer", "train", "get_weights", "set_weights")}
    init = model.graph("init", signature=False)
    _init(init, layers)
    for graph in graphs.values():
        graph.typed_op(Op.CALL_ONCE, [], None, {schema.INIT_SUBGRAPH: Scalar("Int32", init.index)})
    _infer(graphs["infer"], layers)
    _train(graphs["train"], layers)
    for layer in layers:
        for name, shape in layer.tensors.items():
            graphs["get_weights"].output(name, _read(graphs["get_weights"], name, shape))
            _assign(graphs["set_weights"], name, graphs["set_weights"].input(name, shape))
    model.metadata(METADATA_NAME, metadata(hidden))
    return model.to_bytes()


def metadata(hidden: int | None) -> bytes:
    """Return what marks a file as ours, and says which reference computes its step."""
    return json.dumps({"hidden": hidden, "version": METADATA_VERSION}, sort_keys=True).encode()


def _check(features: int, classes: int, hidden: int | None, seed: int) -> None:
    bounds = {
        "features": (features, 1, limits.MAX_HEAD_PARAMETERS),
        "classes": (classes, 2, limits.MAX_LABELS),
        "hidden": (1 if hidden is None else hidden, 1, limits.MAX_HEAD_PARAMETERS),
        "seed": (seed, 0, MAX_SEED),
    }
    for name, (value, low, high) in bounds.items():
        if not low <= value <= high:
            raise UsageError(f"{name} must be between {low} and {high}, not {value}")
    size = (features + 1) * classes if hidden is None else (features + 1 + classes) * hidden + classes
    if size > limits.MAX_HEAD_PARAMETERS:
        bound = limits.MAX_HEAD_PARAMETERS
        raise UsageError(
            f"a head of {size} parameters is above the bound of {bound}: fewer features or units"
        )


def _layers(features: int, classes: int, hidden: int | None, seed: int) -> list[_Layer]:
    if hidden is None:
        return [_Layer(name="output", inputs=features, outputs=classes, kernel=None)]
    he, glorot = np.sqrt(6 / features), np.sqrt(6 / (hidden + classes))
    # NEP 19: a bit generator's raw stream never changes, the distributions drawn from it may.
    raw = np.random.PCG64(seed).random_raw(hidden * (features + classes))
    unit = (raw >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-23) - np.float32(1)  # [-1, 1)
    first, second = np.split(unit, [hidden * features])
    return [
        _Layer(
            name="hidden",
            inputs=features,
            outputs=hidden,
            kernel=(first * np.float32(he)).reshape(hidden, features),
        ),
        _Layer(
            name="output",
            inputs=hidden,
            outputs=classes,
            kernel=(second * np.float32(glorot)).reshape(classes, hidden),
        ),
    ]


def _init(graph: Graph, layers: list[_Layer]) -> None:
    zero = graph.constant(np.zeros((), np.float32))
    for layer in layers:
        for name, shape in layer.tensors.items():
            if layer.kernel is not None and name.endswith("/kernel"):
                _assign(graph, name, graph.constant(layer.kernel))
            else:
                _assign(graph, name, graph.op(Op.FILL, [_ints(graph, *shape), zero], shape))


def _infer(graph: Graph, layers: list[_Layer]) -> None:
    x = graph.input("x", (-1, layers[0].inputs))
    *_, logits = _forward(graph, layers, x)[0]
    graph.output("logits", logits)


def _forward(graph: Graph, layers: list[_Layer], x: int) -> tuple[list[int], list[int], list[int]]:
    """Return each layer's pre-activation, input and kernel."""
    sums, inputs, kernels = [], [x], []
    for layer in layers:
        bias, kernel = (_read(graph, name, shape) for name, shape in layer.tensors.items())
        kernels.append(kernel)
        sums.append(graph.op(Op.FULLY_CONNECTED, [inputs[-1], kernel, bias], (-1, layer.outputs)))
        if layer is not layers[-1]:
            zero = graph.constant(np.zeros((), np.float32))
            inputs.append(graph.op(Op.MAXIMUM, [sums[-1], zero], (-1, layer.outputs)))
    return sums, inputs, kernels


def _train(graph: Graph, layers: list[_Layer]) -> None:
    x = graph.input("x", (-1, layers[0].inputs))
    y = graph.input("y", (-1,), np.int32)
    rate = graph.input("learning_rate", (1,))
    sums, inputs, kernels = _forward(graph, layers, x)
    gradient = _loss(graph, sums[-1], y, layers[-1].outputs)
    step = _rate_per_sample(graph, rate, y)
    for i in reversed(range(len(layers))):
        layer = layers[i]
        shape = (layer.outputs, layer.inputs)
        slopes = {
            f"{layer.name}/bias": graph.op(Op.SUM, [gradient, _ints(graph, 0)], (layer.outputs,)),
            f"{layer.name}/kernel": graph.op(
                Op.BATCH_MATMUL, [gradient, inputs[i]], shape, {schema.ADJOINT_X: Scalar("Bool", 1)}
            ),
        }
        if i:
            gradient = _through_maximum(graph, gradient, kernels[i], sums[i - 1], layer.inputs)
        for name, slope in slopes.items():
            _descend(graph, name, layer.tensors[name], graph.op(Op.MUL, [slope, step], layer.tensors[name]))


def _loss(graph: Graph, logits: int, y: int, classes: int) -> int:
    """Output the loss; return its slope over the logits, times the batch size."""
    depth = graph.constant(np.array(classes, np.int32))
    on, off = (graph.constant(np.array(value, np.float32)) for value in (1, 0))
    axis = {schema.ONE_HOT_AXIS: Scalar("Int32", -1)}
    truth = graph.op(Op.ONE_HOT, [y, depth, on, off], (-1, classes), axis)
    log_p = graph.op(Op.LOG_SOFTMAX, [logits], (-1, classes))
    chosen = graph.op(Op.MUL, [truth, log_p], (-1, classes))
    rows = graph.op(Op.SUM, [chosen, _ints(graph, 1)], (-1,))
    graph.output("loss", graph.op(Op.NEG, [graph.op(Op.MEAN, [rows, _ints(graph, 0)], ())], ()))
    return graph.op(Op.SUB, [graph.op(Op.EXP, [log_p], (-1, classes)), truth], (-1, classes))


def _rate_per_sample(graph: Graph, rate: int, y: int) -> int:
    out_type = {schema.SHAPE_OUT_TYPE: Scalar("Int8", TensorType.INT32)}
    count = graph.typed_op(Op.SHAPE, [y], graph.tensor((1,), TensorType.INT32), out_type)
    cast = {
        schema.CAST_FROM: Scalar("Int8", TensorType.INT32),
        schema.CAST_TO: Scalar("Int8", TensorType.FLOAT32),
    }
    return graph.op(Op.DIV, [rate, graph.op(Op.CAST, [count], (1,), cast)], (1,))


def _through_maximum(graph: Graph, gradient: int, kernel: int, sums: int, width: int) -> int:
    below = graph.op(Op.BATCH_MATMUL, [gradient, kernel], (-1, width))
    zero = graph.constant(np.zeros((), np.float32))
    active = graph.typed_op(Op.GREATER, [sums, zero], graph.tensor((-1, width), TensorType.BOOL))
    cast = {
        schema.CAST_FROM: Scalar("Int8", TensorType.BOOL),
        schema.CAST_TO: Scalar("Int8", TensorType.FLOAT32),
    }
    return graph.op(Op.MUL, [below, graph.op(Op.CAST, [active], (-1, width), cast)], (-1, width))


def _descend(graph: Graph, name: str, shape: tuple[int, ...], change: int) -> None:
    _assign(graph, name, graph.op(Op.SUB, [_read(graph, name, shape), change], shape))


def _ints(graph: Graph, *numbers: int) -> int:
    return graph.constant(np.array(numbers, np.int32))


def _handle(graph: Graph, name: str) -> int:
    options: dict[int, Any] = {schema.CONTAINER: "", schema.SHARED_NAME: name}
    return graph.typed_op(Op.VAR_HANDLE, [], graph.tensor((), TensorType.RESOURCE), options)


def _read(graph: Graph, name: str, shape: tuple[int, ...]) -> int:
    return graph.op(Op.READ_VARIABLE, [_handle(graph, name)], shape)


def _assign(graph: Graph, name: str, value: int) -> None:
    graph.typed_op(Op.ASSIGN_VARIABLE, [_handle(graph, name), value], None)
