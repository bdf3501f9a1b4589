"""What fedclient takes itself, its children included."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fedclient.scheduler.probe_usage import private_mib, written_bytes

MIB = 1 << 20
WRITES = """
import os, sys
block = bytearray(20 << 20); block[::4096] = b"x" * (len(block) // 4096)
with open(sys.argv[1], "wb") as file:
    file.write(b"x" * (1 << 20)); file.flush(); os.fsync(file.fileno())
print("written", flush=True)
sys.stdin.read()
"""


def is_counted(folder: Path) -> bool:
    """Tell whether the kernel counts writes to this file system; memory is no storage."""
    before = written_bytes()
    if before is None:
        return False
    with (folder / "trial").open("wb") as file:
        file.write(b"x" * MIB)
        file.flush()
        os.fsync(file.fileno())
    return written_bytes() > before


def test_a_living_trainer_and_the_same_when_it_has_ended(tmp_path: Path) -> None:
    counted = is_counted(tmp_path)
    before = written_bytes()
    command = [sys.executable, "-c", WRITES, str(tmp_path / "file")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        alive, private = written_bytes(child.pid), private_mib(child.pid)
        child.communicate()
    assert private is not None
    assert private > 20
    if not counted:
        pytest.skip("LEFT OUT: this kernel counts no writes to this folder (memory, or no task accounting)")
    assert alive >= before + MIB
    assert written_bytes() >= alive  # moved, not lost


def test_a_trainer_that_is_gone() -> None:
    with subprocess.Popen([sys.executable, "-S", "-c", ""]) as child:
        child.wait()
    assert private_mib(child.pid) is None
    assert private_mib(2**30) is None
    assert written_bytes(child.pid) == written_bytes()


def test_a_kernel_that_does_not_count_says_so(root, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedclient.scheduler.probe_usage._PROC", root.tree)
    assert written_bytes() is None
