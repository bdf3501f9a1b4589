"""The operations that a head's graphs are made of, as functions: tensors in, a tensor's number out.  Pure."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fedclient.model import schema
from fedclient.model.schema import Op, TensorType
from fedclient.model.writer import Scalar

if TYPE_CHECKING:
    from fedclient.model.writer import Graph

CONTAINER: Final = "fedclient"  # of our variables: a backbone's own never share a name with them
Shape = tuple[int, ...]
ONE: Shape = (1,)


def numbers(graph: Graph, *values: int) -> int:
    """A constant vector of int32."""
    return graph.constant(np.array(values, np.int32))


def number(graph: Graph, value: float) -> int:
    """A constant of shape [1]."""
    return graph.constant(np.array([value], np.float32))


def add(graph: Graph, left: int, right: int, shape: Shape, *, rectified: bool = False) -> int:
    """Return left + right; `rectified`: the larger of that and 0."""
    options = {schema.ADD_ACTIVATION: Scalar("Int8", schema.RELU_ACTIVATION)} if rectified else None
    return graph.op(Op.ADD, [left, right], shape, options)


def subtract(graph: Graph, left: int, right: int, shape: Shape) -> int:
    """Return left - right."""
    return graph.op(Op.SUB, [left, right], shape)


def multiply(graph: Graph, left: int, right: int, shape: Shape) -> int:
    """Return left * right; one of them may be of shape [1]."""
    return graph.op(Op.MUL, [left, right], shape)


def divide(graph: Graph, left: int, right: int, shape: Shape) -> int:
    """Return left / right."""
    return graph.op(Op.DIV, [left, right], shape)


def root(graph: Graph, value: int, shape: Shape) -> int:
    """The square root of each element."""
    return graph.op(Op.SQRT, [value], shape)


def shared(graph: Graph, value: int, shape: Shape) -> int:
    """Return the tensor, after adding a second operation that reads it: its size, which costs nothing.

    What one operation alone reads, that may overwrite; and on x86 an addition or multiplication in place
    takes four times as long, as the compiler's loop for vectors is for results that stand elsewhere.
    """
    if len(shape) > 1:  # a bias is too small for it to matter
        sizes(graph, value, shape)
    return value


def sizes(graph: Graph, value: int, shape: Shape) -> int:
    """Return the sizes of a tensor of such a shape, int32."""
    out_type = {schema.SHAPE_OUT_TYPE: Scalar("Int8", TensorType.INT32)}
    return graph.typed_op(Op.SHAPE, [value], graph.tensor((len(shape),), TensorType.INT32), out_type)


def at_least(graph: Graph, value: int, floor: float, shape: Shape) -> int:
    """max(value, floor)."""
    return graph.op(Op.MAXIMUM, [value, graph.constant(np.array(floor, np.float32))], shape)


def total(graph: Graph, value: int, axis: int, shape: Shape) -> int:
    """The sum over one axis."""
    return graph.op(Op.SUM, [value, numbers(graph, axis)], shape)


def positive(graph: Graph, value: int, shape: Shape) -> int:
    """Return 1 where a value is above 0, 0 elsewhere: compared with zeros of its shape, as one 0 is slow."""
    zeros = subtract(graph, value, value, shape)
    above = graph.typed_op(Op.GREATER, [value, zeros], graph.tensor(shape, TensorType.BOOL))
    return as_float(graph, above, TensorType.BOOL, shape)


def as_float(graph: Graph, value: int, kind: TensorType, shape: Shape) -> int:
    """Numbers of another type as float32."""
    cast = {schema.CAST_FROM: Scalar("Int8", kind), schema.CAST_TO: Scalar("Int8", TensorType.FLOAT32)}
    return graph.op(Op.CAST, [value], shape, cast)


def transposed(graph: Graph, matrix: int, shape: Shape) -> int:
    """Return the transpose, which has `shape`."""
    return graph.op(Op.TRANSPOSE, [matrix, numbers(graph, 1, 0)], shape)


class Products:
    """Matrix products, in one of two ways that TFLite has on x86; on ARM it has one.

    `alike`: every product is a FULLY_CONNECTED, which is the same bit for bit on tflite-runtime and LiteRT.
    Else it is a BATCH_MATMUL, which is not (1e-7), and takes half the time; but not where its right factor
    is to be transposed, so that the small matrices are transposed instead.
    """

    def __init__(self, graph: Graph, *, alike: bool) -> None:
        self._graph = graph
        self._alike = alike

    def rows_by_transposed(self, rows: int, kernel: int, sizes: tuple[int, int]) -> int:
        """Return rows kernel', [-1, outputs]; `sizes` are the kernel's: outputs, inputs."""
        graph, (outputs, inputs) = self._graph, sizes
        if self._alike:
            return graph.op(Op.FULLY_CONNECTED, [rows, kernel, -1], (-1, outputs))
        flipped = transposed(graph, rows, (inputs, -1))
        product = graph.op(Op.BATCH_MATMUL, [kernel, flipped], (outputs, -1))
        return transposed(graph, product, (-1, outputs))

    def rows_by(self, rows: int, kernel: int, sizes: tuple[int, int]) -> int:
        """Return rows kernel, [-1, inputs]."""
        graph, (outputs, inputs) = self._graph, sizes
        if self._alike:
            flipped = transposed(graph, kernel, (inputs, outputs))
            return graph.op(Op.FULLY_CONNECTED, [rows, flipped, -1], (-1, inputs))
        return graph.op(Op.BATCH_MATMUL, [rows, kernel], (-1, inputs))

    def transposed_by(self, left: int, right: int, sizes: tuple[int, int]) -> int:
        """Return left' right, of `sizes`, for left [-1, outputs] and right [-1, inputs]."""
        graph, (outputs, inputs) = self._graph, sizes
        if self._alike:
            pair = [transposed(graph, left, (outputs, -1)), transposed(graph, right, (inputs, -1)), -1]
            return graph.op(Op.FULLY_CONNECTED, pair, sizes)
        return graph.op(Op.BATCH_MATMUL, [left, right], sizes, {schema.ADJOINT_X: Scalar("Bool", 1)})


def call_once(graph: Graph, initial: Graph) -> None:
    """Run the graph `initial` before all that follows, unless it has run in this interpreter."""
    graph.typed_op(Op.CALL_ONCE, [], None, {schema.INIT_SUBGRAPH: Scalar("Int32", initial.index)})


def any_set(graph: Graph, values: list[int]) -> int:
    """Return whether one of some numbers, of shape [1], is not 0."""
    squares = [multiply(graph, value, value, ONE) for value in values]
    total_ = functools.reduce(lambda left, right: add(graph, left, right, ONE), squares)
    return graph.typed_op(Op.GREATER, [total_, number(graph, 0)], graph.tensor(ONE, TensorType.BOOL))


def either(graph: Graph, asked: int, graphs: tuple[Graph, Graph], inputs: list[int]) -> int:
    """Return the one number that the first of two other graphs makes of `inputs`, or else the second."""
    options = {
        name: Scalar("Int32", other.index)
        for name, other in zip((schema.IF_THEN, schema.IF_ELSE), graphs, strict=True)
    }
    return graph.op(Op.IF, [asked, *inputs], (), options)


def read(graph: Graph, name: str, shape: Shape) -> int:
    """The value of a variable."""
    return graph.op(Op.READ_VARIABLE, [_handle(graph, name)], shape)


def assign(graph: Graph, name: str, value: int) -> None:
    """Give a variable a value."""
    graph.typed_op(Op.ASSIGN_VARIABLE, [_handle(graph, name), value], None)


def filled(graph: Graph, value: float, shape: Shape) -> int:
    """A tensor that costs no bytes in the file."""
    one = graph.constant(np.array(value, np.float32))
    return graph.op(Op.FILL, [numbers(graph, *shape), one], shape)


def _handle(graph: Graph, name: str) -> int:
    options: dict[int, Any] = {schema.CONTAINER: CONTAINER, schema.SHARED_NAME: name}

    def add_handle() -> int:
        tensor = graph.tensor((), TensorType.RESOURCE)
        return graph.typed_op(Op.VAR_HANDLE, [], tensor, options)

    return graph.once((Op.VAR_HANDLE, name), add_handle)
