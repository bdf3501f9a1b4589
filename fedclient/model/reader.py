"""Read the tables of a .tflite file, without any library and without trust.  Pure.

A FlatBuffer is offsets into one block of bytes (flatbuffers.dev, "Internals").  Every one is checked
before it is followed.  Offsets may lead to one place from many, which is how a small file could cost
hours: what is read is counted, and bounded by the length of the file.
"""

from __future__ import annotations

import struct
from typing import Final

from fedclient.errors import ModelError
from fedclient.model import schema

TABLE_COST: Final = 128  # of visiting a table, in bytes: so much work it is
MOST_OVERLAP: Final = (
    16  # how often all bytes of a file may be read; graphs that share tables read them again
)
LEAST_WORK: Final = 64 * 1024
MOST_WORK: Final = 16 * 1024 * 1024  # tables without the buffers: 100 times those of a MobileNet


class Work:
    """How many bytes may still be read of one file."""

    def __init__(self, length: int) -> None:
        self._left = min(LEAST_WORK + MOST_OVERLAP * length, MOST_WORK)

    def spend(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise ModelError("the .tflite file is damaged or too large: its tables overlap or are too many")


class Table:
    """A table at a position in `data`; a field that is absent reads as its default, 0 or nothing."""

    __slots__ = ("_data", "_fields", "_length", "_work", "position")

    def __init__(self, data: bytes, position: int, work: Work) -> None:
        work.spend(TABLE_COST)
        self._data = data
        self._work = work
        self.position = position
        self._fields = position - _number(data, "<i", position)
        self._length = _number(data, "<H", self._fields)

    @classmethod
    def root(cls, data: bytes) -> Table:
        return cls(data, _number(data, "<I", 0), Work(len(data)))

    def has(self, slot: int) -> bool:
        return self.field(slot) != 0

    def flag(self, slot: int) -> bool:
        return self._scalar(slot, "<B", 0) != 0

    def byte(self, slot: int) -> int:
        """Return a uint8."""
        return self._scalar(slot, "<B", 0)

    def small(self, slot: int) -> int:
        """Return an int8."""
        return self._scalar(slot, "<b", 0)

    def number(self, slot: int) -> int:
        """Return a uint32."""
        return self._scalar(slot, "<I", 0)

    def signed(self, slot: int, default: int = 0) -> int:
        """Return an int32."""
        return self._scalar(slot, "<i", default)

    def long(self, slot: int) -> int:
        """Return an int64."""
        return self._scalar(slot, "<q", 0)

    def text(self, slot: int) -> bytes:
        """Return the bytes of a string or of a vector of bytes."""
        return self.vector(slot, 1)

    def name(self, slot: int) -> str:
        """Return a string as it can be shown: bytes that are no UTF-8 are escaped."""
        return self.text(slot).decode("utf-8", "backslashreplace")

    def vector(self, slot: int, width: int) -> bytes:
        """Return the bytes of a vector whose elements have `width` bytes."""
        start, length = self.place(slot, width)
        self._work.spend(length)
        return self._data[start : start + length]

    def integers(self, slot: int) -> tuple[int, ...]:
        """Return a vector of int32."""
        data = self.vector(slot, 4)
        return struct.unpack(f"<{len(data) // 4}i", data)

    def table(self, slot: int) -> Table | None:
        """Return a table within this one, None when there is none."""
        at = self.field(slot)
        return Table(self._data, at + _number(self._data, "<I", at), self._work) if at else None

    def tables(self, slot: int) -> list[Table]:
        """Return a vector of tables."""
        start, length = self.place(slot, 4)
        self._work.spend(length)
        places = range(start, start + length, 4)
        return [Table(self._data, at + _number(self._data, "<I", at), self._work) for at in places]

    def raw(self) -> tuple[tuple[int, ...], bytes]:
        """Return where each field is, from the start of the table on, and the bytes behind its first four.

        Raises ModelError when a field lies outside of the table, or the table at an odd place.
        """
        size = _number(self._data, "<H", self._fields + 2)
        table = self._data[self._fields : self._fields + self._length]
        whole = len(table) == self._length >= 4 and self._length % 2 == 0
        if not whole or size < 4 or self.position % 4:
            raise ModelError("the .tflite file is damaged: the options of an operator are no table")
        fields = struct.unpack(f"<{self._length // 2 - 2}H", table[4:])
        if any(field and not 4 <= field < size for field in fields) or self.position + size > len(self._data):
            raise ModelError(
                "the .tflite file is damaged: the options of an operator reach beyond their table"
            )
        self._work.spend(size + self._length)
        return fields, self._data[self.position + 4 : self.position + size]

    def place(self, slot: int, width: int) -> tuple[int, int]:
        """Return where the elements of a vector start, and how many bytes they are."""
        at = self.field(slot)
        if not at:
            return 0, 0
        start = at + _number(self._data, "<I", at)
        length = _number(self._data, "<I", start) * width
        if start + 4 + length > len(self._data):
            raise ModelError("the .tflite file is damaged: a vector reaches beyond its end")
        return start + 4, length

    def _scalar(self, slot: int, kind: str, default: int) -> int:
        at = self.field(slot)
        return _number(self._data, kind, at) if at else default

    def field(self, slot: int) -> int:
        """Return where a field is, 0 when it is absent."""
        entry = 4 + 2 * slot
        if entry >= self._length:
            return 0
        offset = _number(self._data, "<H", self._fields + entry)
        return self.position + offset if offset else 0


def read_metadata(model: bytes, name: str) -> bytes | None:
    """Return the content of the metadata called `name`, None when there is none.

    Raises ModelError when the file is damaged.
    """
    root = Table.root(model)
    for entry in root.tables(schema.Model.METADATA):
        if entry.text(schema.Metadata.NAME) == name.encode():
            number, buffers = entry.number(schema.Metadata.BUFFER), root.tables(schema.Model.BUFFERS)
            if number >= len(buffers):
                raise ModelError(f"the .tflite file is damaged: its metadata {name!r} is missing")
            start, length = buffers[number].place(schema.Buffer.DATA, 1)
            return model[start : start + length]
    return None


def _number(data: bytes, kind: str, at: int) -> int:
    try:
        if at < 0:
            raise ModelError("the .tflite file is damaged: an offset leads out of it")
        return int(struct.unpack_from(kind, data, at)[0])
    except struct.error:
        raise ModelError("the .tflite file is damaged: an offset leads out of it") from None
