"""Write a .tflite file: graphs of built-in ops and their signatures, on `flatbuffers` alone.

A `ModelWriter` collects graphs, each `Graph` collects tensors and operators; `to_bytes` lays them out.
The same calls give the same bytes.  A dimension of -1 is dynamic: it is written as 1 in `shape` and as
-1 in `shape_signature`, which is what the runtimes ask for.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from fedclient.model import schema
from fedclient.model.layout import Field, Scalar, Table, Vector, lay_out
from fedclient.model.schema import Op, TensorType

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    from numpy.typing import NDArray

    from fedclient.model.copying import Copied

__all__ = ["Field", "Graph", "ModelWriter", "Quantization", "Scalar", "Shape", "Table", "Vector"]

TYPES = {
    np.dtype(np.float32): TensorType.FLOAT32,
    np.dtype(np.float16): TensorType.FLOAT16,
    np.dtype(np.int32): TensorType.INT32,
    np.dtype(np.uint8): TensorType.UINT8,
    np.dtype(np.int64): TensorType.INT64,
    np.dtype(np.bool_): TensorType.BOOL,
    np.dtype(np.int16): TensorType.INT16,
    np.dtype(np.int8): TensorType.INT8,
}
DEQUANTIZE_VERSIONS = {
    TensorType.UINT8: 1,
    TensorType.INT8: 2,
    TensorType.FLOAT16: 3,
    TensorType.INT16: 3,
}
Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantization:
    """real = scale * (number - zero point); one pair, or one per slice along `dimension`."""

    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    dimension: int = 0

    def table(self) -> Table:
        return {
            schema.Quantization.SCALE: Vector(4, struct.pack(f"<{len(self.scale)}f", *self.scale)),
            schema.Quantization.ZERO_POINT: Vector(
                8, struct.pack(f"<{len(self.zero_point)}q", *self.zero_point)
            ),
            schema.Quantization.DIMENSION: Scalar("Int32", self.dimension),
        }


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
        self._once: dict[Hashable, int] = {}

    def adopt(self, copied: Copied) -> None:
        """Begin with the tensors and operators of another file, which are written once for all graphs."""
        if self._tensors:
            raise ValueError("copied tensors keep their numbers: adopt them before any other")
        self._tensors.extend(copied.tensors)
        self._operators.extend(copied.operators)

    def tensor(self, shape: Shape, kind: TensorType, name: str = "", data: bytes = b"") -> int:
        table: dict[int, Field] = {
            schema.Tensor.SHAPE: tuple(max(size, 1) for size in shape),
            schema.Tensor.TYPE: Scalar("Int8", kind),
            schema.Tensor.BUFFER: Scalar("Uint32", self._model.buffer(data)),
            schema.Tensor.NAME: name or self._name,  # written once for all
        }
        if -1 in shape:
            table[schema.Tensor.SHAPE_SIGNATURE] = shape
        self._tensors.append(table)
        return len(self._tensors) - 1

    def variable(self, shape: Shape, kind: TensorType, name: str = "") -> int:
        """Add a tensor that keeps its value from one call to the next, zeros at first."""
        tensor = self.tensor(shape, kind, name)
        self._tensors[tensor] = {**self._tensors[tensor], schema.Tensor.IS_VARIABLE: Scalar("Bool", 1)}
        return tensor

    def quantize(self, tensor: int, how: Quantization) -> int:
        """Say what the integers of a tensor stand for; return the tensor."""
        self._tensors[tensor] = {**self._tensors[tensor], schema.Tensor.QUANTIZATION: how.table()}
        return tensor

    def kind(self, tensor: int) -> int:
        """Return the TensorType of a tensor."""
        return int(cast("Scalar", self._tensors[tensor].get(schema.Tensor.TYPE, Scalar("Int8", 0))).value)

    def constant(self, value: NDArray[Any]) -> int:
        # The file format is little-endian, whatever machine writes it.
        data = value.astype(value.dtype.newbyteorder("<")).tobytes()
        kind = TYPES[value.dtype]
        return self.once((kind, value.shape, data), lambda: self.tensor(value.shape, kind, data=data))

    def once(self, key: Hashable, add: Callable[[], int]) -> int:
        """Return the tensor that `add` returned when it was first called for this key."""
        if key not in self._once:
            self._once[key] = add()
        return self._once[key]

    def input(self, name: str, shape: Shape, dtype: type = np.float32) -> int:
        tensor = self.tensor(shape, TYPES[np.dtype(dtype)], f"{self._name}_{name}")
        self._inputs[name] = tensor
        return tensor

    def feed(self, name: str, tensor: int) -> None:
        """Make a tensor that exists already an input: that of a copied backbone."""
        self._inputs[name] = tensor

    def output(self, name: str, tensor: int) -> None:
        self._outputs[name] = tensor

    def op(
        self, op: Op, inputs: Sequence[int], shape: Shape, options: Table | None = None, version: int = 1
    ) -> int:
        """Add an operator with one float32 output."""
        return self.typed_op(op, inputs, self.tensor(shape, TensorType.FLOAT32), options, version)

    def typed_op(
        self,
        op: Op,
        inputs: Sequence[int],
        output: int | None,
        options: Table | None = None,
        version: int = 1,
    ) -> int:
        """Add an operator whose output tensor exists already, or that has none; return that tensor."""
        outputs = () if output is None else (output,)
        self.many_op(self._model.code(op, version), inputs, outputs, self._options(op, options))
        return -1 if output is None else output

    def many_op(
        self, code: int, inputs: Sequence[int], outputs: Sequence[int], options: Table | None = None
    ) -> None:
        """Add an operator by the model's number for its code, with any number of outputs."""
        self._operators.append(
            {
                schema.Operator.CODE_INDEX: Scalar("Uint32", code),
                schema.Operator.INPUTS: tuple(inputs),
                schema.Operator.OUTPUTS: tuple(outputs),
                **(options or {}),
            }
        )

    def dequantize(self, tensor: int, shape: Shape) -> int:
        """Turn a quantised or float16 tensor into float32."""
        version = DEQUANTIZE_VERSIONS[TensorType(self.kind(tensor))]
        return self.op(Op.DEQUANTIZE, [tensor], shape, version=version)

    def _options(self, op: Op, options: Table | None) -> Table:
        if op not in schema.OPTIONS:
            return {}
        return {
            schema.Operator.OPTIONS_TYPE: Scalar("Uint8", schema.OPTIONS[op]),
            schema.Operator.OPTIONS: self._model.options(options or {}),
        }

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
        self._codes: dict[tuple[int, int, str], int] = {}
        self._buffers: dict[bytes, int] = {b"": 0}  # by convention, buffer 0 is the empty one
        self._metadata: list[Table] = []
        self._options: dict[tuple[Any, ...], Table] = {}

    def graph(self, name: str, *, signature: bool = True) -> Graph:
        """Add an empty graph, callable from outside under its name when it is a `signature`."""
        graph = Graph(self, name, len(self._graphs))
        self._graphs.append(graph)
        if signature:
            self._signatures.append(graph)
        return graph

    @property
    def graphs(self) -> int:
        """How many graphs there are: the index of the next one."""
        return len(self._graphs)

    def buffer(self, data: bytes) -> int:
        """Return the number of the buffer that holds `data`; equal bytes are written once."""
        return self._buffers.setdefault(data, len(self._buffers))

    def code(self, op: int, version: int = 1, custom: str = "") -> int:
        """Return the number of an operator code; `custom`: the name of an operator that is not built in."""
        return self._codes.setdefault((int(op), version, custom), len(self._codes))

    def options(self, table: Table) -> Table:
        """Return an equal table that the file has already, else this one: it is written once."""
        return self._options.setdefault(tuple(sorted(table.items())), table)

    def metadata(self, name: str, data: bytes) -> None:
        number = Scalar("Uint32", self.buffer(data))
        self._metadata.append({schema.Metadata.NAME: name, schema.Metadata.BUFFER: number})

    def to_bytes(self) -> bytes:
        """Lay the file out.

        Raises UsageError when the `flatbuffers` package is not installed.
        """
        root: Table = {
            schema.Model.VERSION: Scalar("Uint32", schema.SCHEMA_VERSION),
            schema.Model.OPERATOR_CODES: [_operator_code(*code) for code in self._codes],
            schema.Model.SUBGRAPHS: [graph.table() for graph in self._graphs],
            schema.Model.DESCRIPTION: self._description,
            schema.Model.BUFFERS: [{schema.Buffer.DATA: data} if data else {} for data in self._buffers],
            schema.Model.METADATA: self._metadata,
            schema.Model.SIGNATURES: [graph.signature() for graph in self._signatures],
        }
        return lay_out(root, 4096 + sum(map(len, self._buffers)))


def _tensor_maps(tensors: Mapping[str, int]) -> list[Table]:
    return [
        {schema.TensorMap.NAME: name, schema.TensorMap.TENSOR: Scalar("Uint32", index)}
        for name, index in tensors.items()
    ]


def _operator_code(op: int, version: int, custom: str) -> Table:
    table: dict[int, Field] = {
        schema.OperatorCode.DEPRECATED_CODE: Scalar("Int8", min(op, schema.PLACEHOLDER_CODE)),
        schema.OperatorCode.VERSION: Scalar("Int32", version),
        schema.OperatorCode.CODE: Scalar("Int32", op),
    }
    if custom:
        table[schema.OperatorCode.CUSTOM] = custom
    return table
