"""MQTT over TCP or TLS: paho-mqtt without its thread and without its retries.

paho does the packets; the rest is ours, because its defaults do not fit a device:

- **Each attempt is a new paho client.**  A kept one sends unacknowledged messages again at every
  reconnect, so that an oversized one ends each connection for ever.  Retries are the outbox's.
- **Nothing is buffered that is too large** (PROTOCOL 6).  `Link._sock_recv` sees the length
  that a packet announces before paho allocates; above the limit the connection ends.
- **Keep-alive follows the owner's CLOCK_BOOTTIME**: paho's `loop_misc` counts in CLOCK_MONOTONIC,
  which stands still while a board sleeps.  A ping is due when either side has been silent for
  the keep-alive; no answer within ANSWER_S ends the connection.  240 s make 2 wake-ups and 4
  bytes in 4 minutes (about 50 with TLS), and stay below the 300 s after which many home routers
  forget an idle connection.

Connecting blocks for up to `connect_timeout_s` per address, and resolving a name for as long as
the system's resolver takes.
"""

from __future__ import annotations

import selectors
from contextlib import contextmanager
from typing import TYPE_CHECKING

from paho.mqtt.enums import MQTTErrorCode

from fedclient.errors import ConfigError, Unreachable
from fedclient.transport.base import (
    Disconnected,
    Event,
)
from fedclient.transport.mqtt_link import Link, tls_context
from fedclient.transport.settings import MqttSettings, check

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from fedclient.transport.base import Will


class MqttTransport:
    """See `base.Transport`.  Raises ConfigError for settings that cannot work."""

    def __init__(self, settings: MqttSettings) -> None:
        self._settings = check(settings)
        self._link: Link | None = None
        self._past_bytes = (0, 0)  # sent and received on earlier connections

    @property
    def connected(self) -> bool:
        return self._link is not None and self._link.accepted and self._link.trouble is None

    @property
    def sent_bytes(self) -> int:
        return self._past_bytes[0] + (self._link.sent_bytes if self._link else 0)

    @property
    def received_bytes(self) -> int:
        return self._past_bytes[1] + (self._link.received_bytes if self._link else 0)

    def connect(self, now_s: float, *, will: Will | None = None) -> None:
        self.close()
        context = tls_context(self._settings) if self._settings.broker.tls else None
        self._link = Link(self._settings, now_s)
        if will is not None:
            self._link.will_set(will.topic, will.payload, qos=1, retain=True)
        self._link.open(context)

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> int:
        link = self._open_link()
        if (size := link.publish_bytes(topic, len(payload), qos)) > link.broker_max_bytes:
            raise ConfigError(
                f"a message of {size} bytes is above the {link.broker_max_bytes} that the broker at "
                f"{self._settings.address} takes: raise its maximum packet size"
            )
        info = link.publish(topic, payload, qos, retain)
        if info.rc == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE:
            raise Unreachable(
                f"{self._settings.address} left 65535 messages without acknowledgement: see the broker's log"
            )
        return info.mid

    @contextmanager
    def together(self) -> Iterator[None]:
        link = self._link
        if link is None:
            yield
            return
        link.holding = True
        try:
            yield
        finally:
            link.holding = False
            link.write()

    def subscribe(self, topic_filter: str) -> None:
        link = self._open_link()
        _, message_id = link.subscribe(topic_filter, 1)
        if message_id is not None:
            link.asked[message_id] = topic_filter

    def unsubscribe(self, topic_filter: str) -> None:
        self._open_link().unsubscribe(topic_filter)

    def interests(self) -> dict[int, int]:
        link = self._link
        if link is None or (fd := link.fd()) is None:
            return {}
        return {fd: selectors.EVENT_READ | (selectors.EVENT_WRITE if link.want_write() else 0)}

    def deadline_s(self) -> float | None:
        return None if self._link is None else self._link.due_s()

    def service(self, ready: Collection[int], now_s: float) -> list[Event]:
        if (link := self._link) is None:
            return []
        link.wake(now_s)
        if link.behind or link.fd() in ready:
            link.read()
            link.write()
        link.keep_alive()
        events, link.events = link.events, []
        if link.trouble is not None:
            events.append(Disconnected(reason=link.trouble))
            self._release()
        return events

    def close(self) -> None:
        if self._link is not None and self.connected:
            self._link.disconnect()
        self._release()

    def _release(self) -> None:
        if self._link is not None:
            self._past_bytes = (self.sent_bytes, self.received_bytes)
            self._link.end()
            self._link = None

    def _open_link(self) -> Link:
        if self._link is None or not self.connected:
            raise Unreachable(f"there is no connection to the broker at {self._settings.address} for now")
        return self._link
