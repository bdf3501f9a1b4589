"""One MQTT connection: paho's client, with bounds, counts and a keep-alive of ours (see `mqtt.py`)."""

from __future__ import annotations

import socket
import ssl
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, cast

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import (  # type: ignore[attr-defined]  # 2.1 has three of the name
    MQTTException,
    Properties,
)

from fedclient.errors import ConfigError
from fedclient.transport.base import (
    Connected,
    Delivered,
    Event,
    Received,
    packet_bytes,
    publish_wire_bytes,
)
from fedclient.transport.settings import MqttSettings

if TYPE_CHECKING:
    from paho.mqtt.client import DisconnectFlags, MQTTMessage
    from paho.mqtt.reasoncodes import ReasonCode

ANSWER_S: Final = 15.0  # a CONNACK or PINGRESP over a bad mobile link takes seconds, not more
_AHEAD_BYTES: Final = 16 * 1024  # read at once, where paho asks for a byte or two at a time
_READ_BUDGET_BYTES: Final = 1024 * 1024  # per service(): then the owner works on what came
_HELD_BYTES: Final = 4 * 1024 * 1024  # acknowledgements and what is sent together, for who does not read them
_NO_LIMIT: Final = 2**28 + 4  # the largest packet that MQTT can express
# What paho raises on malformed packets; 2.2 catches most of it, 2.1 does not.
_MALFORMED = (struct.error, IndexError, KeyError, TypeError, ValueError, MQTTException)


class Link(Client):
    """One connection: paho's client with exact counts, a bound on its buffer, and our keep-alive.

    `trouble` is why the connection is over; whoever finds out first says it.
    """

    def __init__(self, settings: MqttSettings, now_s: float) -> None:
        self._v5 = settings.mqtt_version == 5
        protocol = MQTTProtocolVersion.MQTTv5 if self._v5 else MQTTProtocolVersion.MQTTv311
        super().__init__(
            CallbackAPIVersion.VERSION2, settings.client_id, protocol=protocol, reconnect_on_failure=False
        )
        self.events: list[Event] = []
        self.trouble: str | None = None
        self.accepted = False
        self.behind = False  # bytes may wait that no descriptor tells of: TLS and we have buffers
        self._ahead, self._ahead_at = b"", 0  # what was received, and how much of it paho has taken
        self._held, self.holding = bytearray(), False  # what paho sends goes there first, while this is set
        self.sent_bytes = self.received_bytes = 0
        self.broker_max_bytes = _NO_LIMIT
        self.asked: dict[int, str] = {}  # subscriptions not yet acknowledged
        self._settings = settings
        self._at = settings.address
        self._now_s = self._read_s = self._write_s = now_s
        self._waiting_s: float | None = None  # since when an answer is due
        self._keepalive_s = settings.keepalive_s
        self.on_connect, self.on_disconnect = self._connack, self._over
        self.on_message, self.on_publish, self.on_subscribe = self._message, self._puback, self._suback

    def open(self, context: ssl.SSLContext | None) -> None:
        """Connect and send CONNECT; a failure is trouble."""
        settings = self._settings
        self.connect_timeout = settings.connect_timeout_s
        # A 3.1.1 broker takes what TCP carries; one with MQTT 5 says how much, in its CONNACK.
        self.max_inflight_messages_set(0xFFFF if self._v5 else 0)
        if context is not None:
            self.tls_set_context(context)
        if settings.username is not None:
            self.username_pw_set(settings.username, settings.password)
        extra: dict[str, Any] = {}
        if self._v5:
            properties = extra["properties"] = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.MaximumPacketSize = settings.max_packet_bytes
        try:
            self.connect(settings.broker.host, settings.broker.port, settings.keepalive_s, **extra)
            self._tcp_option(socket.TCP_NODELAY)
        except (OSError, UnicodeError) as error:
            self.trouble = self.trouble or why_no_connection(settings, error)

    def publish_bytes(self, topic: str, payload_len: int, qos: int) -> int:
        """Size of a PUBLISH on this connection: MQTT 5 adds an empty list of properties."""
        return publish_wire_bytes(topic, payload_len + self._v5, qos)

    def fd(self) -> int | None:
        """Return the descriptor to wait for, while there is one."""
        sock = self.socket()
        return None if sock is None or self.trouble is not None else sock.fileno()

    def wake(self, now_s: float) -> None:
        """Take over the time; the first call after connecting starts the wait for CONNACK."""
        self._now_s = now_s
        if self._waiting_s is None and not self.accepted:
            self._waiting_s = now_s

    def read(self) -> None:
        """Handle what has arrived, up to the budget."""
        self.behind = True
        end = self.received_bytes + _READ_BUDGET_BYTES
        self.holding = True
        try:
            while self.behind and self.trouble is None and self.received_bytes < end:
                self.loop_read()
                if self._in_messages:
                    self.trouble = f"{self._at} sent QoS 2, which nobody asked for: check the broker"
        except _MALFORMED:
            self.trouble = self.trouble or self._not_mqtt()
        finally:
            self.holding = False

    def write(self) -> None:
        """Send what was held while reading, as one, and then what else waits."""
        with suppress(OSError):  # it waits for its turn, or is trouble by now
            self._send_held()
        if len(self._held) > _HELD_BYTES:
            self.trouble = self.trouble or f"{self._at} does not read what is sent to it: check the broker"
        self.loop_write()

    def want_write(self) -> bool:
        return bool(self._held) or super().want_write()

    def keep_alive(self) -> None:
        """Send a ping, or give up on a broker that does not answer, when it is time."""
        if self.trouble is not None or self._now_s < self._silence_ends_s():
            return
        if self._waiting_s is None:
            self._waiting_s = self._now_s
            self._send_pingreq()
        else:
            self.trouble = f"no answer from {self._at} for {ANSWER_S:.0f} s: check the broker and the network"

    def due_s(self) -> float:
        """Return when there is something to do, ready or not: at once, or to keep alive."""
        started = self.accepted or self._waiting_s is not None
        at_once = self.events or self.behind or self.trouble is not None or not started
        return self._now_s if at_once else self._silence_ends_s()

    def _silence_ends_s(self) -> float:
        if self._waiting_s is not None:
            return self._waiting_s + ANSWER_S
        return min(self._read_s, self._write_s) + self._keepalive_s

    def end(self) -> None:
        """Close the socket, whatever state it is in."""
        self.on_disconnect = None
        if (sock := self.socket()) is not None:
            sock.close()

    def _tcp_option(self, option: int) -> None:
        """Set TCP_NODELAY once, TCP_QUICKACK after each read (tcp(7): it does not last).

        A broker that leaves Nagle's algorithm on, as mosquitto does, holds a PUBLISH that follows
        a PUBACK until the PUBACK is acknowledged: 40 ms without TCP_QUICKACK.
        """
        if (sock := cast("socket.socket | None", self.socket())) is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, 1)

    def _sock_recv(self, bufsize: int) -> bytes:
        if bufsize > self._settings.max_packet_bytes:
            self.trouble = (
                f"{self._at} announced a packet of {bufsize} bytes, above the limit of "
                f"{self._settings.max_packet_bytes}: find out who publishes it"
            )
            raise ConnectionAbortedError(self.trouble)
        if self._ahead_at == len(self._ahead):
            self._ahead, self._ahead_at = self._receive(max(bufsize, _AHEAD_BYTES)), 0
        data = self._ahead[self._ahead_at : self._ahead_at + bufsize]
        self._ahead_at += len(data)
        return data

    def _receive(self, most: int) -> bytes:
        try:
            data = super()._sock_recv(most)
        except BlockingIOError:
            self.behind = False
            self._tcp_option(socket.TCP_QUICKACK)
            raise
        except OSError as error:
            self.trouble = self.trouble or self._why_broken(error)
            raise
        self.received_bytes += len(data)
        self._read_s = self._now_s
        if self.accepted:
            self._waiting_s = None
        if not data:
            self.trouble = self._why_closed()
        return data

    def _sock_send(self, buf: bytes | bytearray) -> int:
        if self.holding:
            self._held += buf
            return len(buf)
        self._send_held()
        return self._send(buf)

    def _send_held(self) -> None:
        """Raises BlockingIOError while not all of it could be sent: nothing may overtake it."""
        while self._held:
            del self._held[: self._send(self._held)]

    def _send(self, buf: bytes | bytearray) -> int:
        try:
            size = super()._sock_send(buf)
        except BlockingIOError:
            raise
        except OSError as error:
            self.trouble = self.trouble or self._why_broken(error)
            raise
        self.sent_bytes += size
        self._write_s = self._now_s
        return size

    def _connack(
        self, _c: Client, _d: object, _f: object, reason: ReasonCode, said: Properties | None
    ) -> None:
        if reason.is_failure:
            self.trouble = self._why_refused(reason)
            return
        self.accepted = True
        self._waiting_s = None
        self._keepalive_s = getattr(said, "ServerKeepAlive", 0) or self._keepalive_s
        self.broker_max_bytes = getattr(said, "MaximumPacketSize", _NO_LIMIT)
        self._max_inflight_messages = getattr(said, "ReceiveMaximum", self._max_inflight_messages)
        self.events.append(Connected())

    def _over(self, _c: Client, _d: object, flags: DisconnectFlags, reason: ReasonCode, _p: object) -> None:
        if self.trouble is None and flags.is_disconnect_packet_from_server:
            self.trouble = f"the broker at {self._at} ended the connection ({reason}): see its log"
        self.trouble = self.trouble or self._not_mqtt()

    def _handle_publish(self) -> MQTTErrorCode:
        """Take a message as paho does, but for its logging, filters and locks: half of what it takes."""
        command, packet = self._in_packet["command"], self._in_packet["packet"]
        end, qos = 2 + int.from_bytes(packet[:2], "big"), command >> 1 & 3
        start = end + 2 * qos
        if self._v5 or qos > 1 or not 2 < end <= start <= len(packet):
            return super()._handle_publish()
        topic, payload = packet[2:end].decode(), bytes(packet[start:])
        size = packet_bytes(len(packet))
        self.events.append(
            Received(topic=topic, payload=payload, retained=bool(command & 1), wire_bytes=size)
        )
        self._held += b"\x40\x02" + packet[end:start] if qos else b""
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _message(self, _c: Client, _d: object, message: MQTTMessage) -> None:
        size = self.publish_bytes(message.topic, len(message.payload), message.qos)
        payload = bytes(message.payload)
        self.events.append(
            Received(topic=message.topic, payload=payload, retained=message.retain, wire_bytes=size)
        )

    def _puback(self, _c: Client, _d: object, message_id: int, _r: object, _p: object) -> None:
        self.events.append(Delivered(message_id=message_id))

    def _suback(self, _c: Client, _d: object, message_id: int, reasons: list[ReasonCode], _p: object) -> None:
        wanted = self.asked.pop(message_id, "a topic")
        if any(reason.is_failure for reason in reasons):
            self.trouble = f"the broker at {self._at} refused the subscription to {wanted}: allow it there"

    def _why_refused(self, reason: ReasonCode) -> str:
        name = self._settings.username
        if reason.value in {134, 135, 138, 140}:  # bad name or password, not authorised, banned, bad method
            who = "this client without a user name" if name is None else f"the user {name!r}"
            return f"the broker at {self._at} does not admit {who}: check user name and password"
        return f"the broker at {self._at} refused the connection ({reason}): see its log"

    def _why_broken(self, error: OSError) -> str:
        if self._settings.broker.tls and not self.accepted:  # TLS 1.3 refuses a client after its handshake
            return f"{self._at} ended the TLS connection ({brief(error)}): check the client certificate"
        return f"the connection to the broker at {self._at} broke ({brief(error)}): check the network"

    def _why_closed(self) -> str:
        if self.accepted:
            twin = f"a second client with the id {self._settings.client_id}"
            return f"the broker at {self._at} closed the connection: see its log, and look for {twin}"
        if self.received_bytes:
            return self._not_mqtt()
        return (
            f"{self._at} closed the connection without an answer: check that it is MQTT, and with TLS or not"
        )

    def _not_mqtt(self) -> str:
        spoken = "5" if self._v5 else "3.1.1"
        return f"what comes from {self._at} is not MQTT {spoken}: check host, port, tls and mqtt_version"


def tls_context(settings: MqttSettings) -> ssl.SSLContext:
    """Trust the CA file, or the system's authorities; chain and host name are always checked."""
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
    except OSError as error:
        raise ConfigError(
            f"the CA file {settings.ca_file} is of no use ({brief(error)}): give PEM"
        ) from error
    if settings.certificate_file is not None:
        try:
            # With no password OpenSSL would ask for one on the terminal.
            context.load_cert_chain(settings.certificate_file, settings.key_file, password="")
        except OSError as error:
            raise ConfigError(
                f"the client certificate {settings.certificate_file} and its key are of no use "
                f"({brief(error)}): give PEM files that belong together, the key without a password"
            ) from error
    return context


def brief(error: OSError | UnicodeError) -> str:
    """Return what the system says of it, in few words."""
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).lower().replace("_", " ")
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def why_no_connection(settings: MqttSettings, error: OSError | UnicodeError) -> str:
    """Return what went wrong while connecting, and what to look at."""
    at = settings.address
    match error:
        case socket.gaierror() | UnicodeError():
            return f"the host name {settings.broker.host!r} is not known: check the spelling and the DNS"
        case ConnectionRefusedError():
            return f"nothing listens at {at}: start the broker, or correct its host and port"
        case TimeoutError():
            return f"no answer from {at}: check the address, the network and the firewall"
        case ssl.SSLCertVerificationError() if error.verify_code in {62, 64}:  # X509_V_ERR_*_MISMATCH
            return f"the certificate of {at} is for another host name: connect by the name that is in it"
        case ssl.SSLCertVerificationError() if error.verify_code in {9, 10}:  # not yet, no longer valid
            return f"the certificate of {at} is not valid today ({error.verify_message}): check the clock"
        case ssl.SSLCertVerificationError():
            return (
                f"the certificate of {at} is not trusted ({error.verify_message}): set its signer's ca_file"
            )
        case ssl.SSLError():
            return f"no TLS connection with {at} ({brief(error)}): check that this port speaks TLS"
    return f"cannot reach the broker at {at} ({brief(error)}): check the network"
