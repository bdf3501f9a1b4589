"""The forward and the backward pass of a head, as operations in a graph.  The formulas are in `head.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedclient.model import ops, schema
from fedclient.model.options import VARIANCE_FLOOR, Optimizer
from fedclient.model.schema import Op, TensorType
from fedclient.model.writer import Scalar
from fedclient.values import MEAN, MEAN_SQUARE

if TYPE_CHECKING:
    from fedclient.model.layers import Head
    from fedclient.model.writer import Graph


@dataclass(frozen=True, kw_only=True, slots=True)
class Forward:
    """What the backward pass needs: tensors' numbers, by layer."""

    weights: dict[str, int]  # all that is trained, by name
    inputs: tuple[int, ...]  # of each layer
    kernels: tuple[int, ...]  # as they were applied: the last one with the personal one added
    logits: int


def forward(graph: Graph, head: Head, x: int) -> Forward:
    """Add the way from the input `x` to the logits."""
    weights = {name: ops.read(graph, name, shape) for name, shape in head.trained.items()}
    outputs, kernels = [_normalized(graph, head, x)], []
    for layer in head.layers:
        bias, kernel, last = weights[layer.bias], weights[layer.kernel], layer is head.layers[-1]
        sizes = (layer.outputs, layer.inputs)
        if head.personal and last:
            bias = ops.add(graph, bias, weights[head.personal.bias], (layer.outputs,))
            kernel = ops.add(graph, kernel, weights[head.personal.kernel], sizes)
        kernels.append(kernel)
        product = _products(graph, head).rows_by_transposed(outputs[-1], kernel, sizes)
        outputs.append(ops.add(graph, product, bias, (-1, layer.outputs), rectified=not last))
    *inputs, logits = outputs
    return Forward(weights=weights, inputs=tuple(inputs), kernels=tuple(kernels), logits=logits)


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
    """Return the number of rows, as a float of shape [1]."""
    return ops.as_float(graph, ops.sizes(graph, y, (-1,)), TensorType.INT32, ops.ONE)


def backward(graph: Graph, head: Head, passed: Forward, gradient: int) -> dict[str, int]:
    """Return the slope over each trained tensor, given that over the logits.

    It is linear: a factor in `gradient` is in every slope, and costs least there.
    """
    slopes = {}
    for i in reversed(range(len(head.layers))):
        layer = head.layers[i]
        shape = (layer.outputs, layer.inputs)
        slopes[layer.bias] = ops.total(graph, gradient, 0, (layer.outputs,))
        slopes[layer.kernel] = _products(graph, head).transposed_by(gradient, passed.inputs[i], shape)
        if head.personal and layer is head.layers[-1]:  # both are added up: one slope for both
            slopes[head.personal.bias] = slopes[layer.bias]
            slopes[head.personal.kernel] = slopes[layer.kernel]
        if i:
            below = _products(graph, head).rows_by(gradient, passed.kernels[i], shape)
            rows = (-1, layer.inputs)
            gradient = ops.multiply(graph, below, ops.positive(graph, passed.inputs[i], rows), rows)
    return slopes


def _products(graph: Graph, head: Head) -> ops.Products:
    """Adam divides a slope by its size: of one that is nearly 0, a last bit decides about a whole step."""
    return ops.Products(graph, alike=head.options.optimizer is Optimizer.ADAM)
