"""Cut the old head off a deployed model and write a trainable one in its place.  Pure.

| graph | |
|---|---|
| 0, `predict` | a raw sample -> logits: what a plain interpreter runs |
| 1 and on | the graphs that the backbone calls, at their own numbers |
| `features` | a raw sample -> float32 [B, D]: the backbone up to the tap, dequantised, averaged, flat |
| those of a head | `infer`, `train`, `get_weights` ... as `head.py` says |

The backbone's operators and tensors are written once for both of its graphs, and its weights as they were.
What is known of the model travels in the file's metadata (`origin.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from fedclient.errors import ModelError
from fedclient.model import ops, schema
from fedclient.model.document import Document
from fedclient.model.head import METADATA_NAME, HeadGraphs, HeadOptions, metadata
from fedclient.model.layers import head_of
from fedclient.model.origin import Input, Origin, Parent
from fedclient.model.packaged import Packaged, read_packaged
from fedclient.model.schema import Op, TensorType
from fedclient.model.tap import Tap, choose_tap, one_input, operators_for
from fedclient.model.writer import ModelWriter

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from fedclient.model.document import Copied, SourceTensor
    from fedclient.model.writer import Graph

MAP_AXES: Final = (1, 2)  # height and width


@dataclass(frozen=True, kw_only=True, slots=True)
class NewHead:
    """The head that is wanted; `labels`: () for those of the parent, where it has as many."""

    classes: int
    hidden: int | None = None
    tap: str | None = None
    seed: int = 0
    options: HeadOptions = field(default_factory=HeadOptions)
    labels: tuple[str, ...] = ()
    given: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)  # first weights from elsewhere


@dataclass(frozen=True, kw_only=True, slots=True)
class Attached:
    """A new file, not proved yet, and what it was made with."""

    data: bytes
    tap: Tap
    classes: int
    labels: tuple[str, ...]


def attach(parent: bytes, head: NewHead, *, free_batch: bool = True) -> Attached:
    """Return a trainable file made of the model `parent`; with `free_batch` it takes any number of samples.

    Raises ModelError when the model cannot be cut or run, UsageError for a head that cannot be.
    """
    document = Document.read(parent)
    if METADATA_NAME in document.metadata:
        raise ModelError("the model is a trainable one already: attach a head to the model it was made of")
    tap = choose_tap(document, head.tap)
    keep = operators_for(document.graphs[0], tap.index)
    document.require_runnable(0, keep)
    packaged = read_packaged(parent, document.metadata)
    labels = head.labels or (packaged.labels if len(packaged.labels) == head.classes else ())
    writer = ModelWriter(f"fedclient head on {document.description[:200] or 'a backbone'}")
    predict = writer.graph("predict")
    copied = document.copy_into(writer, keep)
    source = one_input(document.graphs[0], tap.index)
    tensors = (source, document.graphs[0].tensors[tap.index])
    _set_batch(copied, *tensors, free=free_batch)
    features = writer.graph("features")
    shape = head_of(tap.features, head.classes, head.hidden, head.seed, head.options)
    heads = HeadGraphs(writer, shape.starting_with(head.given))
    for graph in (predict, features):
        graph.adopt(copied)
        graph.feed("x", copied.tensor(source.index))
    features.output("features", _features(features, copied, tap))
    predict.output("logits", heads.logits(predict, _features(predict, copied, tap)))
    heads.add_signatures()
    origin = _origin(parent, tensors, tap, packaged, labels)
    writer.metadata(METADATA_NAME, metadata(head.hidden, head.options, **origin.as_json()))
    return Attached(data=writer.to_bytes(), tap=tap, classes=head.classes, labels=labels)


def _set_batch(copied: Copied, source: SourceTensor, tap: SourceTensor, *, free: bool) -> None:
    """Say how many samples the input takes; the tap says it too, as it may be an output."""
    for tensor in (source, tap):
        shape = (-1 if free else source.shape[0], *tensor.sizes[1:])
        number = copied.tensor(tensor.index)
        copied.tensors[number] = {**copied.tensors[number], schema.Tensor.SHAPE_SIGNATURE: shape}


def _features(graph: Graph, copied: Copied, tap: Tap) -> int:
    """Add what makes the tap float32 [B, D] to a graph; return that tensor."""
    tensor = copied.tensor(tap.index)
    if graph.kind(tensor) != TensorType.FLOAT32:
        tensor = graph.dequantize(tensor, (-1, *tap.shape[1:]))
    flat = (-1, tap.features)
    if tap.averaged:
        return graph.op(Op.MEAN, [tensor, ops.numbers(graph, *MAP_AXES)], flat)
    if len(tap.shape) != len(flat):
        return graph.op(Op.RESHAPE, [tensor, ops.numbers(graph, *flat)], flat)
    return tensor


def _origin(
    parent: bytes,
    source: tuple[SourceTensor, SourceTensor],
    tap: Tap,
    packaged: Packaged,
    labels: tuple[str, ...],
) -> Origin:
    """Return what travels with the file about the model it was made of; `source`: its input and its tap."""
    return Origin(
        tap=tap,
        tap_scale=source[1].scale,
        tap_zero_point=source[1].zero_point,
        labels=labels,
        preprocessing=packaged.preprocessing,
        input=Input(
            index=source[0].index,
            range=packaged.input_range,
            scale=source[0].scale,
            zero_point=source[0].zero_point,
        ),
        parent=Parent(sha256=sha256(parent).hexdigest(), bytes=len(parent)),
    )
