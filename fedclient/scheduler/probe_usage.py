"""What fedclient itself takes: bytes written, the trainer's memory.

These are of real processes, whatever root the probes have.  Bytes written are those that the kernel
charged to this process, its ended children, and the living trainer: pages made dirty, before any
of them was dropped again, so rather too many than too few.
"""

from __future__ import annotations

import re
import resource

import psutil

from fedclient.scheduler.probe_files import Tree, Unreadable

MIB = 1 << 20
_BLOCK = 512  # the unit of ru_oublock, on every Linux
_WRITTEN = re.compile(r"^write_bytes: ([0-9]{1,18})$", re.MULTILINE)
_PROC = Tree()


def written_bytes(trainer_pid: int | None = None) -> int | None:
    """Return what this process, its ended children and the living trainer wrote; None: nobody counts.

    A kernel counts with CONFIG_TASK_IO_ACCOUNTING only.
    """
    if not _PROC.exists("/proc/self/io"):
        return None
    blocks = sum(
        resource.getrusage(who).ru_oublock for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return _BLOCK * blocks + (0 if trainer_pid is None else _written(trainer_pid))


def private_mib(pid: int) -> float | None:
    """Return what the end of process `pid` would free."""
    try:
        memory = psutil.Process(pid).memory_info()
    except (psutil.Error, OSError, ValueError):
        return None
    return max(0.0, float(memory.rss - memory.shared) / MIB)


def _written(pid: int) -> int:
    try:
        found = _WRITTEN.search(_PROC.text(f"/proc/{pid}/io"))
    except Unreadable:
        return 0
    return int(found[1]) if found else 0
