"""The owner's settings of the two brokers a device may talk to: the federation's, and that of its nodes."""

# `key` returns a dataclasses.field, and its default, a path or None, is immutable:
# ruff: noqa: RUF009

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fedclient import limits
from fedclient.errors import ConfigError, WireError
from fedclient.tomlfile import key
from fedclient.values import Broker
from fedclient.wire.topics import check_federation

DAY_S: Final = 24 * 3600


@dataclass(frozen=True, kw_only=True, slots=True)
class BrokerSettings:
    """The MQTT broker, where it differs from the invitation, and how to prove who we are."""

    host: str | None = key(None, "its name or address, in place of the invitation's")
    port: int | None = key(None, "its port; with a host and no port: 8883, or 1883 without TLS", 1, 65535)
    tls: str = key("invited", "whether to use TLS; without an invitation: on", "invited", "on", "off")
    ca_file: Path | None = key(None, "certificates to trust, PEM; none: the system's")
    cert_file: Path | None = key(None, "this client's certificate, PEM")
    key_file: Path | None = key(None, "the key of that certificate, PEM")
    username: str | None = key(None, "MQTT user name")
    password_file: Path | None = key(None, "file of mode 0600 that holds the MQTT password")
    allow_plaintext: bool = key(default=False, text="go without TLS beyond this machine")
    keepalive_s: int = key(240, "silence after which to ping; hosted brokers drop idle links", 10, 65535)
    mqtt_version: str = key("3.1.1", "protocol version", "3.1.1", "5")
    connect_timeout_s: float = key(4.0, "how long to try each address of the broker", 1, 300)
    retry_min_s: float = key(5.0, "first pause between attempts; it doubles each time", 0.1, DAY_S)
    retry_max_s: float = key(300.0, "longest pause between attempts", 0.1, DAY_S)

    def contradiction(self) -> str:
        """Say which keys do not go together, or nothing."""
        if (self.cert_file is None) != (self.key_file is None):
            return "cert_file and key_file go together: set both or neither"
        if self.password_file is not None and self.username is None:
            return "password_file needs a username"
        if self.tls == "off" and (self.ca_file or self.cert_file):
            return 'ca_file and cert_file mean nothing with tls = "off"'
        if self.retry_min_s > self.retry_max_s:
            return "retry_min_s is above retry_max_s"
        return ""

    def resolve(self, invited: Broker | None = None) -> Broker:
        """Return the broker to connect to; raises ConfigError when none is known or TLS files have no use."""
        if self.host is None and invited is None:
            raise ConfigError("no broker is known: set [broker] host")
        tls = self.tls == "on" if self.tls != "invited" else invited is None or invited.tls
        if not tls and (self.ca_file or self.cert_file):
            raise ConfigError('[broker] ca_file or cert_file is set without TLS: set tls = "on" there')
        port = self.port or (8883 if tls else 1883)
        if self.host is None and invited is not None:
            return Broker(host=invited.host, port=self.port or invited.port, tls=tls)
        return Broker(host=self.host or "", port=port, tls=tls)

    def password(self) -> str | None:
        """Read the password; raises ConfigError when others could read it too."""
        return read_password(self.password_file, "[broker] password_file")


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeSettings:
    """Microcontrollers that send samples here, over a broker of their own: never the federation's."""

    enabled: bool = key(default=False, text="listen to nodes")
    federation: str = key("local", "name in their topics")
    personal: bool = key(default=False, text="a head for each node, tuned on its samples; off: one for all")
    host: str = key("127.0.0.1", "the nodes' broker: its name or address")
    port: int | None = key(None, "its port", 1, 65535, none="8883, or 1883 without TLS")
    tls: bool = key(default=False, text="use TLS")
    ca_file: Path | None = key(None, "certificates to trust, PEM; none: the system's")
    cert_file: Path | None = key(None, "this client's certificate, PEM")
    key_file: Path | None = key(None, "the key of that certificate, PEM")
    username: str | None = key(None, "MQTT user name")
    password_file: Path | None = key(None, "file of mode 0600 that holds the MQTT password")
    allow_plaintext: bool = key(default=False, text="samples may cross the network without TLS")
    keepalive_s: int = key(240, "silence after which to ping", 10, 65535)
    max_message_bytes: int = key(4096, "largest sample, as a message", 64, limits.MAX_NODE_SAMPLE_BYTES)
    max_per_second: float = key(50.0, "messages stored of one node, beyond 1,024 at once", 0.001, 10**6)
    max_samples: int = key(10_000, "samples kept of one node; beyond it its oldest go", 1, 10**8)

    def contradiction(self) -> str:
        """Say which keys do not go together, or nothing."""
        try:
            check_federation(self.federation)
        except WireError as error:
            return str(error)
        if (self.cert_file is None) != (self.key_file is None):
            return "cert_file and key_file go together: set both or neither"
        if self.password_file is not None and self.username is None:
            return "password_file needs a username"
        return "ca_file and cert_file mean nothing without tls" if self._useless_files() else ""

    def _useless_files(self) -> bool:
        return not self.tls and (self.ca_file or self.cert_file) is not None

    @property
    def broker(self) -> Broker:
        """The nodes' broker."""
        return Broker(host=self.host, port=self.port or (8883 if self.tls else 1883), tls=self.tls)

    def password(self) -> str | None:
        """Read the password; raises ConfigError when others could read it too."""
        return read_password(self.password_file, "[nodes] password_file")


def read_password(path: Path | None, named: str) -> str | None:
    """Return what the file holds; raises ConfigError when it cannot be read, or by others too."""
    if path is None:
        return None
    try:
        mode = path.stat().st_mode & 0o777
        if mode & 0o077:
            raise ConfigError(f"{path}: others may read this password (mode {mode:04o}): chmod 0600 it")
        return path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path}: {named} cannot be read: {reason}") from error
