"""Every key of [broker] reaches the connection, and what cannot work is refused before one is tried."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from fedclient import config
from fedclient.cli.broker import nodes_opener, opener, parse
from fedclient.config import BrokerSettings, NodeSettings
from fedclient.errors import ConfigError, UsageError
from fedclient.transport import settings
from fedclient.transport.mqtt import MqttTransport
from fedclient.transport.mqtt_link import Link
from fedclient.transport.settings import MqttSettings
from fedclient.values import Broker

INVITED = Broker(host="localhost", port=1883)
# the address itself comes from BrokerSettings.resolve, the pauses are the agent's
NOT_OF_A_CONNECTION = {"host", "port", "tls", "retry_min_s", "retry_max_s"}
# each key, a value that is not its default, and what of MqttSettings it must show in
EVERY_KEY = {
    "ca_file": ('"ca.pem"', "ca_file", "{folder}/ca.pem"),
    "cert_file": ('"cert.pem"', "certificate_file", "{folder}/cert.pem"),
    "key_file": ('"key.pem"', "key_file", "{folder}/key.pem"),
    "username": ('"ann"', "username", "ann"),
    "password_file": ('"secret"', "password", "pass word"),
    "allow_plaintext": ("true", "allow_plaintext", True),
    "keepalive_s": ("77", "keepalive_s", 77),
    "mqtt_version": ('"5"', "mqtt_version", 5),
    "connect_timeout_s": ("2.5", "connect_timeout_s", 2.5),
}


# of [nodes]: what makes its broker, and what is no matter of a connection
NODES_ELSEWHERE = {"enabled", "federation", "personal", "host", "port", "tls"} | {
    "max_message_bytes",
    "max_per_second",
    "max_samples",
}


def load(folder: Path, text: str = "") -> config.Config:
    (folder / "secret").write_text("pass word\n")
    (folder / "secret").chmod(0o600)
    (folder / "c.toml").write_text(f"[broker]\n{text}")
    return config.load(folder / "c.toml", {}, folder)


def opened(folder: Path, text: str = "", broker: Broker = INVITED) -> MqttSettings:
    transport = opener(load(folder, text), 1234)(broker, "device-1")
    assert isinstance(transport, MqttTransport)
    return transport._settings


def test_every_key_is_in_the_table() -> None:
    assert {one.name for one in fields(BrokerSettings)} == EVERY_KEY.keys() | NOT_OF_A_CONNECTION


def test_every_key_arrives(tmp_path: Path) -> None:
    text = "".join(f"{key} = {value}\n" for key, (value, _, _) in EVERY_KEY.items())
    tls = Broker(host="broker.example", port=8883, tls=True)
    found = opened(tmp_path, text, tls)
    assert (found.broker, found.client_id, found.max_packet_bytes) == (tls, "device-1", 1234)
    for key, (_, name, wanted) in EVERY_KEY.items():
        expected = wanted.format(folder=tmp_path) if isinstance(wanted, str) else wanted
        assert getattr(found, name) == expected, key
        default = next(one.default for one in fields(MqttSettings) if one.name == name)
        assert default != expected, f"{key}: the test shows nothing"


def test_every_key_of_nodes_arrives(tmp_path: Path) -> None:
    names = {one.name for one in fields(NodeSettings)} - NODES_ELSEWHERE
    assert names <= EVERY_KEY.keys()
    text = "".join(f"{key} = {EVERY_KEY[key][0]}\n" for key in names)
    own = load(tmp_path, f"[nodes]\nhost = 'gateway.lan'\ntls = true\n{text}")
    transport = nodes_opener(own, 1234)("device-1")
    assert isinstance(transport, MqttTransport)
    found = transport._settings
    assert found.broker == Broker(host="gateway.lan", port=8883, tls=True)
    assert (found.client_id, found.max_packet_bytes) == ("device-1", 1234)
    for key in names:
        _, name, wanted = EVERY_KEY[key]
        assert getattr(found, name) == (wanted.format(folder=tmp_path) if isinstance(wanted, str) else wanted)


def test_without_keys_the_connection_has_its_defaults(tmp_path: Path) -> None:
    wanted = MqttSettings(broker=INVITED, client_id="device-1", max_packet_bytes=1234)
    assert opened(tmp_path) == wanted


def test_connect_timeout_s_is_pahos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(Link, "connect", lambda link, *_: seen.append(link.connect_timeout))
    opener(load(tmp_path, "connect_timeout_s = 2.5"), 1234)(INVITED, "device-1").connect(0.0)
    assert seen == [2.5]


def test_plaintext_is_refused_beyond_loopback_unless_the_owner_wants_it(tmp_path: Path) -> None:
    far = Broker(host="broker.example", port=1883)
    with pytest.raises(ConfigError, match=r"broker\.example:1883 would not be encrypted"):
        opened(tmp_path, broker=far)
    assert opened(tmp_path, "allow_plaintext = true", far).broker == far
    assert opened(tmp_path, broker=Broker(host="127.0.0.1", port=1)).broker.port == 1


def test_a_password_that_others_can_read_opens_nothing(tmp_path: Path) -> None:
    own = load(tmp_path, 'username = "ann"\npassword_file = "secret"')
    (tmp_path / "secret").chmod(0o644)
    with pytest.raises(ConfigError, match="others may read this password"):
        opener(own, 1234)(INVITED, "device-1")


def test_a_password_is_read_anew_for_each_connection(tmp_path: Path) -> None:
    """An owner who changes it need not restart the agent."""
    open_transport = opener(load(tmp_path, 'username = "ann"\npassword_file = "secret"'), 1234)
    (tmp_path / "secret").write_text("another")
    transport = open_transport(INVITED, "device-1")
    assert isinstance(transport, MqttTransport)
    assert transport._settings.password == "another"


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, 301.0, float("nan")])
def test_a_timeout_that_is_none_is_refused(timeout_s: float) -> None:
    with pytest.raises(ConfigError, match="connect_timeout_s is"):
        settings.check(MqttSettings(broker=INVITED, client_id="d", connect_timeout_s=timeout_s))


@pytest.mark.parametrize(
    "address", ["localhost", ":1883", "localhost:", "localhost:0", "localhost:99999", "a:²"]
)
def test_an_address_is_host_and_port(address: str) -> None:
    with pytest.raises(UsageError, match="HOST:PORT"):
        parse(address)


def test_an_address_may_be_ipv6_and_say_tls() -> None:
    assert parse("[::1]:8883", tls=True) == Broker(host="::1", port=8883, tls=True)
