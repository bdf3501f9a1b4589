"""From an address or the owner's settings to a connection; shared by the commands that talk to a broker."""

from __future__ import annotations

from collections.abc import Callable

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
        # paho is loaded only when there is somewhere to connect to
        from fedclient.transport.mqtt import MqttTransport  # noqa: PLC0415
        from fedclient.transport.settings import MqttSettings  # noqa: PLC0415

        own = config.broker
        settings = MqttSettings(
            broker=broker,
            client_id=client_id,
            username=own.username,
            password=own.password(),
            ca_file=_text(own.ca_file),
            certificate_file=_text(own.cert_file),
            key_file=_text(own.key_file),
            allow_plaintext=own.allow_plaintext,
            keepalive_s=own.keepalive_s,
            connect_timeout_s=own.connect_timeout_s,
            max_packet_bytes=max_packet_bytes,
            mqtt_version=5 if own.mqtt_version == "5" else 3,
        )
        return MqttTransport(settings)

    return open_transport


def nodes_opener(config: Config, max_packet_bytes: int) -> Callable[[str], Transport]:
    """Return a function (client id) -> transport to the nodes' broker."""

    def open_transport(client_id: str) -> Transport:
        from fedclient.transport.mqtt import MqttTransport  # noqa: PLC0415
        from fedclient.transport.settings import MqttSettings  # noqa: PLC0415

        own = config.nodes
        settings = MqttSettings(
            broker=own.broker,
            client_id=client_id,
            username=own.username,
            password=own.password(),
            ca_file=_text(own.ca_file),
            certificate_file=_text(own.cert_file),
            key_file=_text(own.key_file),
            allow_plaintext=own.allow_plaintext,
            keepalive_s=own.keepalive_s,
            max_packet_bytes=max_packet_bytes,
        )
        return MqttTransport(settings)

    return open_transport


def _text(path: object) -> str | None:
    return None if path is None else str(path)
