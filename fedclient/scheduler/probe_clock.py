"""Whether the time of day can be believed.

timesyncd touches a file at each success and takes it away when it ends; chrony and ntpd are told by
the kernel, in one call without a file (adjtimex).  Where a sandbox forbids that (ProtectClock=yes),
systemd's timedated is asked.  Once right since the start is good enough: a board's crystal goes
wrong by some seconds a day, and time windows are of minutes.
"""

from __future__ import annotations

import os

from fedclient.scheduler.probe_command import Commands
from fedclient.scheduler.probe_files import Tree, Unreadable, known
from fedclient.scheduler.readings import Reading

TIMESYNC = "/run/systemd/timesync"
SYSTEMD = "/run/systemd/system"  # there where systemd is the init
SAID = "busctl-ntp"
_COMMAND = (
    "busctl",
    "get-property",
    "org.freedesktop.timedate1",
    "/org/freedesktop/timedate1",
    "org.freedesktop.timedate1",
    "NTPSynchronized",
)
MAX_ERROR_US = 16_000_000  # the kernel's estimate grows to this when nobody disciplines the clock
_MAX_ERROR_AT = 3  # struct timex: modes (padded to a long), offset, freq, maxerror
_TIMEX_LONGS = 64  # more than any kernel fills


def read(tree: Tree, commands: Commands) -> Reading[bool]:
    """Return whether a time server set the clock since the start."""
    return known(lambda: _read(tree, commands))


def _read(tree: Tree, commands: Commands) -> Reading[bool]:
    if tree.exists(f"{TIMESYNC}/synchronized"):
        return Reading(value=True, source=f"{TIMESYNC}/synchronized")
    denied = ""
    if tree.live:
        try:
            return Reading(value=_max_error_us() < MAX_ERROR_US, source="the kernel's clock state (adjtimex)")
        except OSError as error:
            denied = f"adjtimex: {error.strerror}"
    if tree.exists(TIMESYNC):
        return Reading(value=False, source=f"{TIMESYNC} has no file `synchronized`")
    if tree.live and not tree.exists(SYSTEMD):
        raise Unreadable(denied)
    try:
        said = commands.ask(SAID, _COMMAND)
    except Unreadable as error:
        known_paths = f"there is no {TIMESYNC}, and {error}" if error.absent else str(error)
        raise Unreadable(f"{denied}; {known_paths}" if denied else known_paths) from None
    if said not in ("b true", "b false"):
        raise Unreadable("busctl gave no `b` for timedated's NTPSynchronized")
    return Reading(said == "b true", "timedated: NTPSynchronized")


def _max_error_us() -> int:
    """Ask the kernel how wrong its clock may be; nothing is set."""
    import ctypes  # noqa: PLC0415 - most boards run timesyncd, and save its memory

    timex = (ctypes.c_long * _TIMEX_LONGS)()
    library = ctypes.CDLL(None, use_errno=True)
    if library.adjtimex(timex) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(timex[_MAX_ERROR_AT])
