"""The agent's link to its gateway: one transport, and only verified messages out of it.

An enrolled device leaves a retained word on the broker for whoever looks: `online` once it listens,
`offline` when it ends, by itself or by its will.  Nothing here or at the gateway reads it.
"""

from __future__ import annotations

import logging
import selectors
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from fedclient.crypto.keys import SigningKey
from fedclient.downlink import DeviceDownlink
from fedclient.errors import ConfigError, CryptoError, Unreachable, WireError
from fedclient.transport.base import (
    Connected,
    Delivered,
    Disconnected,
    Received,
    Transport,
    Will,
    publish_wire_bytes,
)
from fedclient.uplink import DeviceUplink
from fedclient.values import Command, Invitation, Manifest, MessageType, Receipt, Status
from fedclient.wire.topics import Topics

log = logging.getLogger(__name__)

UNACKNOWLEDGED_S = 300.0  # after everything was written: a PUBACK takes seconds
MAX_COPIES = 4  # of one message without a PUBACK, on one connection
ONLINE: Final = b"online"
OFFLINE: Final = b"offline"


@dataclass(frozen=True, slots=True)
class LinkUp:
    """Connected, and subscribed to receipts, commands and the manifest."""


@dataclass(frozen=True, slots=True)
class LinkDown:
    """No connection; one sentence why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a blob, not verified yet: only a manifest's hashes can."""

    topic: str
    payload: bytes


Incoming = LinkUp | LinkDown | Receipt | Command | Manifest | Chunk


class Link:
    """What the agent sends and gets; nothing in here decides."""

    def __init__(self, invitation: Invitation, key: SigningKey, transport: Transport) -> None:
        self.topics = Topics(invitation.federation)
        self.transport = transport
        self._device_id = key.device_id
        self._receipts = self.topics.receipt(key.device_id)
        self._commands = self.topics.command(key.device_id)
        self._online = self.topics.online(key.device_id)
        self._enrolled = False  # as of the last attempt to connect
        self._uplink = DeviceUplink(
            federation=invitation.federation, key=key, gateway_sealing_key=invitation.sealing_key
        )
        self._downlink = DeviceDownlink(federation=invitation.federation, gateway_key=invitation.signing_key)
        self._complained = False  # about a bad message, on this connection
        self._complaint = ""  # the last one, on whatever connection
        self._refused = ""  # why the broker takes no message of this size
        self._now_s = 0.0
        self._pending: dict[int, tuple[MessageType, float]] = {}  # kind and time of what has no PUBACK, by id

    @property
    def connected(self) -> bool:
        return self.transport.connected

    @property
    def traffic_bytes(self) -> int:
        """MQTT bytes in both directions so far."""
        return self.transport.sent_bytes + self.transport.received_bytes

    def update_bytes(self, envelope: bytes) -> int:
        """Return what an update takes as an MQTT 3.1.1 message, all included."""
        topic = self.topics.up(self._device_id, MessageType.UPDATE)
        return publish_wire_bytes(topic, len(envelope), qos=1)

    def connect(self, now_s: float, *, enrolled: bool) -> None:
        """Start an attempt; one whose device is not enrolled leaves nothing on the broker."""
        self.close()
        self._enrolled = enrolled
        self.transport.connect(now_s, will=Will(topic=self._online, payload=OFFLINE) if enrolled else None)

    def close(self) -> None:
        """Say goodbye and end the connection; nothing is waited for.

        A broker that reads on has `offline` before the DISCONNECT that revokes the will, and one that
        does not has the will.  QoS 0: a broker's quota of unacknowledged messages cannot hold it back.
        """
        if self.connected and self._enrolled:
            with suppress(Unreachable):
                self._say(OFFLINE, qos=0)
        self.transport.close()

    def service(self, ready: Collection[int], now_s: float) -> list[Incoming]:
        """Let the transport work, and return what came that is genuine."""
        found: list[Incoming] = []
        self._now_s = now_s
        for event in self.transport.service(ready, now_s):
            if isinstance(event, Connected):
                self._complained, self._pending = False, {}
                found += self._greet()
            elif isinstance(event, Disconnected):
                found.append(LinkDown(event.reason))
            elif isinstance(event, Received):
                found += self._open(event)
            elif isinstance(event, Delivered):
                self._pending.pop(event.message_id, None)
        oldest_s = min((at_s for _, at_s in self._pending.values()), default=now_s)
        if self.connected and now_s - oldest_s > UNACKNOWLEDGED_S and not self._writing():
            self.close()
            found.append(LinkDown("the broker acknowledges nothing: see its log"))
        return found

    def _writing(self) -> bool:
        return any(events & selectors.EVENT_WRITE for events in self.transport.interests().values())

    def send(self, kind: MessageType, envelope: bytes) -> bool:
        """Publish an envelope; False where there is no connection, or no broker that takes its size.

        Copies that the broker does not take would only pile up here: then they wait, or the next connection.
        """
        copies = sum(pending is kind for pending, _ in self._pending.values())
        if self.connected and (copies >= MAX_COPIES or (copies and self._writing())):
            return True
        try:
            message_id = self.transport.publish(self.topics.up(self._device_id, kind), envelope, qos=1)
        except Unreachable:
            return False
        except ConfigError as error:  # what a broker says of itself is no reason to end
            self._refuse(str(error))
            return False
        self._pending[message_id] = kind, self._now_s
        return True

    def _refuse(self, reason: str) -> None:
        if reason != self._refused:  # once, not per attempt
            log.error("%s", reason)
        self._refused = reason

    def send_status(self, status: Status) -> bool:
        """Publish a status: nobody waits for it, so at most once."""
        try:
            topic = self.topics.up(self._device_id, MessageType.STATUS)
            self.transport.publish(topic, self._uplink.status(status), qos=0)
        except Unreachable:
            return False
        except ConfigError as error:
            self._refuse(str(error))
            return False
        return True

    def subscribe(self, topic: str) -> None:
        """Ask for a topic; without a connection it will be asked for after the next."""
        if self.connected:
            with suppress(Unreachable):  # its Disconnected is on the way
                self.transport.subscribe(topic)

    def unsubscribe(self, topic: str) -> None:
        if self.connected:
            with suppress(Unreachable):
                self.transport.unsubscribe(topic)

    def _greet(self) -> list[Incoming]:
        try:
            for topic in (self._receipts, self._commands, self.topics.manifest):
                self.transport.subscribe(topic)
            if self._enrolled:
                self._say(ONLINE, qos=1)  # who reads it may speak: we listen already
            else:
                self._say(b"", qos=0)  # nothing stays of an earlier membership
        except Unreachable:
            return []  # a LinkDown follows
        return [LinkUp()]

    def _say(self, word: bytes, *, qos: int) -> None:
        try:
            self.transport.publish(self._online, word, qos=qos, retain=True)
        except ConfigError as error:
            self._refuse(str(error))

    def _open(self, message: Received) -> list[Incoming]:
        if self.topics.parse_blob(message.topic) is not None:
            return [Chunk(message.topic, message.payload)]
        try:
            if message.topic == self._receipts:
                return [self._downlink.open_receipt(message.payload, self._device_id)]
            if message.topic == self._commands and message.payload:
                return [self._downlink.open_command(message.payload, self._device_id)]
            if message.topic == self.topics.manifest and message.payload:
                return [self._downlink.open_manifest(message.payload)]
        except (WireError, CryptoError) as error:
            self._complain(f"topic={message.topic}: {error}")
        return []

    def _complain(self, complaint: str) -> None:
        """Say it once per change and connection: a retained message comes again at each."""
        if complaint != self._complaint and not self._complained:
            log.warning("ignoring a message that is not our gateway's %s", complaint)
            self._complaint, self._complained = complaint, True
