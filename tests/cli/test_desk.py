from __future__ import annotations

import sqlite3
from argparse import Namespace
from pathlib import Path

import pytest

from fedclient.cli.desk import DEFAULT_STATE, open_desk, state_folder
from fedclient.config import Config
from fedclient.errors import StorageError
from fedclient.gateway.server import found
from fedclient.values import Broker


@pytest.mark.parametrize(
    ("option", "systemd", "folder"),
    [
        (None, None, DEFAULT_STATE),
        (None, "", DEFAULT_STATE),
        (None, "/one:/two", Path("/one")),
        (Path("/three"), "/one", Path("/three")),
    ],
)
def test_the_option_comes_before_systemd_before_the_default(monkeypatch, option, systemd, folder) -> None:
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    if systemd is not None:
        monkeypatch.setenv("STATE_DIRECTORY", systemd)
    assert state_folder(Namespace(state=option)) == folder


def test_the_database_is_closed_after_the_command(tmp_path) -> None:
    args = Namespace(state=tmp_path / "gateway", settings=Config())
    with pytest.raises(StorageError, match="gateway init"), open_desk(args):
        raise AssertionError("opened what is not there")
    found(args.state, "farm", Broker(host="localhost", port=1883))
    with open_desk(args) as desk:
        assert desk.federation == "farm"
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        desk.store.current()
