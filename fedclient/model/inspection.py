"""What a .tflite file of any origin holds, without running it.  Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from fedclient.errors import ModelError
from fedclient.model.document import Document
from fedclient.model.head import METADATA_NAME
from fedclient.model.origin import read_origin
from fedclient.model.packaged import Preprocessing, read_packaged
from fedclient.model.tap import Tap, choose_tap, operators_for

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedclient.model.source import SourceGraph

WEIGHTS: Final = "get_weights"
HEAD_KEYS: Final = ("hidden", "optimizer", "normalize", "personal")


@dataclass(frozen=True, kw_only=True, slots=True)
class Port:
    """A tensor; -1 is a dynamic size."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A tensor as `--tap` names it, or a weight of the head (`index` is None).

    `made_by`: the operator that computes it; "" for an input or a weight.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    index: int | None = None
    made_by: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Signature:
    """A graph that is called by name."""

    inputs: Mapping[str, Port]
    outputs: Mapping[str, Port]


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """`tap` is that of the file, else the one attach-head would choose, else None and `why_not` says why."""

    bytes: int
    sha256: str
    description: str
    trainable: bool
    signatures: Mapping[str, Signature]
    tensors: tuple[Part, ...]
    head: Mapping[str, object] | None
    tap: Tap | None
    why_not: str
    labels: tuple[str, ...]
    preprocessing: Preprocessing | None
    parent: str | None


def inspect(model: bytes) -> Inspection:
    """Return what a file holds.

    Raises ModelError when it is no .tflite file, or damaged.
    """
    document = Document.read(model)
    origin = read_origin(model)
    told = document.metadata.get(METADATA_NAME)
    tap, why_not = (origin.tap, "") if origin else (None, "") if told is not None else _tap(document)
    known = origin or read_packaged(model, document.metadata)
    return Inspection(
        bytes=len(model),
        sha256=sha256(model).hexdigest(),
        description=document.description,
        trainable=_is_trainable(document),
        signatures=_signatures(document),
        tensors=_weights(document) + _parts(document.graphs[0]),
        head=_head(told) if told is not None else None,
        tap=tap,
        why_not=why_not,
        labels=known.labels,
        preprocessing=known.preprocessing,
        parent=origin.parent.sha256 if origin else None,
    )


def _tap(document: Document) -> tuple[Tap | None, str]:
    try:
        tap = choose_tap(document)
        document.require_runnable(0, operators_for(document.graphs[0], tap.index))
    except ModelError as error:
        return None, str(error)
    return tap, ""


def _is_trainable(document: Document) -> bool:
    return {"train", "infer", WEIGHTS, "set_weights"} <= {one.key for one in document.signatures}


def _signatures(document: Document) -> dict[str, Signature]:
    return {
        one.key: Signature(
            inputs={name: _port(document, one.graph, index) for name, index in one.inputs.items()},
            outputs={name: _port(document, one.graph, index) for name, index in one.outputs.items()},
        )
        for one in document.signatures
    }


def _weights(document: Document) -> tuple[Part, ...]:
    ports = _signatures(document).get(WEIGHTS)
    named = sorted(ports.outputs.items()) if ports else []
    return tuple(Part(name=name, shape=port.shape, dtype=port.dtype) for name, port in named)


def _parts(graph: SourceGraph) -> tuple[Part, ...]:
    """Return the inputs of a graph and what its operators compute, in order; constants are left out."""
    makers = {tensor: operator.name for operator in graph.operators for tensor in operator.outputs}
    return tuple(
        Part(
            name=graph.tensors[index].name,
            shape=graph.tensors[index].sizes,
            dtype=graph.tensors[index].dtype,
            index=index,
            made_by=makers.get(index, ""),
        )
        for index in dict.fromkeys([*graph.inputs, *makers])
    )


def _head(told: bytes) -> dict[str, object]:
    try:
        found = json.loads(told)
        return {name: found.get(name) for name in HEAD_KEYS}
    except (ValueError, AttributeError, RecursionError):
        raise ModelError(f"the metadata {METADATA_NAME!r} in the file is damaged") from None


def _port(document: Document, graph: int, index: int) -> Port:
    tensor = document.graphs[graph].tensors[index]
    return Port(shape=tensor.sizes, dtype=tensor.dtype)
