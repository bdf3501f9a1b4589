"""Write a .tflite file: graphs of built-in ops and their signatures, on `flatbuffers` alone.

A `ModelWriter` collects graphs, each `Graph` collects tensors and operators; `to_bytes` lays them out.
The same calls give the same bytes.  A dimension of -1 is dynamic: it is written as 1 in `shape` and as
-1 in `shape_signature`, which is what the runtimes ask for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Union

import numpy as np

from fedclient.errors import UsageError
from fedclient.model import schema

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from fedclient.model.schema import Op

TYPES = {
    np.dtype(np.float32): schema.TensorType.FLOAT32,
    np.dtype(np.int32): schema.TensorType.INT32,
    np.dtype(np.uint8): schema.TensorType.UINT8,
}
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Scalar:
    """A number in a table, with the width that the schema gives it."""

    kind: Literal["Bool", "Int8", "Uint8", "Int32", "Uint32"]
    value: int


# What a field of a table may hold: a tuple is a vector of int32, a list is a vector of tables.
Field = Union[Scalar, str, bytes, tuple[int, ...], "Table", "list[Table]"]
Table = Mapping[int, Field]


class Graph:
    """One subgraph; every method that adds a tensor returns its index."""

    def __init__(self, model: ModelWriter, name: str, index: int) -> None:
        self.index = index
        self._model = model
        self._name = name
        self._tensors: list[Table] = []
        self._operators: list[Table] = []
        self._inputs: dict[str, int] = {}
        self._outputs: dict[str, int] = {}

    def tensor(self, shape: Shape, kind: schema.TensorType, name: str = "", data: bytes = b"") -> int:
        table: dict[int, Field] = {
            schema.Tensor.SHAPE: tuple(max(size, 1) for size in shape),
            schema.Tensor.TYPE: Scalar("Int8", kind),
            schema.Tensor.BUFFER: Scalar("Uint32", self._model.buffer(data)),
            schema.Tensor.NAME: name or f"{self._name}/{len(self._tensors)}",
        }
        if -1 in shape:
            table[schema.Tensor.SHAPE_SIGNATURE] = shape
        self._tensors.append(table)
        return len(self._tensors) - 1

    def constant(self, value: NDArray[Any]) -> int:
        # The file format is little-endian, whatever machine writes it.
        data = value.astype(value.dtype.newbyteorder("<")).tobytes()
        return self.tensor(value.shape, TYPES[value.dtype], data=data)

    def input(self, name: str, shape: Shape, dtype: type = np.float32) -> int:
        tensor = self.tensor(shape, TYPES[np.dtype(dtype)], f"{self._name}_{name}")
        self._inputs[name] = tensor
        return tensor

    def output(self, name: str, tensor: int) -> None:
        self._outputs[name] = tensor

    def op(self, op: Op, inputs: Sequence[int], shape: Shape, options: Table | None = None) -> int:
        """Add an operator with one float32 output."""
        return self.typed_op(op, inputs, self.tensor(shape, schema.TensorType.FLOAT32), options)

    def typed_op(
        self, op: Op, inputs: Sequence[int], output: int | None, options: Table | None = None
    ) -> int:
        """Add an operator whose output tensor exists already, or that has none; return that tensor."""
        self._operators.append(
            {
                schema.Operator.CODE_INDEX: Scalar("Uint32", self._model.code(op)),
                schema.Operator.INPUTS: tuple(inputs),
                schema.Operator.OUTPUTS: () if output is None else (output,),
                schema.Operator.OPTIONS_TYPE: Scalar("Uint8", schema.OPTIONS[op]),
                schema.Operator.OPTIONS: options or {},
            }
        )
        return -1 if output is None else output

    def table(self) -> Table:
        return {
            schema.SubGraph.TENSORS: self._tensors,
            schema.SubGraph.INPUTS: tuple(self._inputs.values()),
            schema.SubGraph.OUTPUTS: tuple(self._outputs.values()),
            schema.SubGraph.OPERATORS: self._operators,
            schema.SubGraph.NAME: self._name,
        }

    def signature(self) -> Table:
        return {
            schema.Signature.INPUTS: _tensor_maps(self._inputs),
            schema.Signature.OUTPUTS: _tensor_maps(self._outputs),
            schema.Signature.KEY: self._name,
            schema.Signature.SUBGRAPH: Scalar("Uint32", self.index),
        }


class ModelWriter:
    """The whole file."""

    def __init__(self, description: str) -> None:
        self._description = description
        self._graphs: list[Graph] = []
        self._signatures: list[Graph] = []
        self._codes: list[Op] = []
        self._buffers: list[bytes] = [b""]  # by convention, buffer 0 is the empty one
        self._metadata: list[Table] = []

    def graph(self, name: str, *, signature: bool = True) -> Graph:
        """Add an empty graph, callable from outside under its name when it is a `signature`."""
        graph = Graph(self, name, len(self._graphs))
        self._graphs.append(graph)
        if signature:
            self._signatures.append(graph)
        return graph

    def buffer(self, data: bytes) -> int:
        if data not in self._buffers:
            self._buffers.append(data)
        return self._buffers.index(data)

    def code(self, op: Op) -> int:
        if op not in self._codes:
            self._codes.append(op)
        return self._codes.index(op)

    def metadata(self, name: str, data: bytes) -> None:
        number = Scalar("Uint32", self.buffer(data))
        self._metadata.append({schema.Metadata.NAME: name, schema.Metadata.BUFFER: number})

    def to_bytes(self) -> bytes:
        """Lay the file out.

        Raises UsageError when the `flatbuffers` package is not installed.
        """
        return _finish(
            {
                schema.Model.VERSION: Scalar("Uint32", schema.SCHEMA_VERSION),
                schema.Model.OPERATOR_CODES: [_operator_code(op) for op in self._codes],
                schema.Model.SUBGRAPHS: [graph.table() for graph in self._graphs],
                schema.Model.DESCRIPTION: self._description,
                schema.Model.BUFFERS: [{schema.Buffer.DATA: data} if data else {} for data in self._buffers],
                schema.Model.METADATA: self._metadata,
                schema.Model.SIGNATURES: [graph.signature() for graph in self._signatures],
            }
        )


def _tensor_maps(tensors: Mapping[str, int]) -> list[Table]:
    return [
        {schema.TensorMap.NAME: name, schema.TensorMap.TENSOR: Scalar("Uint32", index)}
        for name, index in tensors.items()
    ]


def _operator_code(op: Op) -> Table:
    return {
        schema.OperatorCode.DEPRECATED_CODE: Scalar("Int8", min(op, schema.PLACEHOLDER_CODE)),
        schema.OperatorCode.VERSION: Scalar("Int32", 1),
        schema.OperatorCode.CODE: Scalar("Int32", op),
    }


def _finish(root: Table) -> bytes:
    try:
        import flatbuffers  # noqa: PLC0415 - only those who write models need it
    except ImportError:
        raise UsageError("writing a model needs flatbuffers: pip install 'fedclient[author]'") from None
    builder = flatbuffers.Builder(4096)
    builder.Finish(_write(builder, root), file_identifier=schema.FILE_IDENTIFIER)
    return bytes(builder.Output())


def _write(builder: Any, table: Table) -> int:
    """Write a table, children first, as FlatBuffers are built from the end; return its offset."""
    children = {
        slot: _write_child(builder, field) for slot, field in table.items() if not isinstance(field, Scalar)
    }
    builder.StartObject(max(table, default=-1) + 1)
    for slot, field in table.items():
        if isinstance(field, Scalar):
            getattr(builder, f"Prepend{field.kind}Slot")(int(slot), int(field.value), 0)
        else:
            builder.PrependUOffsetTRelativeSlot(int(slot), children[slot], 0)
    return int(builder.EndObject())


def _write_child(builder: Any, field: str | bytes | Shape | Table | list[Table]) -> int:
    if isinstance(field, str):
        return int(builder.CreateString(field))
    if isinstance(field, bytes):
        builder.StartVector(1, len(field), schema.BUFFER_ALIGNMENT)
        builder.head -= len(field)
        builder.Bytes[builder.head : builder.head + len(field)] = field
        return int(builder.EndVector())
    if isinstance(field, Mapping):
        return _write(builder, field)
    if isinstance(field, tuple):
        builder.StartVector(4, len(field), 4)
        for number in reversed(field):
            builder.PrependInt32(number)
        return int(builder.EndVector())
    offsets = [_write(builder, table) for table in field]
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())
