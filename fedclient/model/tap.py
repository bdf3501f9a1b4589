"""Which tensor of a deployed model are the features: what the last layer, the old head, was fed.  Pure.

From the output back, over what only reshapes, rescales or turns scores into probabilities:

| what is found | the tap |
|---|---|
| FULLY_CONNECTED | its input |
| 1x1 CONV_2D, perhaps with a pool after it | its input, averaged over height and width |
| what ends an embedder: a mean, a pool, L2 normalisation ... | the output itself |
| anything else, several outputs | none: a refusal that asks for `--tap` |

A layer with an activation of its own is a head only where probabilities follow: else it ends an embedder.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fedclient import limits
from fedclient.errors import ModelError
from fedclient.model import operators
from fedclient.model.layout import RawTable
from fedclient.model.schema import Op, TensorType

if TYPE_CHECKING:
    from fedclient.model.document import Document
    from fedclient.model.source import SourceGraph, SourceOperator, SourceTensor


def _numbers(names: str) -> frozenset[int]:
    return frozenset(operators.NAMES.index(name) for name in names.split())


PROBABILITIES: Final = _numbers("SOFTMAX LOG_SOFTMAX LOGISTIC")
SHAPES: Final = _numbers("RESHAPE SQUEEZE EXPAND_DIMS QUANTIZE DEQUANTIZE")
POOLS: Final = _numbers("MEAN SUM REDUCE_MAX AVERAGE_POOL_2D MAX_POOL_2D")
EMBEDDERS: Final = POOLS | _numbers(
    "L2_NORMALIZATION L2_POOL_2D MUL DIV BATCH_MATMUL FULLY_CONNECTED CONV_2D DEPTHWISE_CONV_2D"
    " TANH RELU RELU6 HARD_SWISH LSTM RNN SVDF UNIDIRECTIONAL_SEQUENCE_LSTM BIDIRECTIONAL_SEQUENCE_LSTM"
    " UNIDIRECTIONAL_SEQUENCE_RNN BIDIRECTIONAL_SEQUENCE_RNN WHILE IF GATHER SLICE STRIDED_SLICE"
)
FUSED_ACTIVATION: Final = {Op.FULLY_CONNECTED: 0, Op.CONV_2D: 3}  # field of their options
QUANTIZED: Final = {TensorType.INT8, TensorType.UINT8, TensorType.INT16}
SAMPLES: Final = {TensorType.FLOAT32, TensorType.INT32} | QUANTIZED  # what a sample store keeps
_NAME_CHARS: Final = 256
_LISTED: Final = 8  # tensors or inputs named in a sentence


@dataclass(frozen=True, kw_only=True, slots=True)
class Tap:
    """The tensor that becomes the features, and why it and no other."""

    name: str
    index: int
    shape: tuple[int, ...]  # -1: dynamic
    dtype: str
    why: str
    averaged: bool = False  # over height and width
    features: int = 0  # D: how many numbers one sample becomes


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    tensor: int
    why: str
    is_map: bool = True  # of a 4-D tensor only the channels are features; else every number is one


def choose_tap(document: Document, wanted: str | None = None) -> Tap:
    """Return the features' tensor; `wanted` is its name or index where the caller knows better.

    Raises ModelError, with the remedy in the sentence.
    """
    graph = document.graphs[0]
    found = _walk(graph) if wanted is None else _named(graph, wanted)
    if found.tensor not in _makers(graph):
        raise ModelError(
            "the model is nothing but a head, so no backbone would be left: fedclient model new-head writes "
            "a head for raw samples"
        )
    tensor = graph.tensors[found.tensor]
    one_input(graph, found.tensor)
    _check_kind(tensor)
    return _described(tensor, found)


def operators_for(graph: SourceGraph, tensor: int) -> tuple[int, ...]:
    """Return the operators that `tensor` needs, as indices in order.

    Those without an output (they set variables and tables) may be needed by any that follow.
    """
    needed, kept, wanted = {tensor}, [], False
    for index in reversed(range(len(graph.operators))):
        operator = graph.operators[index]
        if needed.intersection(operator.outputs) or (wanted and not operator.outputs):
            needed.update(operator.inputs)
            kept.append(index)
            wanted = True
    return tuple(reversed(kept))


def one_input(graph: SourceGraph, tensor: int) -> SourceTensor:
    """Return the one input that `tensor` is computed from.

    Raises ModelError when there are others or none, or when a sample cannot be it.
    """
    reached = {index for number in operators_for(graph, tensor) for index in graph.operators[number].inputs}
    inputs = [graph.tensors[index] for index in graph.inputs if index in reached]
    if len(inputs) != 1:
        names = ", ".join(repr(one.name) for one in inputs[:_LISTED]) or "none"
        raise ModelError(
            f"the features need exactly one input, not {len(inputs)} ({names}): "
            "export the model so that it takes one tensor, or name an inner tensor that needs one with --tap"
        )
    _check_input(inputs[0])
    return inputs[0]


def _walk(graph: SourceGraph) -> _Found:
    if len(graph.outputs) != 1:
        names = ", ".join(repr(graph.tensors[index].name) for index in graph.outputs[:_LISTED]) or "none"
        raise ModelError(
            f"the model has {len(graph.outputs)} outputs ({names}), so its head is unclear: "
            "name the tensor that holds the features with --tap"
        )
    makers = _makers(graph)
    at, likely, pooled = graph.outputs[0], False, False
    for _ in graph.operators:  # each step goes back by one of them; damaged graphs may go in circles
        if at not in makers:
            break
        operator = makers[at]
        if not operator.inputs:
            break
        if operator.op in PROBABILITIES and not pooled:
            likely = True
        elif operator.op == Op.FULLY_CONNECTED and not pooled and (likely or not _activation(operator)):
            return _Found(
                tensor=operator.inputs[0],
                why=f"the input of the last {_said(operator)}, the old head",
                is_map=False,
            )
        elif _is_pointwise(graph, operator) and (likely or not _activation(operator)):
            return _Found(
                tensor=operator.inputs[0], why=f"the input of the last 1x1 {_said(operator)}, the old head"
            )
        elif operator.op in POOLS and not pooled:
            pooled = True
        elif operator.op not in SHAPES:
            break
        at = operator.inputs[0]
    return _embedding(graph, likely=likely)


def _embedding(graph: SourceGraph, *, likely: bool) -> _Found:
    """Return the output itself when the model ends as an embedder does: without a head."""
    makers, at = _makers(graph), graph.outputs[0]
    for _ in graph.operators:
        if at not in makers or makers[at].op not in SHAPES or not makers[at].inputs:
            break
        at = makers[at].inputs[0]
    said = _said(makers[at]) if at in makers else "an input"
    if likely or at not in makers or makers[at].op not in EMBEDDERS:
        raise ModelError(
            f"the model's output comes from {said}, and no FULLY_CONNECTED or 1x1 CONV_2D head is before it: "
            "name the tensor that holds the features with --tap (fedclient model inspect lists them)"
        )
    return _Found(
        tensor=graph.outputs[0], why=f"the output itself: it comes from {said}, so the model is an embedder"
    )


def _named(graph: SourceGraph, wanted: str) -> _Found:
    named = [tensor.index for tensor in graph.tensors if tensor.name == wanted]
    if not named and re.fullmatch("[0-9]{1,9}", wanted) and int(wanted) < len(graph.tensors):
        named = [int(wanted)]
    made = [index for index in named if index in _makers(graph)]
    if len(made) > 1:
        raise ModelError(
            f"{len(made)} tensors are called {wanted!r}: give --tap the index of one of {made[:_LISTED]}"
        )
    if not made:
        found = "is an input or a constant" if named else f"is not in the model{_hint(graph, wanted)}"
        raise ModelError(f"the tensor {wanted!r} {found}: fedclient model inspect lists what --tap can name")
    return _Found(tensor=made[0], why="it was asked for with --tap")


def _hint(graph: SourceGraph, wanted: str) -> str:
    """Return the one tensor that a part of a name tells: converters' names are long, `inspect` cuts them."""
    part = wanted.removesuffix("...")
    makers = _makers(graph)
    near = [one for one in graph.tensors if one.index in makers and part in one.name[:_NAME_CHARS]]
    return (
        f" (did you mean tensor {near[0].index}, {near[0].name[:_NAME_CHARS]!r}?)" if len(near) == 1 else ""
    )


def _described(tensor: SourceTensor, found: _Found) -> Tap:
    shape = tensor.sizes
    pooled = len(shape) == 4 and found.is_map
    sizes = shape[3:] if pooled else shape[1:]
    if len(shape) < 2 or not all(size > 0 for size in sizes):
        raise ModelError(
            f"the tap {tensor.name!r} is {list(shape)}: features are a batch of rows of one fixed size; "
            "name another tensor with --tap"
        )
    averaged = pooled and shape[1:3] != (1, 1)
    why = f"{found.why}; averaged over its height and width" if averaged else found.why
    return Tap(
        name=tensor.name[:_NAME_CHARS],
        index=tensor.index,
        shape=shape,
        dtype=tensor.dtype,
        why=why,
        averaged=averaged,
        features=math.prod(sizes),
    )


def _check_kind(tensor: SourceTensor) -> None:
    if tensor.kind in QUANTIZED and len(tensor.scale) == 1:
        return
    if tensor.kind != TensorType.FLOAT32:
        kind = "quantised per channel" if tensor.kind in QUANTIZED and tensor.scale else tensor.dtype
        raise ModelError(
            f"the tap {tensor.name!r} is {kind}: features are float32, or int8, uint8 or int16 with one "
            "scale; name another tensor with --tap"
        )


def _check_input(tensor: SourceTensor) -> None:
    shape = tensor.sizes
    said = f"the model's input {tensor.name!r} is {tensor.dtype} {list(shape)}"
    if tensor.kind not in SAMPLES:
        raise ModelError(
            f"{said}: samples are float32, int8, uint8, int16 or int32; convert the model with such an input"
        )
    if len(shape) < 2 or len(shape) > limits.MAX_TENSOR_RANK:
        raise ModelError(
            f"{said}: it needs a batch dimension in front, as in [1, {', '.join(map(str, shape))}]"
        )
    if not all(size > 0 for size in shape[1:]) or not shape[0]:
        raise ModelError(
            f"{said}: only the batch may be dynamic, as samples have one size; convert it with a fixed size"
        )


def _makers(graph: SourceGraph) -> dict[int, SourceOperator]:
    return {tensor: operator for operator in graph.operators for tensor in operator.outputs}


def _is_pointwise(graph: SourceGraph, operator: SourceOperator) -> bool:
    """Tell whether it is a convolution that sees one place at a time: kernel [C, 1, 1, D]."""
    if operator.op != Op.CONV_2D or len(operator.inputs) < 2:
        return False
    return graph.tensors[operator.inputs[1]].shape[1:3] == (1, 1)


def _activation(operator: SourceOperator) -> int:
    """Return the number of the activation that is fused into an operator, 0 for none."""
    slot, options = FUSED_ACTIVATION[Op(operator.op)], operator.options
    if not isinstance(options, RawTable) or slot >= len(options.fields) or not options.fields[slot]:
        return 0
    return options.body[options.fields[slot] - 4]


def _said(operator: SourceOperator) -> str:
    return f"{operator.name} (operator {operator.index})"
