"""The state folder: layout, modes, one agent at a time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fedclient.device.folder import create, nearest, open_folder
from fedclient.errors import AlreadyRunning, ConfigError, StorageReadOnly


def test_the_layout_and_its_modes_whatever_the_umask(tmp_path) -> None:
    before = os.umask(0o077)
    try:
        folder = create(tmp_path / "state")
    finally:
        os.umask(before)
    modes = {
        path.name: path.stat().st_mode & 0o7777
        for path in (folder.path / "keys", folder.blobs, folder.samples.parent, folder.current, folder.key)
    }
    assert modes == {
        "keys": 0o700,
        "blobs": 0o700,
        "samples": 0o2770,
        "current": 0o2770,
        "device.key": 0o600,
    }


def test_rule_2_making_it_again_keeps_the_key_and_makes_what_is_missing(tmp_path) -> None:
    folder = create(tmp_path / "state")
    key = folder.key.read_bytes()
    folder.blobs.rmdir()
    assert create(folder.path) == folder
    assert folder.key.read_bytes() == key
    assert folder.blobs.is_dir()


def test_a_folder_without_a_device_is_said_so(tmp_path) -> None:
    with pytest.raises(ConfigError, match="fedclient init"):
        open_folder(tmp_path)
    assert open_folder(create(tmp_path / "state").path).key.exists()


def test_rule_5_6_one_agent_at_a_time(folder) -> None:
    lock = folder.lock()
    with pytest.raises(AlreadyRunning, match="another agent"):
        folder.lock()
    os.close(lock)
    os.close(folder.lock())


def test_a_folder_that_cannot_be_made_is_said_so(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageReadOnly, match="--state"):
        create(tmp_path / "file" / "state")
    made = create(tmp_path / "state")
    Path(made.path / "agent.lock").mkdir()
    with pytest.raises(StorageReadOnly):
        made.lock()


def test_looking_whether_an_agent_runs_takes_no_lock(tmp_path) -> None:
    folder = create(tmp_path / "state")
    assert not folder.in_use()
    held = folder.lock()
    assert folder.in_use()
    os.close(held)
    assert not folder.in_use()
    assert not folder.in_use(locks=tmp_path / "no such file")


def test_the_nearest_folder_is_there(tmp_path, monkeypatch) -> None:
    assert nearest(tmp_path / "state" / "none") == tmp_path
    assert nearest(tmp_path) == tmp_path
    monkeypatch.chdir(tmp_path)
    assert nearest(Path("none")) == tmp_path
