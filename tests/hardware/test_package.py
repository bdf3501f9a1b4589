"""The boards leave the repository whole: in the wheel, and in the documents."""

from __future__ import annotations

import runpy
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from fedclient import boards

ROOT = Path(__file__).parent.parent.parent
BOARDS = ROOT / "hardware" / "boards"


def test_the_wheel_has_every_file_of_every_board(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, ROOT]
    built = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    if built.returncode and "hatchling" in built.stderr + built.stdout:
        pytest.skip("LEFT OUT: pip cannot get hatchling, which builds the wheel (no network?)")
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path / "site")
    installed = tmp_path / "site" / "fedclient" / "hardware" / "boards"
    ours = {path.relative_to(BOARDS): path.read_bytes() for path in BOARDS.rglob("*") if path.is_file()}
    theirs = {
        path.relative_to(installed): path.read_bytes() for path in installed.rglob("*") if path.is_file()
    }
    assert theirs == ours
    # Run from there, it finds its own profiles, and not those of a checkout.
    script = (
        "from fedclient import boards; print(boards.installed(), *(one.name for one in boards.load_all()))"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path / "site", capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == [str(installed), *(one.name for one in boards.load_all(BOARDS))]


def test_a_capture_is_small_and_made_of_plain_files() -> None:
    for path in BOARDS.rglob("*"):
        assert not path.is_symlink(), path
        if path.is_file():
            assert path.stat().st_size < 16_384, path
    assert sum(path.stat().st_size for path in BOARDS.rglob("*") if path.is_file()) < 256 * 1024


def test_the_table_in_the_documents_is_that_of_the_profiles() -> None:
    tool = runpy.run_path(str(ROOT / "tools" / "boards_table"))
    page = (ROOT / "docs" / "hardware.md").read_text()
    shown = page.partition(tool["BEGIN"])[2].partition(tool["END"])[0]
    assert shown == tool["table"](), "stale: run tools/boards_table --write"
    assert shown.count("\n") == 2 + len(boards.load_all(BOARDS))


def test_what_is_said_to_be_tried_is_recorded() -> None:
    """`evidence = "board"` with a written capture, or the other way round, would be a claim without proof."""
    for profile in boards.load_all(BOARDS):
        note = (BOARDS / profile.name / "capture" / "CAPTURE.md").read_text()
        assert note.startswith("# Recorded" if profile.evidence == "board" else "# Written"), profile.name


@pytest.mark.parametrize("words", [(), ("--write",)])
def test_the_table_tool_prints_or_writes(words: tuple[str, ...], tmp_path: Path) -> None:
    for part in ("tools/boards_table", "docs/hardware.md"):
        (tmp_path / part).parent.mkdir(exist_ok=True)
        (tmp_path / part).write_text((ROOT / part).read_text())
    (tmp_path / "hardware").symlink_to(ROOT / "hardware")
    page = tmp_path / "docs" / "hardware.md"
    stale = page.read_text().replace("any other 64-bit ARM machine", "something else")
    page.write_text(stale)
    done = subprocess.run(
        [sys.executable, tmp_path / "tools/boards_table", *words], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    if words:
        assert page.read_text() == (ROOT / "docs/hardware.md").read_text()
        assert done.stdout == ""
    else:
        assert done.stdout in (ROOT / "docs/hardware.md").read_text()
        assert page.read_text() == stale
