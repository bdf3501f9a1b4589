"""What the tests of boards share: the profiles, a copy of a capture to change, a decision about it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fedclient import boards
from fedclient.scheduler.history import History
from fedclient.scheduler.policy import Decision, Now, decide
from fedclient.scheduler.probe import Probe
from fedclient.scheduler.probe_board import identify
from fedclient.scheduler.probe_files import Tree
from fedclient.scheduler.readings import Activity, SampleCounts
from fedclient.scheduler.schedule import Policy

HARDWARE = Path(__file__).parent.parent.parent / "hardware" / "boards"
PROFILES = boards.load_all(HARDWARE)


def files(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="session")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Copy each capture once: making folders is what takes time."""
    folder = tmp_path_factory.mktemp("captures")

    def copy(board: str) -> Path:
        if not (folder / board).exists():
            shutil.copytree(HARDWARE / board / "capture", folder / board)
        return folder / board

    return copy


@pytest.fixture
def tree(copies: Callable[[str], Path]) -> Iterator[Callable[[str], Path]]:
    """Give a copy of a board's capture, and undo what was changed there."""
    given: dict[Path, dict[Path, bytes]] = {}

    def give(board: str) -> Path:
        root = copies(board)
        given[root] = files(root)
        return root

    yield give
    for root, before in given.items():
        now = files(root)
        for path in now.keys() - before.keys():
            path.unlink()
        for path, data in before.items():
            if now.get(path) != data:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
        for folder in sorted((one for one in root.rglob("*") if one.is_dir()), reverse=True):
            if not any(folder.iterdir()):
                folder.rmdir()


@pytest.fixture
def decision() -> Callable[..., Decision]:
    """Decide about a tree by its own profile and its defaults, with samples enough."""

    def about(root: Path, **policy: object) -> Decision:
        profile = boards.detect(identify(Tree(root)), PROFILES)
        readings = Probe(HARDWARE, root=root, profile=profile).read(
            Activity(samples=SampleCounts(new=100, distinct=100)), 0.0
        )
        return decide(
            readings,
            replace(Policy(**profile.schedule), **policy),
            profile,
            History(),
            Now(elapsed_s=0.0),
        )

    return about
