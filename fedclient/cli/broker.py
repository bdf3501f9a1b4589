"""From an address or the owner's settings to a connection; shared by the commands that talk to a broker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fedclient.brokers import BrokerSettings, NodeSettings
from fedclient.config import Config
from fedclient.errors import UsageError
from fedclient.transport.base import Transport
from fedclient.values import Broker


def parse(address: str, *, tls: bool = False) -> Broker:
    """Return the broker at HOST:PORT ([HOST]:PORT for IPv6); raises UsageError for anything else."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 0x10000:
        raise UsageError(f"--broker {address}: expected HOST:PORT, for example localhost:1883")
    return Broker(host=host, port=int(port), tls=tls)


def opener(config: Config, max_packet_bytes: int) -> Callable[[Broker, str], Transport]:
    """Return a function (broker, client id) -> transport with this config's credentials."""

    def open_transport(broker: Broker, client_id: str) -> Transport:
        own = config.broker
        more = {
            "connect_timeout_s": own.connect_timeout_s,
            "max_packet_bytes": max_packet_bytes,
            "mqtt_version": 5 if own.mqtt_version == "5" else 3,
        }
        return _transport(own, broker=broker, client_id=client_id, **more)

    return open_transport


def nodes_opener(config: Config, max_packet_bytes: int) -> Callable[[str], Transport]:
    """Return a function (client id) -> transport to the nodes' broker, with the credentials for that."""

    def open_transport(client_id: str) -> Transport:
        own = config.nodes
        return _transport(own, broker=own.broker, client_id=client_id, max_packet_bytes=max_packet_bytes)

    return open_transport


def _transport(own: BrokerSettings | NodeSettings, **more: Any) -> Transport:
    """Open one with what both brokers' settings have; the files are read now."""
    # paho is loaded only when there is somewhere to connect to
    from fedclient.transport.mqtt import MqttTransport  # noqa: PLC0415
    from fedclient.transport.settings import MqttSettings  # noqa: PLC0415

    settings = MqttSettings(
        username=own.username,
        password=own.password(),
        ca_file=_text(own.ca_file),
        certificate_file=_text(own.cert_file),
        key_file=_text(own.key_file),
        allow_plaintext=own.allow_plaintext,
        keepalive_s=own.keepalive_s,
        **more,
    )
    return MqttTransport(settings)


def _text(path: object) -> str | None:
    return None if path is None else str(path)
