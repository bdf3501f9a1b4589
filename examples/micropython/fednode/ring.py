"""What the receiver has not settled yet, oldest first: a bounded ring in RAM.

The memory of all entries is taken in one go, when the first comes, and kept: entries that each took their
own when they come would lie all over the heap, with no room between them for a head.

Entries have numbers.  Those of this boot are 1, 2, ...: a counter is `base` above its number, and `base`
may change as long as the receiver has not seen any.  An entry of an earlier boot keeps the counter that it
had, and has it negative for its number.
"""

from struct import pack_into, unpack_from

from micropython import const

_ENTRY = "<qqH"  # number; number of the sample that a label is for, or 0; bytes of what follows
_AHEAD = const(18)  # its size
_ROUND = const(32)  # bytes: a somewhat longer label finds room


class Ring:
    """At most `capacity` entries; `dropped` says how many had to go, `sent` how many are on their way."""

    durable = False

    def __init__(self, capacity: int = 64) -> None:
        self.base = None
        self.dropped = 0
        self.sent = 0
        self.capacity = capacity
        self._count = 0
        self._slots = []  # the first `_count` are in use

    def __len__(self) -> int:
        return self._count

    @property
    def entries(self) -> range:
        """The places of what is queued, oldest first."""
        return range(self._count)

    def entry(self, place: int) -> tuple:
        """Return number, number of the sample that it labels (0: it is one) and what follows the counters."""
        slot = self._slots[place]
        number, of, size = unpack_from(_ENTRY, slot)
        return number, of, memoryview(slot)[_AHEAD : _AHEAD + size]

    def counter(self, number: int) -> int:
        """Return the counter of a number, 0 of 0."""
        return number and (self.base + number if number > 0 else -number)

    def counter_at(self, place: int) -> int:
        """Return the counter of the entry at a place."""
        return self.counter(self._number(place))

    def oldest(self) -> int:
        """Return the counter of the oldest entry, 0 of none."""
        return self.counter_at(0) if self._count else 0

    def push(self, number: int, of: int, tail: bytes) -> None:
        """Add an entry; full, the oldest goes.  Raises MemoryError, and nothing has changed then."""
        end = _AHEAD + len(tail)
        room = (end + _ROUND - 1) // _ROUND * _ROUND
        if not self._slots:
            self._slots = [bytearray(room) for _ in range(self.capacity)]
        if self._count == self.capacity:
            self.dropped += 1
            self._keep(range(1, self._count))
        if len(self._slots[self._count]) < end:
            self._slots[self._count] = bytearray(room)
        slot = self._slots[self._count]
        pack_into(_ENTRY, slot, 0, number, of, len(tail))
        slot[_AHEAD:end] = tail
        self._count += 1

    def settle(self, below: int, ranges: list, *, this_boot: bool = True) -> bool:
        """Let go what is below this counter or in a range of (first, count); return whether anything was.

        Without `this_boot`, only what earlier boots left: the counters are those of another life.
        """
        before = self._count
        self._keep(place for place in range(before) if not self._settled(place, below, ranges, this_boot))
        return self._count < before

    def begin(self, base: int) -> None:
        """Counters of this boot are above `base` from now on."""
        self.base = base

    def _settled(self, place: int, below: int, ranges: list, this_boot: bool) -> bool:
        number = self._number(place)
        if number > 0 and not this_boot:
            return False
        counter = self.counter(number)
        return counter < below or any(first <= counter < first + count for first, count in ranges)

    def _number(self, place: int) -> int:
        return unpack_from("<q", self._slots[place])[0]

    def _keep(self, places: object) -> None:
        """Let go all but the entries at these places, which are in order."""
        slots = self._slots
        kept = sent = 0
        for place in places:
            if place < self.sent:
                sent += 1
            slots[kept], slots[place] = slots[place], slots[kept]
            kept += 1
        self._count = kept
        self.sent = sent
