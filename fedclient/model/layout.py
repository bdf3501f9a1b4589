"""Lay tables out as a FlatBuffer: the same tables give the same bytes.

A FlatBuffer is built from its end, children before their parents (flatbuffers.dev, "Internals").  It is a
graph without cycles, not a tree: a table that is met twice, and equal strings and vectors, are written once.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Union

from fedclient.errors import UsageError
from fedclient.model import schema

WIDEST: Final = 8  # bytes of the widest number that a table may hold


@dataclass(frozen=True, slots=True)
class Scalar:
    """A number in a table, with the width that the schema gives it."""

    kind: Literal["Bool", "Int8", "Uint8", "Int32", "Uint32", "Float32"]
    value: float


@dataclass(frozen=True, slots=True)
class Vector:
    """A vector of numbers of `width` bytes, as they stand in the file."""

    width: int
    data: bytes


@dataclass(frozen=True, slots=True)
class RawTable:
    """A table of numbers alone as it stands in another file, whatever they mean.

    `fields`: where each one is, counted from the start of the table, 0 when it is absent; `body`: what
    follows the table's first four bytes; `start`: its place in that file modulo 8, which the widest
    numbers are aligned to.
    """

    fields: tuple[int, ...]
    body: bytes
    start: int


# What a field of a table may hold: a tuple is a vector of int32, a list is a vector of tables.
Field = Union[Scalar, str, bytes, tuple[int, ...], Vector, RawTable, "Table", "list[Table]"]
Table = Mapping[int, Field]


def lay_out(root: Table, size: int) -> bytes:
    """Return the file; `size` is a guess at its length.

    Raises UsageError when the `flatbuffers` package is not installed.
    """
    try:
        import flatbuffers  # noqa: PLC0415 - only those who write models need it
    except ImportError:
        raise UsageError("writing a model needs flatbuffers: pip install 'fedclient[author]'") from None
    builder = flatbuffers.Builder(size)
    builder.Finish(_Layout(builder).table(root), file_identifier=schema.FILE_IDENTIFIER)
    return bytes(builder.Output())


class _Layout:
    """What has been written so far, and where: offsets count from the end of the file."""

    def __init__(self, builder: Any) -> None:
        self._builder = builder
        self._tables: dict[int, int] = {}  # by identity: all of them live until the file is finished
        self._values: dict[tuple[type, Any], int] = {}  # strings, vectors and raw tables, by content

    def table(self, table: Table) -> int:
        if id(table) not in self._tables:
            self._tables[id(table)] = self._write_table(table)
        return self._tables[id(table)]

    def _write_table(self, table: Table) -> int:
        builder = self._builder
        children = {
            slot: self._child(field) for slot, field in table.items() if not isinstance(field, Scalar)
        }
        builder.StartObject(max(table, default=-1) + 1)
        for slot, field in table.items():
            if isinstance(field, Scalar):
                number = field.value if field.kind == "Float32" else int(field.value)
                getattr(builder, f"Prepend{field.kind}Slot")(int(slot), number, 0)
            else:
                builder.PrependUOffsetTRelativeSlot(int(slot), children[slot], 0)
        return int(builder.EndObject())

    def _child(self, field: Any) -> int:
        if isinstance(field, Mapping):
            return self.table(field)
        if isinstance(field, list):
            offsets = [self.table(table) for table in field]
            return self._offsets(offsets)
        key = (type(field), field)
        if key not in self._values:
            self._values[key] = self._value(field)
        return self._values[key]

    def _value(self, field: str | bytes | tuple[int, ...] | Vector | RawTable) -> int:
        if isinstance(field, str):
            return int(self._builder.CreateString(field))
        if isinstance(field, RawTable):
            return self._raw(field)
        if isinstance(field, bytes):
            return self._bytes(field, 1, schema.BUFFER_ALIGNMENT)
        if isinstance(field, Vector):
            return self._bytes(field.data, field.width, field.width)
        return self._bytes(struct.pack(f"<{len(field)}i", *field), 4, 4)

    def _offsets(self, offsets: list[int]) -> int:
        self._builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self._builder.PrependUOffsetTRelative(offset)
        return int(self._builder.EndVector())

    def _bytes(self, data: bytes, width: int, alignment: int) -> int:
        self._builder.StartVector(width, len(data) // width, alignment)
        self._prepend(data)
        return int(self._builder.EndVector())

    def _raw(self, table: RawTable) -> int:
        builder = self._builder
        # The file's length is a multiple of 16 (Finish): from its end, too, the place modulo 8 is the same.
        builder.Prep(WIDEST, len(table.body) + 4 + table.start)
        builder.StartObject(len(table.fields))
        self._prepend(table.body)
        for slot, place in enumerate(table.fields):
            builder.current_vtable[slot] = place and builder.Offset() + 4 - place
        return int(builder.EndObject())

    def _prepend(self, data: bytes) -> None:
        builder = self._builder
        builder.head -= len(data)
        builder.Bytes[builder.head : builder.head + len(data)] = data
