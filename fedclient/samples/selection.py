"""Which rows of the sample store are trained on, and which are kept to judge heads on: WHERE clauses.

A row is hold-out when the app marked it, or when a hash of its id says so: the same in every process
and for ever, whatever comes and goes beside it.  A larger share holds out the same rows and more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_ALL: Final = 1 << 31
# Fibonacci hashing (Knuth 6.4): of ids in a row, or of every k-th, the share is kept very nearly.
# No product exceeds SQLite's 63 bits.
_KNUTH: Final = 2654435761
_PLACE: Final = f"((id & {_ALL - 1}) * {_KNUTH}) & {_ALL - 1}"
HELD_OUT: Final = f"(holdout OR {_PLACE} < (SELECT held_out FROM store))"  # noqa: S608  our own numbers


def threshold(share: float) -> int:
    """Return what the column `held_out` must be for this share of the rows."""
    return round(share * _ALL)


def usable(labels: Sequence[str], *, holdout: bool = False) -> tuple[str, tuple[object, ...]]:
    """Return a WHERE clause for rows to train on, or for the hold-out, and its values."""
    where, parameters = known(labels)
    # the first half of this is what the index `usable` is for
    return f"{where} AND {HELD_OUT if holdout else f'holdout = 0 AND NOT {HELD_OUT}'}", parameters


def known(labels: Sequence[str]) -> tuple[str, tuple[object, ...]]:
    """Return a WHERE clause for rows with a label (one of `labels` or an index into them), and its values."""
    where = "label IS NOT NULL"
    if not labels:
        return where, ()
    marks = ", ".join("?" * len(labels))
    found = f"(label IN ({marks}) OR typeof(label) = 'integer' AND label BETWEEN 0 AND ?)"
    return f"{where} AND {found}", (*labels, len(labels) - 1)
