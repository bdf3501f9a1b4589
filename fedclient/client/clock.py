"""Device time, which budgets and spacing count by (docs/adr/0010), and the hour that windows go by."""

from __future__ import annotations

import time
from pathlib import Path

from fedclient.scheduler.history import ClockMark

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class DeviceClock:
    """Device time from the boot clock: it only runs forward, over restarts and reboots."""

    def __init__(self, mark: ClockMark | None, boot_id: str) -> None:
        self._mark = mark
        self._boot_id = boot_id
        self._offset_s = 0.0
        self._caught_up = mark is None or mark.boot_id == boot_id  # or the time off was added already
        self._started = False

    def elapsed_s(self, boot_s: float, unix_s: float | None) -> float:
        """Return device time; `unix_s` is the wall clock where it is synchronised."""
        if self._mark is not None and (not self._started or (unix_s is not None and not self._caught_up)):
            found_s = self._mark.elapsed_at(self._boot_id, boot_s, unix_s)
            self._offset_s = max(self._offset_s, found_s - boot_s)
            self._caught_up = self._caught_up or unix_s is not None
        self._started = True
        return boot_s + self._offset_s


def minute_of_week(unix_s: float | None) -> int | None:
    """Return the minute since Monday 00:00 in the zone that the machine is in now."""
    if unix_s is None:
        return None
    time.tzset()  # or the zone would be that of the agent's start
    local = time.localtime(unix_s)
    return (local.tm_wday * 24 + local.tm_hour) * 60 + local.tm_min


def boot_id() -> str:
    """Return the kernel's name of this boot; empty where it has none."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""  # equal to no other boot's: intervals begin with this one
