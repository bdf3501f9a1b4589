"""A folder that stands for `/`: a test plants the files of a board in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from fedclient.scheduler.probe_command import Commands
from fedclient.scheduler.probe_files import Tree


class Root:
    """Plants files below a folder; `tree` reads them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tree = Tree(path)
        self.commands = Commands(self.tree)

    def plant(self, files: Mapping[str, object], folder: str = "") -> None:
        """Write each file; one that is None goes away."""
        for name, content in files.items():
            path = self.path / folder.lstrip("/") / name.lstrip("/")
            if content is None:
                path.unlink()
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else f"{content}\n".encode())

    def empty(self, folder: str) -> None:
        (self.path / folder.lstrip("/")).mkdir(parents=True, exist_ok=True)


@pytest.fixture
def root(tmp_path: Path) -> Root:
    (tmp_path / "root").mkdir()
    return Root(tmp_path / "root")
