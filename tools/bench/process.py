"""What the kernel says of a process, read from outside: nothing in it is patched, hooked or slowed down."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

# Where this interpreter and what is installed for it come from.
_PYTHON_FILES = tuple({str(Path(path).resolve()) for path in (sys.base_prefix, sys.prefix)})
FORBIDDEN = ("numpy", "tflite_runtime", "ai_edge_litert")  # in an agent


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Mebibytes.

    PSS divides a page by the number of processes that map it, so it falls when other Pythons run.
    `alone` does not: files of Python count in full, as on a device whose only Python the agent is;
    what is left divided is the system's (libc, OpenSSL), which other programs there map too.
    """

    pss: float
    alone: float
    uss: float
    rss: float

    def as_dict(self) -> dict[str, float]:
        return {
            "pss_mib": round(self.pss, 2),
            "pss_as_only_python_mib": round(self.alone, 2),
            "uss_mib": round(self.uss, 2),
            "rss_mib": round(self.rss, 2),
        }


def memory(pid: int) -> Memory:
    """Read /proc/PID/smaps; raises OSError when the process is gone."""
    pss = alone = uss = rss = 0
    of_python = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        name, _, rest = line.partition(":")
        if "-" in name:  # an address range: the head of a mapping
            of_python = line.split(maxsplit=5)[-1].startswith(_PYTHON_FILES)
        elif name == "Pss":
            pss += int(rest.split()[0])
            alone += 0 if of_python else int(rest.split()[0])
        elif name == "Rss":
            rss += int(rest.split()[0])
            alone += int(rest.split()[0]) if of_python else 0
        elif name in {"Private_Clean", "Private_Dirty"}:
            uss += int(rest.split()[0])
    return Memory(pss=pss / 1024, alone=alone / 1024, uss=uss / 1024, rss=rss / 1024)


def children(pid: int) -> list[int]:
    """Return the processes that `pid` has started and that have not ended."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:  # it is gone
        return []


def words(pid: int) -> list[str]:
    """Return what a process was started with."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]


def other_pythons(pid: int) -> int:
    """Count the processes that share this interpreter's files with `pid`."""
    program = Path(f"/proc/{pid}/exe").readlink()
    count = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != pid:
            try:
                count += (entry / "exe").readlink() == program
            except OSError:
                continue
    return count


def forbidden_files(pid: int) -> list[str]:
    """Return mapped files of NumPy and the TFLite runtimes: none of them loads without a shared object."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    return sorted(
        {path for path in re.findall(r"/\S+$", maps, re.MULTILINE) if any(bad in path for bad in FORBIDDEN)}
    )


def cpu_s(pid: int) -> float:
    """Seconds on a processor, all threads, in nanosecond steps (/proc/PID/stat counts in 10 ms)."""
    tasks = Path(f"/proc/{pid}/task")
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()) / 1e9


def children_cpu_s(pid: int) -> float:
    """Seconds on a processor of all children that have ended and were waited for, in steps of 10 ms.

    /proc/PID/stat, fields 16 and 17 (cutime, cstime): there also when nobody looked while they lived.
    """
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()  # from field 3 on
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


def switches(pid: int) -> tuple[int, int]:
    """Return (voluntary, involuntary) context switches of all threads.

    A process wakes up once for each time that it had gone to sleep: voluntary switches.  An
    involuntary one means that something else wanted the processor; it says nothing of the process.
    """
    voluntary = involuntary = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        found = dict(
            re.findall(
                r"(\w+voluntary_ctxt_switches|voluntary_ctxt_switches):\s+(\d+)",
                (task / "status").read_text(),
            )
        )
        voluntary += int(found["voluntary_ctxt_switches"])
        involuntary += int(found["nonvoluntary_ctxt_switches"])
    return voluntary, involuntary


def tcp_bytes(pid: int) -> tuple[int, int] | None:
    """Return (sent, received) TCP payload of the process's connections, as the kernel counts it.

    None without `ss`.
    """
    try:
        said = subprocess.run(["ss", "-tinpH"], check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    sent = received = 0
    for connection in re.split(r"\n(?=\S)", said):
        if f"pid={pid}," in connection:
            # bytes_acked: what arrived; of both ends only the one of this process is counted
            sent += int((re.search(r"bytes_acked:(\d+)", connection) or [0, 0])[1])
            received += int((re.search(r"bytes_received:(\d+)", connection) or [0, 0])[1])
    return sent, received
