"""The parts of a .tflite file, table by table; numbers that point at other parts are in bounds.  Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fedclient.errors import ModelError
from fedclient.model import operators, schema
from fedclient.model.operator_options import Options, read_calls, read_options
from fedclient.model.reader import Table
from fedclient.model.source import OperatorCode, SourceGraph, SourceOperator, SourceSignature, SourceTensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """What the indices of a graph are checked against."""

    codes: tuple[OperatorCode, ...]
    buffers: int
    graphs: int


def buffers(root: Table, data: bytes) -> tuple[tuple[bytes, ...], frozenset[int]]:
    """Return the buffers, and the numbers of those that are elsewhere."""
    found: dict[tuple[int, int], bytes] = {}
    numbers, external, total = [], set(), 0
    for number, table in enumerate(root.tables(schema.Model.BUFFERS)):
        # 1 is how writers reserve the place of an offset that they then did not need.
        if table.long(schema.Buffer.OFFSET) not in {0, 1}:
            external.add(number)
        place = table.place(schema.Buffer.DATA, 1)
        if place not in found:
            found[place] = data[place[0] : place[0] + place[1]]
            total += place[1]
            if total > len(data):
                raise ModelError("the .tflite file is damaged: its buffers overlap")
        numbers.append(found[place])
    return tuple(numbers) or (b"",), frozenset(external)  # number 0 is the empty one, even if none is there


def operator_codes(root: Table) -> tuple[OperatorCode, ...]:
    """Return the operators that the file uses."""
    code = schema.OperatorCode
    return tuple(
        OperatorCode(
            # Numbers above 127 have a field of their own; older files fill only the first.
            op=max(table.small(code.DEPRECATED_CODE), table.signed(code.CODE)),
            custom=table.name(code.CUSTOM),
            version=table.signed(code.VERSION, 1),
        )
        for table in root.tables(schema.Model.OPERATOR_CODES)
    )


def graph(table: Table, index: int, sizes: Sizes) -> SourceGraph:
    """Return one graph."""
    tables = table.tables(schema.SubGraph.TENSORS)
    tensors = tuple(_tensor(one, number, sizes) for number, one in enumerate(tables))
    listed = enumerate(table.tables(schema.SubGraph.OPERATORS))
    found = tuple(_operator(one, number, len(tensors), sizes) for number, one in listed)
    inputs, outputs = table.integers(schema.SubGraph.INPUTS), table.integers(schema.SubGraph.OUTPUTS)
    _within(inputs + outputs, len(tensors), f"an input or output of graph {index}", least=0)
    return SourceGraph(
        index=index,
        name=table.name(schema.SubGraph.NAME),
        tensors=tensors,
        operators=found,
        inputs=inputs,
        outputs=outputs,
    )


def metadata(root: Table, contents: tuple[bytes, ...]) -> Mapping[str, bytes]:
    """Return the named metadata; of two with one name the first."""
    found: dict[str, bytes] = {}
    for entry in root.tables(schema.Model.METADATA):
        name, number = entry.name(schema.Metadata.NAME), entry.number(schema.Metadata.BUFFER)
        _within([number], len(contents), f"the metadata {name[:80]!r}", least=0)
        found.setdefault(name, contents[number])
    return found


def signatures(root: Table, graphs: tuple[SourceGraph, ...]) -> tuple[SourceSignature, ...]:
    """Return the graphs that have names for callers."""
    found = []
    for table in root.tables(schema.Model.SIGNATURES):
        key, number = table.name(schema.Signature.KEY), table.number(schema.Signature.SUBGRAPH)
        _within([number], len(graphs), f"the signature {key[:80]!r}", least=0)
        inputs, outputs = (
            {
                entry.name(schema.TensorMap.NAME): entry.number(schema.TensorMap.TENSOR)
                for entry in table.tables(slot)
            }
            for slot in (schema.Signature.INPUTS, schema.Signature.OUTPUTS)
        )
        count = len(graphs[number].tensors)
        _within([*inputs.values(), *outputs.values()], count, f"the signature {key[:80]!r}", least=0)
        found.append(SourceSignature(key=key, graph=number, inputs=inputs, outputs=outputs))
    return tuple(found)


def _tensor(table: Table, index: int, sizes: Sizes) -> SourceTensor:
    name, shape = table.name(schema.Tensor.NAME), table.integers(schema.Tensor.SHAPE)
    buffer = table.number(schema.Tensor.BUFFER)
    _within([buffer], sizes.buffers, f"the buffer of tensor {name[:80]!r}", least=0)
    quantization = table.table(schema.Tensor.QUANTIZATION)
    scale, zero_point = b"", b""
    if quantization:
        scale = quantization.vector(schema.Quantization.SCALE, 4)
        zero_point = quantization.vector(schema.Quantization.ZERO_POINT, 8)
    return SourceTensor(
        index=index,
        name=name,
        shape=shape,
        shape_signature=table.integers(schema.Tensor.SHAPE_SIGNATURE) or shape,
        kind=table.small(schema.Tensor.TYPE),
        scale=struct.unpack(f"<{len(scale) // 4}f", scale),
        zero_point=struct.unpack(f"<{len(zero_point) // 8}q", zero_point),
        dimension=quantization.signed(schema.Quantization.DIMENSION) if quantization else 0,
        buffer=buffer,
        is_variable=table.flag(schema.Tensor.IS_VARIABLE),
        has_rank=table.flag(schema.Tensor.HAS_RANK),
        flaw=_tensor_flaw(table, quantization),
    )


def _tensor_flaw(table: Table, quantization: Table | None) -> str:
    if table.has(schema.Tensor.SPARSITY):
        return "is sparse (field sparsity)"
    if table.has(schema.Tensor.VARIANT):
        return "has tensors within it (field variant_tensors)"
    if table.number(schema.Tensor.EXTERNAL_BUFFER):
        return "has its values in another file (field external_buffer)"
    if quantization and quantization.byte(schema.Quantization.DETAILS_TYPE):
        return "has a quantisation of another kind (field quantization.details)"
    return ""


def _operator(table: Table, index: int, tensors: int, sizes: Sizes) -> SourceOperator:
    number = table.number(schema.Operator.CODE_INDEX)
    _within([number], len(sizes.codes), f"the code of operator {index}", least=0)
    code = sizes.codes[number]
    inputs, outputs, inner = (
        table.integers(slot)
        for slot in (schema.Operator.INPUTS, schema.Operator.OUTPUTS, schema.Operator.INTERMEDIATES)
    )
    name = operators.name(code.op)
    _within(inputs + outputs + inner, tensors, f"a tensor of operator {name} ({index})", least=-1)
    kind, options = table.byte(schema.Operator.OPTIONS_TYPE), table.table(schema.Operator.OPTIONS)
    read: tuple[Options, str] = read_options(kind, options) if options and kind else (None, "")
    calls = read_calls(code.op, kind, options)
    _within(calls, sizes.graphs, f"a graph that operator {name} ({index}) runs", least=0)
    return SourceOperator(
        index=index,
        op=code.op,
        custom=code.custom,
        version=code.version,
        inputs=inputs,
        outputs=outputs,
        intermediates=inner,
        options_type=kind,
        options=read[0],
        custom_options=table.text(schema.Operator.CUSTOM_OPTIONS),
        mutating=table.text(schema.Operator.MUTATING),
        calls=calls,
        flaw=read[1] or _operator_flaw(table),
    )


def _operator_flaw(table: Table) -> str:
    if table.byte(schema.Operator.OPTIONS_2_TYPE):
        return "has options of StableHLO (field builtin_options_2), newer than tflite-runtime 2.14"
    if table.long(schema.Operator.LARGE_OPTIONS) not in {0, 1}:
        return "has its options outside of the file's tables (field large_custom_options_offset)"
    if table.small(schema.Operator.CUSTOM_FORMAT):
        return "has options of an unknown format (field custom_options_format)"
    return ""


def _within(numbers: Iterable[int], count: int, what: str, *, least: int) -> None:
    for number in numbers:
        if not least <= number < count:
            raise ModelError(f"the .tflite file is damaged: {what} is number {number} of {count}")
