"""The operations that a head's graphs are made of, as functions: tensors in, a tensor's number out.  Pure."""

from __future__ import annotations

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


def add(graph: Graph, left: int, right: int, shape: Shape) -> int:
    """Return left + right."""
    return graph.op(Op.ADD, [left, right], shape)


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


def at_least(graph: Graph, value: int, floor: float, shape: Shape) -> int:
    """max(value, floor)."""
    return graph.op(Op.MAXIMUM, [value, graph.constant(np.array(floor, np.float32))], shape)


def total(graph: Graph, value: int, axis: int, shape: Shape) -> int:
    """The sum over one axis."""
    return graph.op(Op.SUM, [value, numbers(graph, axis)], shape)


def as_float(graph: Graph, value: int, kind: TensorType, shape: Shape) -> int:
    """Numbers of another type as float32."""
    cast = {schema.CAST_FROM: Scalar("Int8", kind), schema.CAST_TO: Scalar("Int8", TensorType.FLOAT32)}
    return graph.op(Op.CAST, [value], shape, cast)


def transposed_product(graph: Graph, left: int, right: int, shape: Shape) -> int:
    """Left' right."""
    return graph.op(Op.BATCH_MATMUL, [left, right], shape, {schema.ADJOINT_X: Scalar("Bool", 1)})


def call_once(graph: Graph, initial: Graph) -> None:
    """Run the graph `initial` before all that follows, unless it has run in this interpreter."""
    graph.typed_op(Op.CALL_ONCE, [], None, {schema.INIT_SUBGRAPH: Scalar("Int32", initial.index)})


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
    return graph.typed_op(Op.VAR_HANDLE, [], graph.tensor((), TensorType.RESOURCE), options)
