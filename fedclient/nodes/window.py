"""Which counters of a node have been taken: a floor, and one bit for each of the 1,024 above it.  Pure.

A window is a value: `take` returns the next one, so that a commit that fails leaves the old one behind.
Nothing in it speaks of samples: it survives every purge of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from fedclient.errors import WireError
from fedclient.limits import MAX_NODE_COUNTER, NODE_WINDOW

_ALL: Final = (1 << NODE_WINDOW) - 1
_BYTES: Final = NODE_WINDOW // 8


@dataclass(frozen=True, slots=True)
class Window:
    """Bit n of `taken` is the counter floor + 1 + n; bit 0 is never set, the floor would be higher."""

    floor: int = 0
    taken: int = 0

    @classmethod
    def stored(cls, floor: int, taken: bytes) -> Window:
        """Read what `bits` wrote.  Raises WireError for anything else."""
        if type(floor) is not int or type(taken) is not bytes:  # SQLite keeps any type in any column
            raise WireError(f"a window of {type(taken).__name__} at {floor!r} is none of ours")
        window = cls(floor, int.from_bytes(taken, "little"))
        if not 0 <= floor <= MAX_NODE_COUNTER or len(taken) != _BYTES or window.taken & 1:
            raise WireError(f"a window of {len(taken)} bytes at {floor} is none of ours")
        return window

    def bits(self) -> bytes:
        return self.taken.to_bytes(_BYTES, "little")

    def has(self, counter: int) -> bool:
        """Whether nothing more will come of this counter: it was taken, or given up."""
        return counter <= self.floor or (
            counter - self.floor <= NODE_WINDOW and bool(self.taken >> counter - self.floor - 1 & 1)
        )

    def take(self, counter: int) -> Window:
        """Return the window with this counter, which it does not have yet.

        One beyond the window moves the floor: what is missing below is given up.
        """
        floor, taken = self.floor, self.taken
        if (jump := counter - floor - NODE_WINDOW) > 0:
            floor, taken = floor + jump, taken >> jump if jump < NODE_WINDOW else 0
        taken |= 1 << counter - floor - 1
        gap = ~taken & _ALL
        run = (gap & -gap).bit_length() - 1 if gap else NODE_WINDOW  # how many are taken without a gap
        return Window(floor + run, taken >> run)

    @property
    def next(self) -> int:
        """The lowest counter that may still come."""
        return self.floor + 1

    def ranges(self, most: int) -> tuple[tuple[int, int], ...]:
        """Return the lowest runs of taken counters above the floor, as (first, count)."""
        return tuple(one for one, _ in zip(self._runs(), range(most), strict=False))

    def _runs(self) -> Iterator[tuple[int, int]]:
        at, left = self.next, self.taken
        while left:
            zeros = (left & -left).bit_length() - 1
            left >>= zeros
            at += zeros
            ones = (~left & left + 1).bit_length() - 1
            yield at, ones
            left >>= ones
            at += ones
