from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fedclient.device import folder as folders
from fedclient.device.database import open_database
from fedclient.device.folder import DeviceFolder
from fedclient.storage import Database


@pytest.fixture
def folder(tmp_path: Path) -> DeviceFolder:
    return folders.create(tmp_path / "device")


@pytest.fixture
def database(folder: DeviceFolder) -> Iterator[Database]:
    opened = open_database(folder)
    yield opened
    opened.close()
