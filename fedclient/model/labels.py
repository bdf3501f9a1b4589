"""Names of the classes, as a model, a file beside it or an option gives them.  Pure."""

from __future__ import annotations

from fedclient import limits
from fedclient.errors import DataError


def label_lines(text: bytes, where: str) -> tuple[str, ...]:
    """Return the lines of a file of labels, without blank ones at the end.

    Raises DataError when it is no such text.
    """
    try:
        lines = [line.strip() for line in text.decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError:
        raise DataError(f"{where}: labels are lines of UTF-8 text") from None
    while lines and not lines[-1]:
        lines.pop()
    return checked_labels(lines, where)


def checked_labels(labels: list[str], where: str) -> tuple[str, ...]:
    """Return `labels` when a manifest can carry them: distinct, short, and in one line each.

    Raises DataError.
    """
    if len(labels) > limits.MAX_LABELS:
        raise DataError(f"{where}: more than {limits.MAX_LABELS} labels")
    known: set[str] = set()
    for label in labels:
        if (
            not label
            or len(label.encode(errors="replace")) > limits.MAX_LABEL_BYTES
            or not label.isprintable()
        ):
            raise DataError(f"{where}: a label is 1 to {limits.MAX_LABEL_BYTES} bytes, not {label[:80]!r}")
        if label in known:
            raise DataError(f"{where}: two classes are called {label!r}")
        known.add(label)
    return tuple(labels)
