"""The doctor's checks of nodes: their secrets, and a broker that is theirs alone."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedclient.cli import doctor_nodes
from fedclient.cli.doctor_finding import Finding, Verdict
from fedclient.client import nodes as link
from fedclient.config import BrokerSettings, Config, NodeSettings
from fedclient.device import folder as folders
from fedclient.device.folder import DeviceFolder
from fedclient.nodes.registry import Registry
from fedclient.testing.broker import EmbeddedBroker
from tests.cli.patients import patient

OK, WARNING, FAIL = Verdict.OK, Verdict.WARNING, Verdict.FAIL


@pytest.fixture
def folder(tmp_path: Path) -> DeviceFolder:
    return folders.create(tmp_path / "state")


def config(folder: DeviceFolder, broker: BrokerSettings | None = None, **nodes: Any) -> Config:
    settings = NodeSettings(**{"enabled": True, **nodes})
    return Config(state=folder.path, nodes=settings, broker=broker or BrokerSettings())


def secrets(folder: DeviceFolder, **nodes: Any) -> Finding:
    return doctor_nodes.secrets(patient(folder.path, config=config(folder, **nodes)))


def broker(folder: DeviceFolder, theirs: BrokerSettings | None = None, **nodes: Any) -> Finding:
    return doctor_nodes.broker(patient(folder.path, config=config(folder, theirs, **nodes)))


# --- secrets ---------------------------------------------------------------------------------------


def test_a_device_without_nodes_has_nothing_to_do(folder: DeviceFolder, tmp_path: Path) -> None:
    assert secrets(folder, enabled=False) == Finding(OK, "none are listened to")
    assert broker(folder, enabled=False).verdict is OK
    there_is_none = patient(tmp_path / "none")
    assert [one(there_is_none).verdict for one in (doctor_nodes.secrets, doctor_nodes.broker)] == [OK, OK]


def test_nodes_that_nobody_listens_to_are_a_warning(folder: DeviceFolder) -> None:
    Registry(folder.nodes).add("shed")
    found = secrets(folder, enabled=False)
    assert (found.verdict, found.remedy) == (WARNING, "set [nodes] enabled = true to listen to them")


def test_somebody_who_listens_to_no_node_is_told_how_to_add_one(folder: DeviceFolder) -> None:
    assert secrets(folder).remedy == "`fedclient nodes add NODE` makes a secret for one"
    Registry(folder.nodes).add("shed")
    assert secrets(folder) == Finding(OK, f"1 with a secret, 0 revoked ({folder.nodes})")
    Registry(folder.nodes).revoke("shed")
    assert secrets(folder).verdict is WARNING
    assert secrets(folder).found == "0 with a secret, 1 revoked"


def test_secrets_that_others_may_read_are_a_failure(folder: DeviceFolder) -> None:
    Registry(folder.nodes).add("shed")
    folder.nodes.chmod(0o640)
    found = secrets(folder)
    assert (found.verdict, found.remedy) == (FAIL, "until then no node is listened to")
    assert found.found == f"{folder.nodes}: others may read these secrets: chmod 0600 it"


def test_secrets_that_are_damaged_or_cannot_be_read_are_a_failure(folder: DeviceFolder, monkeypatch) -> None:
    Registry(folder.nodes).add("shed")
    whole = folder.nodes.read_bytes()
    folder.nodes.write_bytes(whole[:-9])
    assert (secrets(folder).verdict, "add the nodes again" in secrets(folder).found) == (FAIL, True)
    folder.nodes.write_bytes(whole)

    def denied(path: object, *_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", denied)
    monkeypatch.setattr("builtins.open", denied)
    monkeypatch.setattr(Path, "open", denied)
    assert (secrets(folder).verdict, str(folder.nodes) in secrets(folder).found) == (FAIL, True)


# --- the broker ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def running() -> Iterator[EmbeddedBroker]:
    pytest.importorskip("amqtt", reason="LEFT OUT: amqtt is not installed (pip install 'fedclient[test]')")
    with EmbeddedBroker() as made:
        yield made


def test_the_nodes_broker_is_reached(running: EmbeddedBroker, folder: DeviceFolder) -> None:
    found = broker(folder, port=running.port)
    assert found.verdict is OK
    assert found.found.startswith(f"127.0.0.1:{running.port} took the connection (without TLS")


def test_samples_that_cross_a_network_in_clear_are_a_warning(
    running: EmbeddedBroker, folder: DeviceFolder, monkeypatch
) -> None:
    monkeypatch.setattr(doctor_nodes, "is_loopback", lambda _: False)
    found = broker(folder, port=running.port, allow_plaintext=True)
    assert (found.verdict, found.remedy) == (WARNING, "set [nodes] tls = true")
    assert "can read the samples" in found.found


def test_samples_in_clear_that_nobody_allowed_are_a_failure(folder: DeviceFolder) -> None:
    found = broker(folder, host="192.0.2.7")
    assert (found.verdict, found.remedy) == (FAIL, "see [nodes] in the settings")
    assert "would not be encrypted" in found.found


def test_nobody_there_is_a_failure_with_its_remedy(folder: DeviceFolder) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        found = broker(folder, port=port)
    assert (found.verdict, found.found) == (FAIL, f"nothing listens at 127.0.0.1:{port}")


def test_the_federations_broker_is_refused_by_the_agents_own_rule(
    running: EmbeddedBroker, folder: DeviceFolder
) -> None:
    theirs = BrokerSettings(host="localhost", port=running.port, tls="off")
    found = broker(folder, theirs, port=running.port)
    assert found.verdict is FAIL
    assert "is the federation's broker" in found.found
    assert doctor_nodes.refuse_federation is link.refuse_federation


@pytest.mark.parametrize(
    ("key", "words"),
    [("ca_file", "the CA file"), ("password_file", "[nodes] password_file cannot be read")],
)
def test_a_file_that_is_of_no_use_is_a_failure(
    folder: DeviceFolder, tmp_path: Path, key: str, words: str
) -> None:
    found = broker(folder, host="localhost", tls=True, username="device", **{key: tmp_path / "none"})
    assert (found.verdict, words in found.found) == (FAIL, True)


def test_a_password_that_others_may_read_is_a_failure(folder: DeviceFolder, tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("right\n")
    path.chmod(0o644)
    found = broker(folder, username="device", password_file=path)
    assert (found.verdict, "others may read this password" in found.found) == (FAIL, True)
