"""Free memory, free disk."""

import os
from pathlib import Path

import pytest

from fedclient.scheduler.probe_space import disk, memory


def test_memory_that_programs_may_take(root) -> None:
    root.plant(
        {"/proc/meminfo": "MemTotal: 4096000 kB\nMemFree: 1024 kB\nMemAvailable:  524288 kB\nBuffers: 1 kB"}
    )
    found = memory(root.tree)
    assert (found.value, found.source) == (512.0, "/proc/meminfo, MemAvailable")


@pytest.mark.parametrize(
    "junk", ["", "MemFree: 1024 kB", "MemAvailable: -5 kB", "MemAvailable: many kB", b"\xff"]
)
def test_memory_that_is_not_told(root, junk) -> None:
    root.plant({"/proc/meminfo": junk})
    assert memory(root.tree).value is None


def test_the_disk_is_the_real_one(tmp_path: Path) -> None:
    found = disk(tmp_path)
    expected = os.statvfs(tmp_path)
    assert found.value == pytest.approx(expected.f_bavail * expected.f_frsize / 2**20, rel=0.05)
    assert found.source == str(tmp_path)


def test_a_state_folder_that_is_not_there_has_no_free_space(tmp_path: Path) -> None:
    assert disk(tmp_path / "absent").reason == f"{tmp_path}/absent: No such file or directory"
