"""How busy the processor is: with this machine's own work, and with the trainer's.

The load is the share of busy time between two reads: nothing blocks or samples in the background.
Where there is no useful earlier read (the first one, or one long ago) the load average of the last
minute stands in, except during training, which it would count in.  In a recorded tree the counters
stand still: there is no window ever, nothing that runs here is in its average, and that is its load.
"""

from __future__ import annotations

import os
import re
import resource
from contextlib import suppress
from typing import NamedTuple

import psutil

from fedclient.scheduler.probe_files import Tree, Unreadable, known
from fedclient.scheduler.readings import Reading, unknown

STAT = "/proc/stat"
AVERAGE = "/proc/loadavg"
PRESSURE = "/proc/pressure/cpu"
MIN_WINDOW_S = 0.8  # less than the second between two looks while training; finer is noise
MAX_WINDOW_S = 300.0  # a mean over more than this says little about now
_TICKS = os.sysconf("SC_CLK_TCK")
_COUNTERS = 8  # user nice system idle iowait irq softirq steal; a guest's time is in user, too
_IDLE = (3, 4)  # idle, iowait
_COUNTER = re.compile(r"[0-9]{1,18}")
_PRESSURE = re.compile(r"^some avg10=([0-9]{1,3}(?:\.[0-9]{1,6})?) ", re.MULTILINE)
_AVERAGE = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,6})?) ")


class _Cpu(NamedTuple):
    """Seconds since boot, over all cores; `trainer_s` is of this process's children, alive and reaped."""

    busy_s: float
    total_s: float
    trainer_s: float
    cores: int


class Load:
    """Keep one, since load is what happened since the last read."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._last: tuple[float, float] | None = None  # of the last window: all, and the trainer's share
        self._before: _Cpu | None = None
        with suppress(Unreadable):  # the first read says why
            self._before = self._cpu(None)

    def read(self, trainer_pid: int | None) -> tuple[Reading[float], float]:
        """Return the share of all cores in percent that was busy, and that the trainer used."""
        try:
            now = self._cpu(trainer_pid)
        except Unreadable as error:
            return unknown(str(error)), 0.0
        stands_still = self._window(now, training=trainer_pid is not None)
        if self._last is not None:
            return Reading(self._last[0], f"{STAT} since the last look"), self._last[1]
        if trainer_pid is not None and not stands_still:
            return unknown("no window since the last look is long enough yet"), 0.0
        return known(lambda: self._average(now.cores)), 0.0

    def _window(self, now: _Cpu, *, training: bool) -> bool:
        """Close the window if it is long enough; tell whether these are counters that never move."""
        before = self._before
        if before is None or now.total_s < before.total_s:  # a core was taken away
            self._before, self._last = now, None
            return False
        window_s = (now.total_s - before.total_s) / now.cores
        if window_s >= MIN_WINDOW_S:
            self._before = now
            fresh = window_s <= MAX_WINDOW_S or training
            self._last = _percent(before, now) if fresh else None
        return window_s == 0 and not self._tree.live

    def _average(self, cores: int) -> Reading[float]:
        found = _AVERAGE.match(self._tree.text(AVERAGE))
        if not found:
            raise Unreadable(f"{AVERAGE} does not begin with a load average")
        return Reading(min(100.0, 100.0 * float(found[1]) / cores), f"{AVERAGE}, of the last minute")

    def _cpu(self, trainer_pid: int | None) -> _Cpu:
        """Read the counters.  A trainer's time moves to its parent's `children_*` when it is reaped."""
        lines = self._tree.text(STAT).splitlines()
        words = lines[0].split()
        ticks = [int(one) for one in words[1 : 1 + _COUNTERS] if _COUNTER.fullmatch(one)]
        if words[:1] != ["cpu"] or len(ticks) < max(_IDLE) + 1 or not any(ticks):
            raise Unreadable(f"{STAT} does not begin with the counters of all cores")
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        total = sum(ticks)
        idle = sum(ticks[one] for one in _IDLE)
        return _Cpu(
            busy_s=(total - idle) / _TICKS,
            total_s=total / _TICKS,
            trainer_s=ended.ru_utime + ended.ru_stime + _cpu_s(trainer_pid),
            cores=sum(bool(re.match(r"cpu\d", line)) for line in lines) or 1,
        )


def pressure(tree: Tree) -> Reading[float]:
    """Return the share of the last 10 s in which programs waited for a processor."""
    return known(lambda: _pressure(tree))


def _pressure(tree: Tree) -> Reading[float]:
    try:
        found = _PRESSURE.search(tree.text(PRESSURE) + " ")
    except Unreadable as error:
        why = f"{error}: this kernel measures no pressure (psi=1 on its command line may help)"
        raise Unreadable(why if error.absent else str(error)) from None
    if not found or float(found[1]) > 100:
        raise Unreadable(f"{PRESSURE} has no `some avg10=` from 0 to 100")
    return Reading(float(found[1]), f"{PRESSURE}, some avg10")


def _cpu_s(pid: int | None) -> float:
    """Return the processor time of a living process, 0 when there is none."""
    if pid is None:
        return 0.0
    try:
        times = psutil.Process(pid).cpu_times()
    except (psutil.Error, OSError, ValueError):
        return 0.0
    return float(times.user + times.system)


def _percent(before: _Cpu, now: _Cpu) -> tuple[float, float]:
    """Clamp both: the kernel's counters are not read at one instant, and iowait may run backwards."""
    elapsed_s = now.total_s - before.total_s
    busy = 100.0 * (now.busy_s - before.busy_s) / elapsed_s
    trainer = 100.0 * (now.trainer_s - before.trainer_s) / elapsed_s
    return min(100.0, max(0.0, busy)), min(100.0, max(0.0, trainer))
