"""What most tests of commands begin with."""

from __future__ import annotations

import pytest

from fedclient.device import folder as folders


@pytest.fixture
def quiet(monkeypatch) -> None:
    """No handler that outlives a test's standard error."""
    monkeypatch.setattr("fedclient.cli.main.log.setup", lambda **_: None)


@pytest.fixture
def folder(tmp_path):
    """Return a device's new state folder."""
    return folders.create(tmp_path / "state")
