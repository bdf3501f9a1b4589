"""As many elements as a number of bytes has room for.  Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol, TypeVar


class Written(Protocol):
    """Anything that became bytes."""

    @property
    def body(self) -> bytes:
        """The bytes."""


Found = TypeVar("Found", bound=Written)

_FULL: Final = 0.99  # of the room: the search ends here
_AIM: Final = 0.997
_MARGINAL: Final = 0.7  # one more element costs less than the mean of those before it
_GUESSES: Final = 6  # then it goes by halves


def most_that_fit(write: Callable[[int], Found], guess: int, everything: int, max_bytes: int) -> Found | None:
    """Find the most of `everything` whose body has at most `max_bytes`; `guess` of them are tried first.

    None: not even one fits.  A body with more elements may be shorter where its groups differ, so what is
    found fits, and uses 99 % of the room or is one element short of what was tried and did not.
    """
    best, fits, too_many = None, 0, everything + 1
    before: tuple[int, int] | None = None  # what was tried last: elements and bytes
    turn = 0
    while too_many - fits > 1:
        found = write(guess)
        size = len(found.body)
        if size <= max_bytes:
            best, fits = found, guess
            if size >= _FULL * max_bytes:
                break
        else:
            too_many = guess
        each = _MARGINAL * size / guess
        if before is not None and (size - before[1]) * (guess - before[0]) > 0:
            each = (size - before[1]) / (guess - before[0])
        before = (guess, size)
        wanted = round(guess + (_AIM * max_bytes - size) / each)
        guess = wanted if turn < _GUESSES else (fits + too_many) // 2
        guess, turn = min(max(guess, fits + 1), too_many - 1), turn + 1
    return best
