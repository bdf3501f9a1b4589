"""Can the plain runtime run these operators?  A refusal names the operator or tensor.  Pure.

"Plain" is tflite-runtime 2.14 without delegates that others ship, the oldest that is common on boards.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from fedclient.errors import ModelError
from fedclient.model import operators, quantization
from fedclient.model.schema import Op, TensorType
from fedclient.model.source import SourceGraph, SourceOperator, SourceTensor

Graphs = Sequence[SourceGraph]
RUNTIME: Final = "tflite-runtime 2.14"
MAX_RANK: Final = 8  # the most that any kernel indexes
MAX_TENSOR_BYTES: Final = 1024 * 1024 * 1024  # of one tensor; the boards have that much in all
REMEDIES: Final = {  # for custom operators that people meet
    "edgetpu-custom-op": "the model was compiled for the Edge TPU, take the file that it was compiled from",
}
KINDS: Final = frozenset(TensorType)
SIZES: Final = {
    TensorType.FLOAT32: 4,
    TensorType.FLOAT16: 2,
    TensorType.INT32: 4,
    TensorType.UINT8: 1,
    TensorType.INT64: 8,
    TensorType.BOOL: 1,
    TensorType.INT16: 2,
    TensorType.COMPLEX64: 8,
    TensorType.INT8: 1,
    TensorType.FLOAT64: 8,
    TensorType.COMPLEX128: 16,
    TensorType.UINT64: 8,
    TensorType.UINT32: 4,
    TensorType.UINT16: 2,
}


@dataclass(frozen=True, slots=True)
class Storage:
    """Where the values of constant tensors are."""

    buffers: tuple[bytes, ...]
    external: frozenset[int]


def require(graphs: Graphs, start: int, keep: Iterable[int], storage: Storage) -> None:
    """Check these operators of graph `start`, and all of the graphs that they call.  Raises ModelError."""
    kept = [graphs[start].operators[number] for number in sorted(set(keep))]
    _require_graph(graphs[start], kept, storage)
    for number in called(graphs, start, kept):
        for tensor in graphs[number].tensors:  # it is copied whole
            _require_tensor(tensor, storage)
        _require_graph(graphs[number], graphs[number].operators, storage)


def called(graphs: Graphs, start: int, kept: Sequence[SourceOperator]) -> tuple[int, ...]:
    """Return the graphs that these operators of graph `start` call, directly or not, in order.

    Raises ModelError when a graph calls itself.
    """
    done: set[int] = set()
    open_graphs = [start]
    waiting = [_calls(kept)]
    while waiting:
        number = next(waiting[-1], None)
        if number is None:
            waiting.pop()
            done.add(open_graphs.pop())
        elif number in open_graphs:
            raise ModelError(
                f"graph {number} ({graphs[number].name[:80]!r}) calls itself: it would never end"
            )
        elif number not in done:
            open_graphs.append(number)
            waiting.append(_calls(graphs[number].operators))
    return tuple(sorted(done - {start}))


def _calls(found: Sequence[SourceOperator]) -> Iterator[int]:
    return iter(sorted({number for operator in found for number in operator.calls}))


def _require_graph(graph: SourceGraph, kept: Sequence[SourceOperator], storage: Storage) -> None:
    for number in graph.inputs:
        _require_tensor(graph.tensors[number], storage)
    checked, written = set(graph.inputs), set(graph.inputs)
    for operator in kept:
        _require_operator(operator)
        for number in {*operator.inputs, *operator.outputs, *operator.intermediates} - checked - {-1}:
            checked.add(number)
            _require_tensor(graph.tensors[number], storage)
        for number in set(operator.inputs) - written - {-1}:
            if not _has_value(graph.tensors[number], storage):
                raise ModelError(f"{operator} reads {graph.tensors[number]} before it has a value")
        for number in (number for number in operator.outputs if number >= 0):
            if number in written or storage.buffers[graph.tensors[number].buffer]:
                raise ModelError(f"{operator} writes {graph.tensors[number]}, which has a value already")
            written.add(number)


def _require_operator(operator: SourceOperator) -> None:
    if operator.op == Op.CUSTOM:
        if operator.custom.startswith(operators.FLEX):
            raise ModelError(
                f"{operator} is TensorFlow's own (Flex), which TFLite runtimes do not contain: "
                "convert the model with built-in operators only"
            )
        if operator.custom not in operators.CUSTOM:
            remedy = REMEDIES.get(operator.custom, "convert the model with built-in operators only")
            raise ModelError(f"{operator} is a custom operator, which {RUNTIME} does not know: {remedy}")
    elif not 0 <= operator.op < len(operators.NEWEST):
        raise ModelError(f"{operator} is newer than {RUNTIME}: convert the model for an older runtime")
    elif not 1 <= operator.version <= operators.NEWEST[operator.op]:
        newest = operators.NEWEST[operator.op]
        known = f"knows versions up to {newest}" if newest else "does not have it"
        raise ModelError(f"{operator} has version {operator.version}, and {RUNTIME} {known}")
    if operator.flaw:
        raise ModelError(f"{operator} {operator.flaw}")


def _require_tensor(tensor: SourceTensor, storage: Storage) -> None:
    flaw = tensor.flaw or _flaw(tensor, storage) or quantization.flaw(tensor)
    if flaw:
        raise ModelError(f"{tensor} {flaw}")


def _flaw(tensor: SourceTensor, storage: Storage) -> str:
    if tensor.kind not in KINDS:
        return f"has type {tensor.kind}, newer than {RUNTIME}"
    if tensor.buffer in storage.external:
        return "has its values outside of the file's tables (field buffer.offset)"
    if len(tensor.shape) > MAX_RANK or len(tensor.shape_signature) != len(tensor.shape):
        return f"has {len(tensor.shape)} dimensions, and {len(tensor.shape_signature)} in its signature"
    if min(tensor.shape, default=0) < 0 or min(tensor.shape_signature, default=0) < -1:
        return f"has the shape {list(tensor.shape)}"
    size = math.prod(tensor.shape) * SIZES.get(TensorType(tensor.kind), 0)
    have = len(storage.buffers[tensor.buffer])
    if size > MAX_TENSOR_BYTES:
        return f"would take {size} bytes"
    if have and size and have != size:
        return f"has {have} bytes of values, and its shape {list(tensor.shape)} takes {size}"
    return ""


def _has_value(tensor: SourceTensor, storage: Storage) -> bool:
    return tensor.is_variable or 0 in tensor.shape or bool(storage.buffers[tensor.buffer])
