"""Records the agent's readings for `fedclient replay`: rarely written, bounded, and never in its way.

Lines wait in memory for ten minutes or a page, so that flash sees few writes; a power cut takes no more
than these.  A disk that fails or is full costs readings: one warning says so, and one line when it is over.
While the supply sags nothing is written: what was read then waits in memory.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from pathlib import Path

from fedclient.config import TraceSettings
from fedclient.scheduler import trace
from fedclient.scheduler.check import Now
from fedclient.scheduler.readings import Readings

log = logging.getLogger(__name__)

FLUSH_S = 600.0  # what a power cut may take
PAGE_BYTES = 4096  # what flash writes at once, at least
MAX_WAITING_BYTES = 64 * 1024  # while the disk does not take it
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe that nobody reads must not hang us


class TraceFile:
    """One file, and the one before it with `.1` at its end."""

    def __init__(self, path: Path, settings: TraceSettings, board: str) -> None:
        self._path = path
        self._every_s = settings.every_s
        self._max_bytes = int(settings.max_mib * (1 << 20))
        self._board = board
        self._waiting: list[str] = []
        self._waiting_bytes = 0
        self._known: trace.Written | None = None  # to who reads all lines, those that wait included
        self._stored: trace.Written | None = None  # to who reads the file
        self._file: tuple[int, int] | None = None  # device and inode
        self._size = 0
        self._strange = True  # not as we left it: what we know must be said again
        self._noted_s: float | None = None
        self._flushed_s: float | None = None
        self._events: tuple[object, ...] = ()
        self._trouble = ""

    def due_in_s(self, now: Now) -> float:
        """Return in how many seconds `note` will want readings again."""
        return 0.0 if self._noted_s is None else max(0.0, self._noted_s + self._every_s - now.elapsed_s)

    def note(self, readings: Readings, now: Now) -> None:
        """Take readings that were made anyway: written when due, or when more than a number changed."""
        events = _events(readings)
        if self.due_in_s(now) and events == self._events:
            return
        self._noted_s, self._events = now.elapsed_s, events
        if self._known is None:
            header, self._known = trace.begin(self._board, now.elapsed_s)
            self._wait(header)
        line, self._known = trace.encode(self._known, readings, now)
        self._wait(line)
        if self._flushed_s is None:
            self._flushed_s = now.elapsed_s
        if readings.under_voltage.value:
            self._drop_too_much()
        elif self._waiting_bytes >= PAGE_BYTES or now.elapsed_s - self._flushed_s >= FLUSH_S:
            self._flushed_s = now.elapsed_s
            self._flush()

    def close(self) -> None:
        """Write what waits: the agent ends."""
        self._flush()

    def _wait(self, text: str) -> None:
        self._waiting.append(text)
        self._waiting_bytes += len(text)

    def _flush(self) -> None:
        if not self._waiting:
            return
        try:
            self._append("".join(self._waiting))
        except OSError as error:
            self._report(error.strerror or str(error))
            self._drop_too_much()
            return
        self._waiting, self._waiting_bytes, self._stored = [], 0, self._known
        self._report("")

    def _drop_too_much(self) -> None:
        if self._waiting_bytes > min(MAX_WAITING_BYTES, self._max_bytes // 2):
            self._waiting, self._known = [], None  # a new header begins after the gap
            self._waiting_bytes = 0

    def _append(self, text: str) -> None:
        """Write, or leave the file as it was."""
        descriptor = self._open(self._path)
        try:
            if self._size and self._size + len(text) > self._max_bytes:
                self._path.replace(self._path.with_name(f"{self._path.name}.1"))
                os.close(descriptor)
                descriptor = -1
                descriptor = self._open(self._path)
            if self._strange and self._stored is not None:
                text = trace.restate(self._board, self._stored) + text
            try:
                _write_at(descriptor, text.encode(), self._size)
            except OSError:
                os.ftruncate(descriptor, self._size)
                raise
            self._size, self._strange = self._size + len(text), False
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def _open(self, path: Path) -> int:
        """Open the file, and mend its end where it is not as we left it."""
        descriptor = os.open(path, _FLAGS, 0o600)
        try:
            found = os.fstat(descriptor)
            _refuse_others(descriptor, found)
            if (found.st_dev, found.st_ino) != self._file or found.st_size != self._size:
                self._strange = True
                self._size = _whole_lines(descriptor, found.st_size)
                os.ftruncate(descriptor, self._size)
                self._file = (found.st_dev, found.st_ino)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    def _report(self, trouble: str) -> None:
        """Say once what is wrong, and once that it is over."""
        if trouble and trouble != self._trouble:
            log.warning("[trace] file %s: %s: readings are lost until it is mended", self._path, trouble)
        elif self._trouble and not trouble:
            log.info("[trace] file %s: readings are kept again", self._path)
        self._trouble = trouble


def _events(readings: Readings) -> tuple[object, ...]:
    """Return what is no number: a change of it is worth a line of its own."""
    values = [getattr(readings, name).value for name in trace.EVENTS]
    return (*values, readings.activity.training, readings.activity.broker_is_local)


def _refuse_others(descriptor: int, found: os.stat_result) -> None:
    """Write to nothing but a trace, whatever path the owner gave."""
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")
    if found.st_size and not os.pread(descriptor, len(trace.MAGIC), 0).startswith(trace.MAGIC):
        raise OSError(errno.EEXIST, "there is another file, which is no trace")


def _write_at(descriptor: int, data: bytes, offset: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written


def _whole_lines(descriptor: int, size: int) -> int:
    """Return where the last whole line ends: a power cut may have left a part of one."""
    end = size
    while end > 0:
        begin = max(0, end - PAGE_BYTES)
        found = os.pread(descriptor, end - begin, begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        end = begin
    return 0
