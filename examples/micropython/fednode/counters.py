"""Counters that no second message ever gets, whenever the power goes.

A stride of them is reserved durably *before* the first is used: flash is written once per stride, and a
boot goes on where the reservation ends.  Two slots, each with a checksum, are written in turn: a write
that was cut short leaves the other, which is at most one stride behind, so one is skipped.

The lowest version of a head that is still taken in this generation of the secret is kept beside it.
Without a good slot `base` is None: this node may have lived before, and only the receiver knows how far.
"""

from hashlib import sha256
from struct import pack, unpack

from micropython import const

_RECORD = "<QIQQQ"  # the end of what is reserved, generation, floor
_SIZE = const(36)
_SUM = const(8)


def _seal(record: bytes) -> bytes:
    return sha256(b"fednode slot 1" + record).digest()[:_SUM]


class Counters:
    """Where counting stands.

    `base` is the counter before the first of this boot, `end` the one after the last that is reserved,
    `floor` the version of a head.
    """

    def __init__(self, folder: str = "", generation: int = 1, stride: int = 256) -> None:
        self._paths = (folder + "slot0", folder + "slot1")
        self._generation = generation
        self._stride = stride
        self.base = None
        self.end = 1
        self.floor = [0, 0, 0]
        self._writes = 1
        slots = [self._read(path) for path in self._paths]
        self._older = 0 if (slots[0] or (0,)) <= (slots[1] or (0,)) else 1
        newest = slots[1 - self._older]
        if newest:
            self.end = newest[0]
            if newest[1] == generation:
                self.floor = list(newest[2:])
            if not slots[self._older]:
                self.end += stride
                self._writes = 2  # no two strides may lie between the slots
            self.base = self.end - 1

    def begin(self, base: int) -> None:
        """Start above this counter: what the receiver says, where the slots do not know.

        Raises OSError where the flash does not take it, as `reserve` and `raise_floor` do; nothing has
        changed then.
        """
        self._save(base + 1, self.floor, 2)  # both: one left behind would be more than a stride behind
        self.base = base

    def reserve(self, counter: int) -> None:
        """Return when this counter is safe to use."""
        if counter >= self.end:
            # Both slots where some were never used and left out: else they would be more than a stride apart.
            self._save(counter + self._stride, self.floor, self._writes if counter == self.end else 2)

    def raise_floor(self, version: list) -> None:
        """Never again take a head below this one."""
        if self.base is None:
            self.floor = version  # stored when counting begins
        else:
            self._save(self.end, version, 2)  # both: damage to one must not lower it

    def _save(self, end: int, floor: list, slots: int) -> None:
        record = pack(_RECORD, end, self._generation, *floor)
        record += _seal(record)
        for _ in range(slots):
            with open(self._paths[self._older], "wb") as file:  # closed, it is on the flash
                file.write(record)
            self._older = 1 - self._older
        self._writes = 1
        self.end = end
        self.floor = floor

    def _read(self, path: str) -> tuple | None:
        try:
            with open(path, "rb") as file:
                data = file.read(_SIZE + _SUM + 1)
        except OSError:
            return None
        if len(data) != _SIZE + _SUM or data[_SIZE:] != _seal(data[:_SIZE]):
            return None
        return unpack(_RECORD, data)
