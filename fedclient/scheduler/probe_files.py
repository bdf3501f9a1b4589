"""Files of /proc, /sys and /run below a root: bounded, never blocking, each failure one sentence.

Whatever is below the root may be a recorded tree, and may vanish or hold nonsense.  Paths in
sentences and sources are without the root.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from fedclient.scheduler.readings import Reading, unknown

MAX_BYTES = 1 << 18  # /proc/stat of a machine with many interrupts is the longest that is read
_NUMBER = re.compile(r"[+-]?[0-9]{1,18}")
T = TypeVar("T")


class Unreadable(Exception):
    """Why there is no value.  It never leaves the probes: `known` makes a reading of it."""

    def __init__(self, why: str, *, absent: bool = False) -> None:
        super().__init__(why)
        self.absent = absent  # there is no such file, in contrast to one that cannot be read


def known(measure: Callable[[], Reading[T]]) -> Reading[T]:
    """Return the reading, or why there is none."""
    try:
        return measure()
    except Unreadable as error:
        return unknown(str(error))


class Tree:
    """The machine's files, or a recorded copy of them."""

    def __init__(self, root: Path = Path("/")) -> None:
        self.live = root == Path("/")  # else no program is run: recorded output stands in
        self._root = "" if self.live else str(root)

    def raw(self, path: str) -> bytes:
        """Return what the file holds; a pipe without data, or a sensor that is off, is EAGAIN, not a wait."""
        try:
            descriptor = os.open(self._root + path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
            try:
                found = part = os.read(descriptor, MAX_BYTES)
                while part and len(found) < MAX_BYTES:
                    part = os.read(descriptor, MAX_BYTES - len(found))
                    found += part
                return found
            finally:
                os.close(descriptor)
        except (OSError, ValueError) as error:  # a ValueError is a NUL in the path
            raise _unreadable(path, error) from None

    def text(self, path: str) -> str:
        """Return the file as text without the white space and NULs at its ends."""
        try:
            found = self.raw(path).decode().strip("\0 \t\r\n")
        except UnicodeDecodeError:
            raise Unreadable(f"{path} is not text") from None
        if not found:
            raise Unreadable(f"{path} is empty")
        return found

    def word(self, path: str) -> str:
        """Return the one short line that the file holds."""
        found = self.text(path)
        if len(found) > 200 or not found.isprintable():
            raise Unreadable(f"{path} does not hold one line of text")
        return found

    def word_or(self, path: str, default: str) -> str:
        """Return the line, or the default where there is none to be had."""
        try:
            return self.word(path)
        except Unreadable:
            return default

    def number(self, path: str) -> int:
        """Return the whole number that the file holds."""
        found = self.text(path)
        if not _NUMBER.fullmatch(found):
            raise Unreadable(f"{path} does not hold a number")
        return int(found)

    def number_or_none(self, path: str) -> int | None:
        """Return the number, or None where there is none to be had."""
        try:
            return self.number(path)
        except Unreadable:
            return None

    def names(self, folder: str, pattern: str = r".+") -> list[str]:
        """Return the entries whose whole name matches, `x2` before `x10`."""
        try:
            entries = os.listdir(self._root + folder)  # noqa: PTH208 - a third of a Path's time
        except (OSError, ValueError) as error:
            raise _unreadable(folder, error) from None
        # A name that cannot be printed is no kernel's.
        found = [one for one in entries if re.fullmatch(pattern, one) and one.isprintable()]
        return sorted(found, key=lambda one: (len(one), one))

    def names_or_none(self, folder: str, pattern: str = r".+") -> list[str]:
        """Return the entries, none where there is no such folder or it may not be listed."""
        try:
            return self.names(folder, pattern)
        except Unreadable:
            return []

    def exists(self, path: str) -> bool:
        """Tell whether there is such an entry, as far as this process may see."""
        try:
            os.stat(self._root + path)  # noqa: PTH116 - ditto
        except (OSError, ValueError):
            return False
        return True


def _unreadable(path: str, error: Exception) -> Unreadable:
    """Say it in one sentence."""
    if isinstance(error, FileNotFoundError):
        return Unreadable(f"there is no {path}", absent=True)
    return Unreadable(f"{path}: {getattr(error, 'strerror', None) or error}")
