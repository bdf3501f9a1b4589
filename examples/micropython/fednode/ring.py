"""What the receiver has not settled yet: a bounded ring in RAM and, if wanted, in a file.

An entry is [number, of, tail, sent]: its number, the number of the sample that a label is for (0: this
is a sample), the CBOR that follows the counter.  Numbers of this boot are 1, 2, ...: a counter is `base`
above its number, and `base` may change as long as the receiver has not seen any.  An entry of an
earlier boot keeps the counter that it had, and has it negative for its number.

Full, the ring lets its oldest go and counts it.  The file gets each entry as it comes (a write of flash
for each: the price of surviving a power cut) and is written anew from time to time.  A record that was
cut short ends it.
"""

import os
from hashlib import sha256
from struct import calcsize, pack, unpack

_HEAD = "<HQQ"
_HEAD_SIZE = calcsize(_HEAD)
_SUM = 4


class Ring:
    """At most `capacity` entries, oldest first; `dropped` says how many had to go."""

    def __init__(self, capacity: int = 64, path: str = "") -> None:
        self.base = None
        self.entries = []
        self.dropped = 0
        self._capacity = capacity
        self._path = path
        self._written = 0  # records in the file
        if path:
            self._load()

    def counter(self, number: int) -> int:
        """Return the counter of a number."""
        return number and (self.base + number if number > 0 else -number)

    def push(self, number: int, of: int, tail: bytes) -> None:
        """Add an entry."""
        if len(self.entries) >= self._capacity:
            self.entries.pop(0)
            self.dropped += 1
        entry = [number, of, tail, False]
        self.entries.append(entry)
        if not self._path or self.base is None:
            return
        if self._written >= 2 * self._capacity:
            self._write_anew()
        else:
            self._write(self._path, "ab", (entry,))

    def settle(self, below: int, ranges: list, *, earlier: bool = False) -> bool:
        """Let go what is below this counter or in a range; return whether anything was.

        With `earlier`, only what earlier boots left.
        """
        kept = []
        for entry in self.entries:
            if earlier and entry[0] > 0:
                kept.append(entry)
                continue
            counter = self.counter(entry[0])
            done = counter < below
            for first, count in ranges:
                done = done or first <= counter < first + count
            if not done:
                kept.append(entry)
        changed = len(kept) < len(self.entries)
        self.entries = kept
        if self._written and not kept:
            self._write_anew()
        return changed

    def begin(self, base: int) -> None:
        """Counters of this boot are above `base` from now on."""
        self.base = base
        if self._path:
            self._write_anew()

    def unsent(self) -> None:
        """Everything is to be sent again."""
        for entry in self.entries:
            entry[3] = False

    def _write_anew(self) -> None:
        self._written = 0
        self._write(self._path + ".new", "wb", self.entries)
        os.rename(self._path + ".new", self._path)

    def _write(self, path: str, mode: str, entries: list) -> None:
        with open(path, mode) as file:
            for number, of, tail, _ in entries:
                record = pack(_HEAD, len(tail), self.counter(number), self.counter(of)) + tail
                file.write(record + sha256(record).digest()[:_SUM])
                self._written += 1
            file.flush()

    def _load(self) -> None:
        try:
            file = open(self._path, "rb")  # noqa: SIM115  closed below
        except OSError:
            return
        with file:
            while True:
                head = file.read(_HEAD_SIZE)
                if len(head) < _HEAD_SIZE:
                    return
                size, counter, of = unpack(_HEAD, head)
                tail = file.read(size)
                if file.read(_SUM) != sha256(head + tail).digest()[:_SUM]:
                    return
                self.entries.append([-counter, -of, tail, False])
                if len(self.entries) > self._capacity:
                    self.entries.pop(0)
