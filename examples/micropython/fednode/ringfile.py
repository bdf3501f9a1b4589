"""A ring that a file brings over a power cut: a write of flash for each entry, and one when all are settled.

A record is [size, counter, counter of the sample that it labels, what follows, checksum].  A record that was
cut short ends the file.  What cannot be written stays in RAM, and the next `save` tries again.
"""

import os
from hashlib import sha256
from struct import pack, unpack

from micropython import const

from .ring import Ring

_HEAD = "<HQQ"
_HEAD_SIZE = const(18)
_SUM = const(4)


class FileRing(Ring):
    """Nothing is written but by `save`, which raises OSError where the flash does not take it."""

    durable = True

    def __init__(self, capacity: int, path: str) -> None:
        super().__init__(capacity)
        self._path = path
        self._records = 0  # in the file
        self._unsaved = 0  # entries, the newest, that it lacks
        self._stale = False  # whether it has to be written anew
        try:
            self._load()
        except OSError:  # FAT's own tables can be damaged: what was read until there counts
            self._damaged()

    def push(self, number: int, of: int, tail: bytes) -> None:
        super().push(number, of, tail)
        self._unsaved = min(self._unsaved + 1, len(self))

    def settle(self, below: int, ranges: list, *, this_boot: bool = True) -> bool:
        settled = super().settle(below, ranges, this_boot=this_boot)
        if settled and not len(self):
            self._unsaved = 0
            self._stale = self._records > 0
        elif settled and self._unsaved:
            self._stale = True
        return settled

    def begin(self, base: int) -> None:
        super().begin(base)
        # What is in the file of this boot has other counters now.
        self._stale = self._stale or (len(self) > 0 and self.entry(len(self) - 1)[0] > 0)

    def save(self) -> None:
        """Bring the file up to date, as soon as there are counters."""
        if self.base is None:
            return
        if self._records + self._unsaved > 2 * self.capacity:
            self._stale = True
        if self._stale:
            with open(self._path + ".new", "wb") as file:
                self._write(file, 0)
            os.rename(self._path + ".new", self._path)
            self._records = len(self)
        elif self._unsaved:
            self._stale = True  # until it is written whole
            with open(self._path, "ab") as file:
                self._write(file, len(self) - self._unsaved)
            self._records += self._unsaved
        self._stale = False
        self._unsaved = 0

    def _write(self, file: object, first: int) -> None:
        for place in range(first, len(self)):
            number, of, tail = self.entry(place)
            head = pack(_HEAD, len(tail), self.counter(number), self.counter(of))
            file.write(head)
            file.write(tail)
            file.write(_seal(head, tail))

    def _load(self) -> None:
        left = _size(self._path)
        if left is None:
            # FAT takes the old file away before it gives the new one its name.
            if _size(self._path + ".new") is None:
                return
            os.rename(self._path + ".new", self._path)
            left = _size(self._path)
        with open(self._path, "rb") as file:
            while left:
                record = _read(file, left)
                if not record:
                    self._damaged()
                    return
                counter, of, tail = record
                super().push(-counter, -of, tail)
                self._records += 1
                left -= _HEAD_SIZE + len(tail) + _SUM

    def _damaged(self) -> None:
        self._records += 1  # there is something to be rid of
        self._stale = True


def _size(path: str) -> int | None:
    try:
        return os.stat(path)[6]
    except OSError:
        return None


def _read(file: object, left: int) -> tuple | None:
    """Return counters and the rest of a record; None where it is damaged, or longer than what is left."""
    head = file.read(_HEAD_SIZE)
    if len(head) < _HEAD_SIZE:
        return None
    size, counter, of = unpack(_HEAD, head)
    if size > left - _HEAD_SIZE - _SUM:  # before memory is taken for it
        return None
    tail = file.read(size)
    if file.read(_SUM) != _seal(head, tail):
        return None
    return counter, of, tail


def _seal(head: bytes, tail: bytes) -> bytes:
    seal = sha256(head)
    seal.update(tail)
    return seal.digest()[:_SUM]
