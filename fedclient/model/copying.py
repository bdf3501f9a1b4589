"""Copy a part of another file's first graph, and what it calls, into a writer.

Tensors and operators that nothing kept uses are left out, and those that stay are numbered anew.  Graphs
that are called keep their numbers, because the operators that call them are copied as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fedclient.model import runnable, schema
from fedclient.model.layout import Field, Scalar, Table, Vector
from fedclient.model.source import SourceGraph, SourceOperator, SourceTensor
from fedclient.model.writer import ModelWriter, Quantization


@dataclass(frozen=True, kw_only=True, slots=True)
class Copied:
    """What graphs of the writer can begin with (`Graph.adopt`); its tables are written once for all of them.

    `numbers`: the new numbers of the source's tensors, of those that the kept operators use.
    """

    tensors: list[Table]
    operators: list[Table]
    numbers: Mapping[int, int]

    def tensor(self, old: int) -> int:
        """Return the new number of a tensor of the source's first graph."""
        return self.numbers[old]


def copy(
    graphs: Sequence[SourceGraph], buffers: tuple[bytes, ...], writer: ModelWriter, keep: Sequence[int]
) -> Copied:
    """Copy these operators of graph 0; `writer` has one graph, whose number they thereby know."""
    kept = [graphs[0].operators[number] for number in sorted(set(keep))]
    _copy_called(graphs, runnable.called(graphs, 0, kept), buffers, writer)
    used: set[int] = set()
    for operator in kept:
        used.update(operator.inputs, operator.outputs, operator.intermediates)
    numbers = {old: new for new, old in enumerate(sorted(used - {-1}))}
    number = (numbers | {-1: -1}).__getitem__
    return Copied(
        tensors=[_tensor(graphs[0].tensors[old], buffers, writer) for old in numbers],
        operators=[_operator(operator, number, writer) for operator in kept],
        numbers=numbers,
    )


def _copy_called(
    graphs: Sequence[SourceGraph], called: tuple[int, ...], buffers: tuple[bytes, ...], writer: ModelWriter
) -> None:
    """Copy whole graphs to their own numbers; those between them that nothing calls become empty."""
    if called and writer.graphs != 1:
        raise ValueError("the graphs of the source are numbers 1 and on: copy before adding a second graph")
    for number in range(1, max(called, default=0) + 1):
        source = graphs[number]
        graph = writer.graph(source.name, signature=False)
        if number not in called:
            continue
        tensors = [_tensor(tensor, buffers, writer) for tensor in source.tensors]
        copied = [_operator(operator, int, writer) for operator in source.operators]
        graph.adopt(Copied(tensors=tensors, operators=copied, numbers={}))
        for place, tensor in enumerate(source.inputs):
            graph.feed(str(place), tensor)
        for place, tensor in enumerate(source.outputs):
            graph.output(str(place), tensor)


def _tensor(tensor: SourceTensor, buffers: tuple[bytes, ...], writer: ModelWriter) -> Table:
    table: dict[int, Field] = {
        schema.Tensor.SHAPE: tensor.shape,
        schema.Tensor.TYPE: Scalar("Int8", tensor.kind),
        schema.Tensor.BUFFER: Scalar("Uint32", writer.buffer(buffers[tensor.buffer])),
        schema.Tensor.NAME: tensor.name,
        schema.Tensor.IS_VARIABLE: Scalar("Bool", tensor.is_variable),
        schema.Tensor.HAS_RANK: Scalar("Bool", tensor.has_rank),
    }
    if tensor.shape_signature != tensor.shape:
        table[schema.Tensor.SHAPE_SIGNATURE] = tensor.shape_signature
    if tensor.scale:
        how = Quantization(scale=tensor.scale, zero_point=tensor.zero_point, dimension=tensor.dimension)
        table[schema.Tensor.QUANTIZATION] = how.table()
    return table


def _operator(operator: SourceOperator, number: Callable[[int], int], writer: ModelWriter) -> Table:
    code = writer.code(operator.op, operator.version, operator.custom)
    table: dict[int, Field] = {
        schema.Operator.CODE_INDEX: Scalar("Uint32", code),
        schema.Operator.INPUTS: tuple(map(number, operator.inputs)),
        schema.Operator.OUTPUTS: tuple(map(number, operator.outputs)),
    }
    if operator.options is not None:
        table[schema.Operator.OPTIONS_TYPE] = Scalar("Uint8", operator.options_type)
        table[schema.Operator.OPTIONS] = operator.options
    if operator.custom_options:
        table[schema.Operator.CUSTOM_OPTIONS] = operator.custom_options
    if operator.mutating:
        table[schema.Operator.MUTATING] = Vector(1, operator.mutating)
    if operator.intermediates:
        table[schema.Operator.INTERMEDIATES] = tuple(map(number, operator.intermediates))
    return table
