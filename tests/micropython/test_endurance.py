"""A node in a small heap for a long time: nothing is left lying about in it."""

from __future__ import annotations

import json
import os
import random
import subprocess
from pathlib import Path

from tests.micropython.conftest import PACKAGE, PROGRAMS

HEAP = "72K"  # with pointers of 64 bits; the bench says the least


def test_thousands_of_samples_and_heads_go_through_a_small_heap(
    micropython: str, mpy_cross: str, tmp_path: Path, thorough: bool
) -> None:
    seed = random.randrange(2**30)
    print(f"seed {seed}")
    environment = {**os.environ, "PATH": f"{Path(mpy_cross).parent}:{os.environ['PATH']}"}
    subprocess.run([PACKAGE / "compile.sh", tmp_path / "fednode"], check=True, env=environment)
    subprocess.run([mpy_cross, "-o", tmp_path / "enduring.mpy", PROGRAMS / "enduring.py"], check=True)
    samples = 200_000 if thorough else 2000
    (tmp_path / "asked.json").write_text(json.dumps({"samples": samples, "seed": seed}))
    done = subprocess.run(
        [micropython, "-X", f"heapsize={HEAP}", "-m", "enduring", "asked.json"],
        cwd=tmp_path,
        env={**os.environ, "MICROPYPATH": f"{tmp_path}:.frozen"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    print(found)
    assert found["free"] > 10_000
    del found["free"]
    assert found == {"raised": 0, "refused": 0, "error": "None", "dropped": 0, "version": samples // 100}
