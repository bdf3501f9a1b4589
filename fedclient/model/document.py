"""Read a whole .tflite file of unknown origin: what is in it, with every number that is an index checked.

    document = Document.read(data)
    document.require_runnable(0, keep)          # ModelError names what the plain runtime lacks
    copied = document.copy_into(writer, keep)   # `keep`: numbers of the operators of graph 0 that stay
    for name in ("predict", "features"):
        writer.graph(name).adopt(copied)        # before it gets tensors of its own

Pure.  Nothing is trusted: the work is linear in the file, and there is no recursion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from fedclient.errors import ModelError
from fedclient.model import copying, parsing, runnable, schema
from fedclient.model.copying import Copied
from fedclient.model.reader import Table
from fedclient.model.source import (
    OperatorCode,
    SourceGraph,
    SourceOperator,
    SourceSignature,
    SourceTensor,
)
from fedclient.model.writer import ModelWriter

__all__ = [
    "Copied",
    "Document",
    "OperatorCode",
    "SourceGraph",
    "SourceOperator",
    "SourceSignature",
    "SourceTensor",
]

MAX_GRAPHS: Final = 1024  # each costs the runtime an arena; converters write a handful


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """`external_buffers`: numbers of the buffers whose bytes lie outside of the FlatBuffer."""

    description: str
    operator_codes: tuple[OperatorCode, ...]
    buffers: tuple[bytes, ...]
    external_buffers: frozenset[int]
    graphs: tuple[SourceGraph, ...]
    metadata: Mapping[str, bytes]
    signatures: tuple[SourceSignature, ...]

    @classmethod
    def read(cls, data: bytes) -> Document:
        """Read a file.

        Raises ModelError when it is no .tflite file, or damaged.
        """
        if data[4:8] != schema.FILE_IDENTIFIER:
            raise ModelError("this is not a .tflite file: it does not carry the identifier TFL3")
        root = Table.root(data)
        if (version := root.number(schema.Model.VERSION)) != schema.SCHEMA_VERSION:
            raise ModelError(
                f"the .tflite file has version {version} of its schema, not {schema.SCHEMA_VERSION}"
            )
        buffers, external = parsing.buffers(root, data)
        codes = parsing.operator_codes(root)
        tables = root.tables(schema.Model.SUBGRAPHS)
        if not 1 <= len(tables) <= MAX_GRAPHS:
            raise ModelError(f"the .tflite file has {len(tables)} graphs, not 1 to {MAX_GRAPHS}")
        sizes = parsing.Sizes(codes=codes, buffers=len(buffers), graphs=len(tables))
        graphs = tuple(parsing.graph(table, index, sizes) for index, table in enumerate(tables))
        return cls(
            description=root.name(schema.Model.DESCRIPTION),
            operator_codes=codes,
            buffers=buffers,
            external_buffers=external,
            graphs=graphs,
            metadata=parsing.metadata(root, buffers),
            signatures=parsing.signatures(root, graphs),
        )

    def require_runnable(self, graph: int, keep: Sequence[int]) -> None:
        """Refuse what the plain runtime cannot run among these operators of a graph, and those they call.

        Raises ModelError, which names the operator or tensor and what it lacks.
        """
        runnable.require(self.graphs, graph, keep, runnable.Storage(self.buffers, self.external_buffers))

    def copy_into(self, writer: ModelWriter, keep: Sequence[int]) -> Copied:
        """Copy these operators of graph 0, their tensors, and the graphs that they call at their own numbers.

        The writer has exactly one graph, number 0.  Call `require_runnable` before.
        """
        return copying.copy(self.graphs, self.buffers, writer, keep)
