"""What an MQTT connection needs, and which settings cannot work.  Pure."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fedclient.errors import ConfigError
from fedclient.limits import MAX_DEVICE_PACKET_BYTES

if TYPE_CHECKING:
    from fedclient.values import Broker


@dataclass(frozen=True, kw_only=True, slots=True)
class MqttSettings:
    """Everything one connection needs; files are paths of PEM files."""

    broker: Broker
    client_id: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: str | None = None  # None: the system's authorities
    certificate_file: str | None = None  # for a broker that knows its clients by certificate
    key_file: str | None = None  # None: the key is in the certificate file
    allow_plaintext: bool = False  # beyond loopback
    keepalive_s: int = 240
    connect_timeout_s: float = 4.0  # per address, and for as long nothing else is done
    max_packet_bytes: int = MAX_DEVICE_PACKET_BYTES
    mqtt_version: int = 3  # 3 (that is 3.1.1) or 5

    @property
    def address(self) -> str:
        """Where the broker is, for sentences."""
        return f"{self.broker.host}:{self.broker.port}"


def check(settings: MqttSettings) -> MqttSettings:
    """Return the settings, or raise ConfigError for what cannot work or would silently be ignored."""
    broker, at = settings.broker, settings.address
    if not broker.host or not 0 < broker.port < 0x10000:
        raise ConfigError(f"{at!r} is no broker: give a host name and a port from 1 to 65535")
    if "/" in broker.host or broker.host.count(":") == 1:  # an IPv6 address has two or more
        raise ConfigError(f"{broker.host!r} is no host: give a name or an address alone, the port beside it")
    if not (broker.tls or settings.allow_plaintext or is_loopback(broker.host)):
        raise ConfigError(f"the connection to {at} would not be encrypted: set tls, or allow_plaintext")
    if not broker.tls and (settings.ca_file or settings.certificate_file or settings.key_file):
        raise ConfigError(f"certificate files are set for {at}, but not tls: set tls, or remove them")
    if settings.key_file and not settings.certificate_file:
        raise ConfigError(f"a client key is set for {at}, but no client certificate: set both")
    if settings.password is not None and settings.username is None:
        raise ConfigError(f"a password is set for {at}, but no user name: set both")
    if settings.mqtt_version not in {3, 5}:
        raise ConfigError(f"mqtt_version is {settings.mqtt_version}: set 3 (that is 3.1.1) or 5")
    if not 0 < settings.keepalive_s < 0x10000:
        raise ConfigError(f"keepalive_s is {settings.keepalive_s}: set 1 to 65535 seconds")
    if not 0 < settings.connect_timeout_s <= 300:
        raise ConfigError(f"connect_timeout_s is {settings.connect_timeout_s}: set up to 300 seconds")
    return settings


def is_loopback(host: str) -> bool:
    """Tell whether a connection to this host stays on this machine, whatever a DNS says."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
