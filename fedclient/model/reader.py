"""Read named metadata out of a .tflite file, without any library and without trust.  Pure.

A FlatBuffer is offsets into one block of bytes (flatbuffers.dev, "Internals").  Every one is checked
before it is followed.
"""

from __future__ import annotations

import struct

from fedclient.errors import ModelError
from fedclient.model import schema


class Table:
    """A table at a position in `data`; a field that is absent reads as None, 0 or nothing."""

    def __init__(self, data: bytes, position: int) -> None:
        self._data = data
        self._position = position
        self._fields = position - _number(data, "<i", position)

    @classmethod
    def root(cls, data: bytes) -> Table:
        return cls(data, _number(data, "<I", 0))

    def number(self, slot: int) -> int:
        """Return a uint32, 0 by default."""
        at = self._field(slot)
        return _number(self._data, "<I", at) if at else 0

    def text(self, slot: int) -> bytes:
        """Return the bytes of a string or of a vector of bytes."""
        start, length = self._vector(slot, 1)
        return self._data[start : start + length]

    def tables(self, slot: int) -> list[Table]:
        start, length = self._vector(slot, 4)
        places = range(start, start + 4 * length, 4)
        return [Table(self._data, at + _number(self._data, "<I", at)) for at in places]

    def _field(self, slot: int) -> int:
        """Return where a field is, 0 when it is absent."""
        entry = 4 + 2 * slot
        if entry >= _number(self._data, "<H", self._fields):
            return 0
        offset = _number(self._data, "<H", self._fields + entry)
        return self._position + offset if offset else 0

    def _vector(self, slot: int, width: int) -> tuple[int, int]:
        at = self._field(slot)
        if not at:
            return 0, 0
        start = at + _number(self._data, "<I", at)
        length = _number(self._data, "<I", start)
        if start + 4 + length * width > len(self._data):
            raise ModelError("the .tflite file is damaged: a vector reaches beyond its end")
        return start + 4, length


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
            return buffers[number].text(schema.Buffer.DATA)
    return None


def _number(data: bytes, kind: str, at: int) -> int:
    if not 0 <= at <= len(data) - struct.calcsize(kind):
        raise ModelError("the .tflite file is damaged: an offset leads out of it")
    return int(struct.unpack_from(kind, data, at)[0])
