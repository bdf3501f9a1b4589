"""The power goes, or the flash takes nothing more, at every single write: real file systems, in RAM."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path

import pytest

from tests.micropython.conftest import PROGRAMS, environment


@pytest.mark.parametrize("full", [False, True], ids=["power", "full"])
@pytest.mark.parametrize("system", ["VfsLfs2", "VfsFat"])
def test_no_counter_is_used_twice_or_unreserved_and_nothing_kept_is_lost(
    micropython: str, tmp_path: Path, system: str, full: bool, thorough: bool
) -> None:
    seed = random.randrange(2**30)
    print(f"seed {seed}")
    # Where a write is torn is random; the one named tore FAT's own tables so that a file could not be read.
    for one in (973686926, *range(seed, seed + (50 if thorough else 1))):
        (tmp_path / "asked.json").write_text(json.dumps({"system": system, "seed": one, "full": full}))
        done = subprocess.run(
            [micropython, "-X", "heapsize=4M", PROGRAMS / "unplugged.py", tmp_path / "asked.json"],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        # Files that the trouble left open say so when they are collected.
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr
        found = json.loads(done.stdout.splitlines()[-1])
        assert found["times"] > 40
        assert found["failed"] == []
