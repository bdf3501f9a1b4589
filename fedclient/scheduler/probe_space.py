"""Free memory and free disk space."""

from __future__ import annotations

import os
import re
from pathlib import Path

from fedclient.scheduler.probe_files import Tree, Unreadable, known
from fedclient.scheduler.readings import Reading

MEMORY = "/proc/meminfo"
MIB = 1 << 20
_AVAILABLE = re.compile(r"^MemAvailable:\s+([0-9]{1,15}) kB$", re.MULTILINE)


def memory(tree: Tree) -> Reading[float]:
    """Return what programs may take before the kernel has to swap."""
    return known(lambda: _memory(tree))


def _memory(tree: Tree) -> Reading[float]:
    found = _AVAILABLE.search(tree.text(MEMORY))
    if not found:
        raise Unreadable(f"{MEMORY} has no MemAvailable")
    return Reading(int(found[1]) / 1024, f"{MEMORY}, MemAvailable")


def disk(folder: Path) -> Reading[float]:
    """Return the room for this user where `folder` is: the real one, whatever root the probes have."""
    return known(lambda: _disk(folder))


def _disk(folder: Path) -> Reading[float]:
    try:
        found = os.statvfs(folder)
    except (OSError, ValueError) as error:
        raise Unreadable(f"{folder}: {getattr(error, 'strerror', None) or error}") from None
    return Reading(found.f_bavail * found.f_frsize / MIB, str(folder))
