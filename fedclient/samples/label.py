"""Labels: a whole number, a word, or nothing yet."""

from __future__ import annotations

import operator
from typing import SupportsIndex

from fedclient.errors import DataError
from fedclient.limits import COUNTER_MAX, MAX_LABEL_BYTES

Label = int | str | None


def as_label(label: object, where: str) -> Label:
    """Take a whole number (NumPy's too), a word or None; an empty word is None.

    Raises: DataError, naming `where`, for anything else.
    """
    if label is None:
        return None
    if isinstance(label, str):
        return as_text(label, where, MAX_LABEL_BYTES) or None
    if isinstance(label, bool) or not isinstance(label, SupportsIndex):
        raise DataError(f"{where} is {label!r}; a label is a whole number, a word or None")
    number = operator.index(label)
    if abs(number) > COUNTER_MAX:
        raise DataError(f"{where} is {number}, which is not a class")
    return number


def as_text(text: str, where: str, max_bytes: int) -> str:
    """Return `text`; raises DataError when it is longer or does not print in one line."""
    if len(text.encode(errors="replace")) > max_bytes or not text.isprintable():
        raise DataError(f"{where} is {text[:80]!r}; use at most {max_bytes} bytes that print in one line")
    return str(text)
