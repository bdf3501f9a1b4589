"""The trainer as a process: a good neighbour, bound in memory, and gone when its agent is."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_MIB = 1024 * 1024
_PR_SET_PDEATHSIG = 1
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "armv7l": 314}  # syscall numbers, linux/ioprio.h
_IOPRIO_WHO_PROCESS = 1
_IOPRIO_CLASS_IDLE = 3 << 13
_OOM_FIRST = "1000"  # of everything on the device, the trainer is what the kernel should end first
_LIBC = ctypes.CDLL(None, use_errno=True)
_PRCTL = _LIBC.prctl  # looked up now: between a fork and an exec nothing may wait for the loader's lock


def be_nice(nice: int, *, idle: bool) -> None:
    """Yield to everything else: nice level, idle CPU and I/O class, first to go when memory is short.

    What the kernel does not allow is left as it is: none of it changes a result.
    """
    with suppress(OSError):
        os.nice(nice)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_OOM_FIRST)
    if not idle:
        return
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    number = _IOPRIO_SET.get(platform.machine())
    if number is not None:
        _LIBC.syscall(number, _IOPRIO_WHO_PROCESS, 0, _IOPRIO_CLASS_IDLE)


def limit_memory(memory_mib: int) -> None:
    """Refuse this process more private memory than `memory_mib`; an allocation beyond it fails."""
    _, allowed = resource.getrlimit(resource.RLIMIT_DATA)  # a service's own limit cannot be raised
    limit = memory_mib * _MIB if allowed == resource.RLIM_INFINITY else min(memory_mib * _MIB, allowed)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


@contextmanager
def memory_grows_by(memory_mib: int) -> Iterator[None]:
    """Refuse this process more private memory than `memory_mib` beyond what it has now."""
    limit, allowed = resource.getrlimit(resource.RLIMIT_DATA)
    most = _private_bytes() + memory_mib * _MIB
    resource.setrlimit(
        resource.RLIMIT_DATA, (most if limit == resource.RLIM_INFINITY else min(most, limit), allowed)
    )
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, allowed))


def _private_bytes() -> int:
    """Return what RLIMIT_DATA is compared with."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmData:"))


def die_with(parent: int) -> None:
    """End this process when `parent` ends, however it ends; at once if it is gone already.

    Holds across an exec, so it also serves as `preexec_fn` of a child that is not ours.
    """
    _PRCTL(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(os.EX_TEMPFAIL)


def pss_mib(pid: int | str = "self") -> float:
    """Proportional set size of a process in MiB; 0.0 where the kernel does not tell."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:")), 0.0)
