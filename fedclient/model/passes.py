"""The forward and the backward pass of a head, as operations in a graph.  The formulas are in `head.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedclient.model import ops, schema
from fedclient.model.layers import MEAN, MEAN_SQUARE
from fedclient.model.options import VARIANCE_FLOOR
from fedclient.model.schema import Op, TensorType
from fedclient.model.writer import Scalar

if TYPE_CHECKING:
    from fedclient.model.layers import Head
    from fedclient.model.writer import Graph


@dataclass(frozen=True, kw_only=True, slots=True)
class Forward:
    """What the backward pass needs: tensors' numbers, by layer."""

    weights: dict[str, int]  # all that is trained, by name
    inputs: tuple[int, ...]  # of each layer
    sums: tuple[int, ...]  # of each layer, before max(z, 0); the last are the logits
    kernels: tuple[int, ...]  # as they were applied: the last one with the personal one added

    @property
    def logits(self) -> int:
        return self.sums[-1]


def forward(graph: Graph, head: Head, x: int) -> Forward:
    """Add the way from the input `x` to the logits."""
    weights = {name: ops.read(graph, name, shape) for name, shape in head.trained.items()}
    inputs = [_normalized(graph, head, x)]
    sums, kernels = [], []
    for layer in head.layers:
        bias, kernel = weights[layer.bias], weights[layer.kernel]
        if head.personal and layer is head.layers[-1]:
            bias = ops.add(graph, bias, weights[head.personal.bias], (layer.outputs,))
            shape = (layer.outputs, layer.inputs)
            kernel = ops.add(graph, kernel, weights[head.personal.kernel], shape)
        kernels.append(kernel)
        sums.append(graph.op(Op.FULLY_CONNECTED, [inputs[-1], kernel, bias], (-1, layer.outputs)))
        if layer is not head.layers[-1]:
            inputs.append(ops.at_least(graph, sums[-1], 0, (-1, layer.outputs)))
    return Forward(weights=weights, inputs=tuple(inputs), sums=tuple(sums), kernels=tuple(kernels))


def _normalized(graph: Graph, head: Head, x: int) -> int:
    if not head.options.normalize:
        return x
    shape = (head.features,)
    mean, mean_square = (ops.read(graph, name, shape) for name in (MEAN, MEAN_SQUARE))
    variance = ops.subtract(graph, mean_square, ops.multiply(graph, mean, mean, shape), shape)
    deviation = ops.root(graph, ops.at_least(graph, variance, VARIANCE_FLOOR, shape), shape)
    rows = (-1, head.features)
    return ops.divide(graph, ops.subtract(graph, x, mean, rows), deviation, rows)


def output_loss(graph: Graph, logits: int, y: int, classes: int) -> int:
    """Output the loss; return its slope over the logits, times the batch size."""
    depth = graph.constant(np.array(classes, np.int32))
    on, off = (graph.constant(np.array(value, np.float32)) for value in (1, 0))
    axis = {schema.ONE_HOT_AXIS: Scalar("Int32", -1)}
    rows = (-1, classes)
    truth = graph.op(Op.ONE_HOT, [y, depth, on, off], rows, axis)
    log_p = graph.op(Op.LOG_SOFTMAX, [logits], rows)
    chosen = ops.total(graph, ops.multiply(graph, truth, log_p, rows), 1, (-1,))
    mean = graph.op(Op.MEAN, [chosen, ops.numbers(graph, 0)], ())
    graph.output("loss", graph.op(Op.NEG, [mean], ()))
    return ops.subtract(graph, graph.op(Op.EXP, [log_p], rows), truth, rows)


def batch_size(graph: Graph, y: int) -> int:
    """The number of rows, as a float of shape [1]."""
    out_type = {schema.SHAPE_OUT_TYPE: Scalar("Int8", TensorType.INT32)}
    count = graph.typed_op(Op.SHAPE, [y], graph.tensor((1,), TensorType.INT32), out_type)
    return ops.as_float(graph, count, TensorType.INT32, ops.ONE)


def backward(graph: Graph, head: Head, passed: Forward, gradient: int) -> dict[str, int]:
    """Return the slope over each trained tensor, given that over the logits.

    It is linear: a factor in `gradient` is in every slope, and costs least there.
    """
    slopes = {}
    for i in reversed(range(len(head.layers))):
        layer = head.layers[i]
        shape = (layer.outputs, layer.inputs)
        slopes[layer.bias] = ops.total(graph, gradient, 0, (layer.outputs,))
        slopes[layer.kernel] = ops.transposed_product(graph, gradient, passed.inputs[i], shape)
        if head.personal and layer is head.layers[-1]:  # both are added up: one slope for both
            slopes[head.personal.bias] = slopes[layer.bias]
            slopes[head.personal.kernel] = slopes[layer.kernel]
        if i:
            gradient = _through_maximum(graph, gradient, passed, i, layer.inputs)
    return slopes


def _through_maximum(graph: Graph, gradient: int, passed: Forward, above: int, width: int) -> int:
    below = graph.op(Op.BATCH_MATMUL, [gradient, passed.kernels[above]], (-1, width))
    zero = graph.constant(np.zeros((), np.float32))
    sums = passed.sums[above - 1]
    active = graph.typed_op(Op.GREATER, [sums, zero], graph.tensor((-1, width), TensorType.BOOL))
    return ops.multiply(graph, below, ops.as_float(graph, active, TensorType.BOOL, (-1, width)), (-1, width))
