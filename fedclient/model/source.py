"""What a .tflite file of others holds, as values: graphs, tensors, operators, signatures.

A part that the plain runtime cannot use is not refused here: it may be cut off.  Its `flaw` says what it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedclient.model import operators
from fedclient.model.layout import Field, RawTable
from fedclient.model.schema import Op, TensorType


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceTensor:
    """`shape_signature`: -1 where a dimension is dynamic; `kind`: a TensorType, or a number unknown to us."""

    index: int
    name: str
    shape: tuple[int, ...]
    shape_signature: tuple[int, ...]
    kind: int
    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    dimension: int  # along which scale and zero point differ, where they have several values
    buffer: int
    is_variable: bool
    has_rank: bool
    flaw: str

    @property
    def dtype(self) -> str:
        """Return the name of its type; a number where we do not know it."""
        known = self.kind in set(TensorType)
        return TensorType(self.kind).name.lower() if known else f"type {self.kind}"

    @property
    def sizes(self) -> tuple[int, ...]:
        """Return its shape, -1 where that is dynamic; a size above 1 that the file gives stays."""
        if len(self.shape_signature) != len(self.shape):
            return self.shape
        pairs = list(zip(self.shape, self.shape_signature, strict=True))
        return tuple(size if place and size > 1 else signed for place, (size, signed) in enumerate(pairs))

    def __str__(self) -> str:
        return f"tensor {self.name[:80]!r} ({self.index})"


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceOperator:
    """`op`: a number of `enum BuiltinOperator`; `custom`: its name where that is CUSTOM.

    A missing optional input is -1.  `calls`: the graphs that it runs.
    """

    index: int
    op: int
    custom: str
    version: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    intermediates: tuple[int, ...]
    options_type: int
    options: RawTable | Mapping[int, Field] | None
    custom_options: bytes
    mutating: bytes
    calls: tuple[int, ...]
    flaw: str

    @property
    def name(self) -> str:
        if self.op != Op.CUSTOM:
            return operators.name(self.op)
        return self.custom if self.custom.isprintable() and len(self.custom) <= 80 else repr(self.custom[:80])

    def __str__(self) -> str:
        return f"operator {self.name} ({self.index})"


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceGraph:
    """`operators` are in the order in which they run."""

    index: int
    name: str
    tensors: tuple[SourceTensor, ...]
    operators: tuple[SourceOperator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceSignature:
    """A graph under its name, its inputs and outputs under theirs."""

    key: str
    graph: int
    inputs: Mapping[str, int]
    outputs: Mapping[str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class OperatorCode:
    """An operator that a file uses, once for all its uses."""

    op: int
    custom: str
    version: int
