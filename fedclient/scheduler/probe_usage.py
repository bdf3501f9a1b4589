"""What fedclient itself takes: processor time, bytes written, the trainer's memory.

These are of real processes, whatever root the probes have.  Bytes written are those that the kernel
charged to this process, its ended children, and the living trainer: pages made dirty, before any
of them was dropped again, so rather too many than too few.
"""

from __future__ import annotations

import re
import resource
from dataclasses import dataclass

import psutil

from fedclient.scheduler.probe_files import Tree, Unreadable

MIB = 1 << 20
_BLOCK = 512  # the unit of ru_oublock, on every Linux
_WRITTEN = re.compile(r"^write_bytes: ([0-9]{1,18})$", re.MULTILINE)
_PROC = Tree()


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """Since this process started; all but the trainer's memory only grow."""

    cpu_s: float
    written_bytes: int | None  # None: this kernel does not count (CONFIG_TASK_IO_ACCOUNTING)
    trainer_private_mib: float | None  # None: no trainer, or it has just ended


def usage(trainer_pid: int | None = None) -> Usage:
    """Add up this process, its ended children, and the trainer that is alive."""
    ours, ended = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    cpu_s = ours.ru_utime + ours.ru_stime + ended.ru_utime + ended.ru_stime
    written = _BLOCK * (ours.ru_oublock + ended.ru_oublock)
    counted = _PROC.exists("/proc/self/io")
    if trainer_pid is None:
        return Usage(cpu_s=cpu_s, written_bytes=written if counted else None, trainer_private_mib=None)
    return Usage(
        cpu_s=cpu_s + _cpu_s(trainer_pid),
        written_bytes=written + _written(trainer_pid) if counted else None,
        trainer_private_mib=private_mib(trainer_pid),
    )


def private_mib(pid: int) -> float | None:
    """Return what the end of process `pid` would free."""
    try:
        memory = psutil.Process(pid).memory_info()
    except (psutil.Error, OSError, ValueError):
        return None
    return max(0.0, float(memory.rss - memory.shared) / MIB)


def _cpu_s(pid: int) -> float:
    try:
        times = psutil.Process(pid).cpu_times()
    except (psutil.Error, OSError, ValueError):  # it has just ended, and is not reaped yet
        return 0.0
    return float(times.user + times.system)


def _written(pid: int) -> int:
    try:
        found = _WRITTEN.search(_PROC.text(f"/proc/{pid}/io"))
    except Unreadable:
        return 0
    return int(found[1]) if found else 0
