"""TLS and passwords against the real mosquitto, with certificates that openssl makes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fedclient.errors import ConfigError
from fedclient.testing.broker import Mosquitto
from fedclient.transport.base import Connected, Delivered, Disconnected, Event, Received
from fedclient.transport.mqtt import MqttTransport
from fedclient.values import Broker
from tests.transport.certificates import ANYBODY, make_pki, password_lines, tls_lines
from tests.transport.drive import drive_one, now_s, settings

pytestmark = pytest.mark.mosquitto


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def tls_broker(mosquitto: str, pki: Path) -> Iterator[Mosquitto]:
    with Mosquitto(mosquitto, config=tls_lines(pki)) as broker:
        yield broker


def over_tls(broker: Mosquitto, host: str = "localhost", **changes: object) -> MqttTransport:
    return MqttTransport(settings(1, broker=Broker(host=host, port=broker.port, tls=True), **changes))


def outcome(transport: MqttTransport, wait_for: type[Event] = Disconnected) -> Event:
    transport.connect(now_s())
    event = drive_one(transport, wait_for)[-1]
    if isinstance(event, Disconnected):
        assert "\n" not in event.reason
    return event


@pytest.mark.parametrize("version", [3, 5])
def test_messages_pass_over_tls(tls_broker: Mosquitto, pki: Path, version: int) -> None:
    transport = over_tls(tls_broker, ca_file=f"{pki}/ca.pem", mqtt_version=version)
    assert outcome(transport, Connected) == Connected()
    transport.subscribe("t")
    # Several records, and several packets in a record: TLS buffers what select() cannot see.
    for size in (0, 10, 96 * 1024, 10, 40_000):
        transport.publish("t", bytes(size))
    got = [e for e in drive_one(transport, Received, count=5) if isinstance(e, Received)]
    assert [len(e.payload) for e in got] == [0, 10, 96 * 1024, 10, 40_000]
    transport.close()


def test_a_certificate_for_another_host_is_refused(mosquitto: str, pki: Path) -> None:
    with Mosquitto(mosquitto, config=tls_lines(pki, "elsewhere")) as broker:
        event = outcome(over_tls(broker, ca_file=f"{pki}/ca.pem"))
    assert "is for another host name" in event.reason


def test_an_address_that_the_certificate_does_not_name_is_refused(tls_broker: Mosquitto, pki: Path) -> None:
    event = outcome(over_tls(tls_broker, host="127.0.0.1", ca_file=f"{pki}/ca.pem"))
    assert "is for another host name" in event.reason


@pytest.mark.parametrize("ca", ["other-ca", None])
def test_a_certificate_by_an_unknown_authority_is_refused(
    tls_broker: Mosquitto, pki: Path, ca: str | None
) -> None:
    event = outcome(over_tls(tls_broker, ca_file=ca and f"{pki}/{ca}.pem"))
    assert "is not trusted" in event.reason


def test_a_plain_port_is_not_spoken_tls_with(mosquitto: str, pki: Path) -> None:
    with Mosquitto(mosquitto) as broker:
        event = outcome(over_tls(broker, ca_file=f"{pki}/ca.pem"))
    assert f"localhost:{broker.port}" in event.reason


def test_a_tls_port_is_not_spoken_plainly_with(tls_broker: Mosquitto) -> None:
    event = outcome(MqttTransport(settings(tls_broker.port)))
    assert "check" in event.reason


def test_a_broker_may_know_its_clients_by_certificate(mosquitto: str, pki: Path) -> None:
    lines = tls_lines(pki, "server", f"cafile {pki}/ca.pem", "require_certificate true", ANYBODY)
    ca = f"{pki}/ca.pem"
    with Mosquitto(mosquitto, config=lines) as broker:
        known = {"certificate_file": f"{pki}/client.pem", "key_file": f"{pki}/client.key"}
        assert outcome(over_tls(broker, ca_file=ca, **known), Connected) == Connected()
        assert "check the client certificate" in outcome(over_tls(broker, ca_file=ca)).reason
        unknown = {"certificate_file": f"{pki}/stranger.pem", "key_file": f"{pki}/stranger.key"}
        assert "check the client certificate" in outcome(over_tls(broker, ca_file=ca, **unknown)).reason


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"ca_file": "missing.pem"}, "CA file"),
        ({"ca_file": "ca.key"}, "CA file"),
        ({"certificate_file": "missing.pem"}, "client certificate"),
        ({"certificate_file": "client.pem", "key_file": "server.key"}, "belong together"),
        ({"certificate_file": "client.pem", "key_file": "locked.key"}, "without a password"),
    ],
)
def test_files_that_cannot_work_are_refused_before_connecting(
    pki: Path, changes: dict[str, str], says: str
) -> None:
    files = {key: str(pki / name) for key, name in changes.items()}
    transport = MqttTransport(settings(1, broker=Broker(host="localhost", port=1, tls=True), **files))
    with pytest.raises(ConfigError, match=says):
        transport.connect(0.0)


@pytest.fixture
def guarded(mosquitto: str, tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker that knows ann, and lets her read only what is hers."""
    lines = password_lines(tmp_path, {"ann": "right"}, "user ann", "topic readwrite ann/#")
    with Mosquitto(mosquitto, config=lines) as broker:
        yield broker


@pytest.mark.parametrize("version", [3, 5])
def test_a_password_opens_and_a_wrong_one_does_not(guarded: Mosquitto, version: int) -> None:
    def attempt(**changes: object) -> MqttTransport:
        return MqttTransport(settings(guarded.port, mqtt_version=version, **changes))

    assert outcome(attempt(username="ann", password="right"), Connected) == Connected()
    wrong = outcome(attempt(username="ann", password="wrong")).reason
    assert "does not admit the user 'ann': check user name and password" in wrong
    assert "this client without a user name" in outcome(attempt()).reason


@pytest.mark.parametrize("version", [3, 5])
def test_a_denied_message_is_acknowledged_all_the_same(guarded: Mosquitto, version: int) -> None:
    """Why a PUBACK proves nothing (PROTOCOL 4.3)."""
    transport = MqttTransport(settings(guarded.port, username="ann", password="right", mqtt_version=version))
    assert outcome(transport, Connected) == Connected()
    transport.subscribe("#")
    denied = transport.publish("bob/x", b"not hers")
    transport.publish("ann/x", b"hers")
    events = drive_one(transport, Received)
    assert Delivered(message_id=denied) in events
    assert [e.payload for e in events if isinstance(e, Received)] == [b"hers"]
