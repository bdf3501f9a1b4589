"""Logging to standard error: for a person, or for journald with priorities.

A message begins with what it is about (`device ID: ...`), facts follow as key=value, a cause comes last.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from collections.abc import Mapping

# sd-daemon(3): the syslog priority in angle brackets at the start of a line.
PRIORITIES: Final = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))


class Formatter(logging.Formatter):
    """Time and message for people; for journald a priority per line, which keeps the time itself."""

    def __init__(self, *, journald: bool) -> None:
        super().__init__(
            "%(name)s: %(message)s" if journald else "%(asctime)s %(name)s: %(message)s", "%H:%M:%S"
        )
        self._journald = journald

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the library's name
        """Return one line, whatever the message quotes."""
        return super().formatMessage(record).replace("\n", "\\n")

    def format(self, record: logging.LogRecord) -> str:
        """Put a priority before each line, a traceback's lines included."""
        text = super().format(record)
        if not self._journald:
            return text
        priority = next((number for level, number in PRIORITIES if record.levelno >= level), 7)
        return "\n".join(f"<{priority}>{line}" for line in text.splitlines())


def setup(*, verbose: bool, env: Mapping[str, str] | None = None, stream: TextIO | None = None) -> None:
    """Log fedclient's messages from INFO (`verbose`: DEBUG), other libraries' from WARNING."""
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Formatter(journald=under_journald(os.environ if env is None else env, stream)))
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old.formatter, Formatter)]:
        root.removeHandler(old)
    root.addHandler(handler)
    logging.getLogger("fedclient").setLevel(logging.DEBUG if verbose else logging.INFO)


def under_journald(env: Mapping[str, str], stream: TextIO) -> bool:
    """Tell whether `stream` is the journal itself: $JOURNAL_STREAM is its device:inode (systemd.exec)."""
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return env.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"
