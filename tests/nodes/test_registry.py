"""The file of nodes: secrets that nobody else can read, names and generations that never come back."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from fedclient.errors import ConfigError, StorageDamaged, StorageError, UsageError, WireError
from fedclient.nodes.registry import Registry


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "nodes.json"


def test_a_new_node_has_a_secret_of_its_own_in_a_file_of_the_owner(path: Path) -> None:
    registry = Registry(path)
    assert registry.load() == {}
    shed, barn = registry.add("shed"), registry.add("barn")
    assert (shed.generation, len(shed.secret or b"")) == (1, 32)
    assert shed.secret != barn.secret
    assert Registry(path).load() == {"shed": shed, "barn": barn}
    assert path.stat().st_mode & 0o777 == 0o600
    assert (shed.secret or b"").hex()[:8] not in repr(shed)


def test_a_renewed_node_has_the_next_generation_and_another_secret(path: Path) -> None:
    registry = Registry(path)
    before = registry.add("shed")
    after = registry.renew("shed")
    assert after.generation == 2
    assert after.secret != before.secret
    assert registry.get("shed") == after


def test_a_revoked_node_keeps_its_generation(path: Path) -> None:
    registry = Registry(path)
    registry.add("shed")
    assert registry.revoke("shed").revoked
    assert b'"secret": null' in path.read_bytes()
    with pytest.raises(UsageError, match="shed was revoked: `fedclient nodes renew shed`"):
        registry.add("shed")
    assert registry.renew("shed").generation == 2


def test_names(path: Path) -> None:
    registry = Registry(path)
    registry.add("shed")
    with pytest.raises(UsageError, match="shed is there already"):
        registry.add("shed")
    with pytest.raises(UsageError, match="no node barn, there are: shed"):
        registry.renew("barn")
    for bad in ("", "1shed", "Shed", "sh/ed", "a" * 17, "sh_ed", "+"):
        with pytest.raises(WireError, match="the first a letter"):
            registry.add(bad)
    assert list(registry.load()) == ["shed"]


def test_it_is_known_when_another_process_has_changed_it(path: Path) -> None:
    reader, writer = Registry(path), Registry(path)
    reader.load()
    assert not reader.has_changed()
    writer.add("shed")
    assert reader.has_changed()
    assert list(reader.load()) == ["shed"]
    assert not reader.has_changed()


def test_a_disk_that_fails_is_told_by_load_and_by_nothing_else(path: Path, monkeypatch) -> None:
    registry = Registry(path)
    registry.add("shed")
    registry.load()

    def fails(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "stat", fails)
    assert registry.has_changed()
    with pytest.raises(StorageError, match="Input/output error"):
        registry.load()


def test_a_file_that_others_may_read_is_refused(path: Path) -> None:
    Registry(path).add("shed")
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 0600"):
        Registry(path).load()


GOOD = {"format": 1, "nodes": {"shed": {"generation": 1, "secret": "00" * 32}}}


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{}", "null", '{"format": 1}', '{"format": 1, "nodes": []}', "[" * 100_000, "\xff",
        json.dumps(GOOD).replace('"generation": 1', '"generation": 0'),
        json.dumps(GOOD).replace('"generation": 1', '"generation": true'),
        json.dumps(GOOD).replace("00" * 32, "00" * 31),
        json.dumps(GOOD).replace("00" * 32, "zz" * 32),
        json.dumps(GOOD).replace('"secret"', '"other"'),
        json.dumps(GOOD).replace('"secret": "', '"secret": 7, "x": "'),
    ],
)  # fmt: skip
def test_a_damaged_file_is_refused_in_one_sentence(path: Path, text: str) -> None:
    path.write_bytes(text.encode("latin-1"))
    path.chmod(0o600)
    with pytest.raises(StorageDamaged, match="add the nodes again"):
        Registry(path).load()


def test_a_newer_file_is_not_taken_for_damage(path: Path) -> None:
    path.write_text(json.dumps({**GOOD, "format": 2}))
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="upgrade this one"):
        Registry(path).load()
    with pytest.raises(ConfigError):
        Registry(path).add("barn")
    assert json.loads(path.read_text())["format"] == 2


def test_two_commands_at_once_lose_nothing(path: Path) -> None:
    children = []
    for number in range(4):
        if (pid := os.fork()) == 0:
            try:
                Registry(path).add(f"node-{number}")
            finally:
                os._exit(0)
        children.append(pid)
    for pid in children:
        os.waitpid(pid, 0)
    assert sorted(Registry(path).load()) == [f"node-{number}" for number in range(4)]
