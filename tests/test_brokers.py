"""The settings of both brokers: a password that only its owner may read.  What else: tests/test_config.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedclient.brokers import BrokerSettings, NodeSettings
from fedclient.errors import ConfigError


@pytest.mark.parametrize(("settings", "section"), [(BrokerSettings, "broker"), (NodeSettings, "nodes")])
def test_a_password_is_read_unless_others_may_read_it(tmp_path: Path, settings, section: str) -> None:
    path = tmp_path / "password"
    assert settings().password() is None
    mine = settings(username="u", password_file=path)
    with pytest.raises(ConfigError, match=rf"\[{section}\] password_file cannot be read: No such file"):
        mine.password()
    path.write_text("hunter2\n")
    path.chmod(0o644)
    with pytest.raises(ConfigError, match=r"others may read this password \(mode 0644\): chmod 0600 it"):
        mine.password()
    path.chmod(0o600)
    assert mine.password() == "hunter2"
