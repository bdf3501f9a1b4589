"""A broker and its clients in one process: the same contract without a network.

For examples, simulations and tests that must give the same result every time: no threads, no
clock, no descriptors.  Messages wait in the receiving client until its `service` is called.
What can go wrong on a network happens on request:

    broker.stop() / start()     gone, with every retained message forgotten, and back
    broker.part(client_id)      this client is cut off until `heal`
    broker.lose = predicate     messages on such topics are acknowledged and forgotten
    MemoryBroker(duplicate=p)   a QoS 1 message comes twice with probability p, from a seed
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

from fedclient.errors import Unreachable
from fedclient.transport.base import (
    Connected,
    Delivered,
    Disconnected,
    Event,
    Received,
    Will,
    packet_bytes,
    publish_wire_bytes,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from contextlib import AbstractContextManager

_ACK_BYTES = 4  # CONNACK, PUBACK, UNSUBACK; a SUBACK carries one byte more


def matches(topic_filter: str, topic: str) -> bool:
    """Tell whether a subscription covers a topic (MQTT 3.1.1, 4.7)."""
    wanted, given = topic_filter.split("/"), topic.split("/")
    if topic.startswith("$") and wanted[0] in {"+", "#"}:
        return False
    if wanted[-1] == "#":
        wanted, given = wanted[:-1], given[: len(wanted) - 1]
    return len(wanted) == len(given) and all(
        want in ("+", level) for want, level in zip(wanted, given, strict=True)
    )


def _check_filter(topic_filter: str) -> None:
    levels = topic_filter.split("/")
    if not topic_filter or any(
        ("#" in level and (level != "#" or place != len(levels) - 1)) or ("+" in level and level != "+")
        for place, level in enumerate(levels)
    ):
        raise ValueError(f"{topic_filter!r} is no MQTT topic filter")


class MemoryBroker:
    """What the clients of one process share."""

    def __init__(self, *, seed: int = 0, duplicate: float = 0.0) -> None:
        self.lose: Callable[[str], bool] = lambda _topic: False
        self._running = True
        self._duplicate = duplicate
        self._state = seed
        self._retained: dict[str, tuple[bytes, int]] = {}
        self._clients: dict[str, MemoryTransport] = {}
        self._parted: set[str] = set()

    def stop(self) -> None:
        """Vanish as after a kill: connections end, nothing is remembered."""
        self._running = False
        self._retained.clear()
        for client in list(self._clients.values()):
            self.drop(client, "the broker in memory was stopped: start it")

    def start(self) -> None:
        """Take connections again."""
        self._running = True

    def part(self, client_id: str) -> None:
        """Cut one client off, until `heal`."""
        self._parted.add(client_id)
        if client_id in self._clients:
            self.drop(self._clients[client_id], "this client was cut off from the broker: heal it")

    def heal(self, client_id: str) -> None:
        """Let the client connect again."""
        self._parted.discard(client_id)

    def admit(self, client: MemoryTransport) -> str | None:
        """Take a client in, in place of any other with its id, or say why not."""
        if not self._running:
            return "the broker in memory is stopped: start it"
        if client.client_id in self._parted:
            return "this client is cut off from the broker: heal it"
        if old := self._clients.get(client.client_id):
            self.drop(old, f"another client connected with the id {client.client_id}: give each its own")
        self._clients[client.client_id] = client
        return None

    def drop(self, client: MemoryTransport, reason: str) -> None:
        """End a connection that the client did not end, and publish its will."""
        self.forget(client)
        client.lost(reason)
        if client.will is not None and self._running:
            self.route(client.will.topic, client.will.payload, qos=1, retain=True)

    def forget(self, client: MemoryTransport) -> None:
        """Let go of a client that said goodbye."""
        del self._clients[client.client_id]

    def route(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> None:
        """Keep a retained message, and hand a message to everybody who asked for it."""
        if self.lose(topic):
            return
        if retain:
            self._retained.pop(topic, None)
            if payload:
                self._retained[topic] = (payload, qos)
        for client in list(self._clients.values()):
            if client.wants(topic):
                for _ in range(1 + (qos and self._draw() < self._duplicate)):
                    client.deliver(topic, payload, qos=qos, retained=False)

    def greet(self, client: MemoryTransport, topic_filter: str) -> None:
        """Hand the retained messages to a new subscription."""
        for topic, (payload, qos) in self._retained.items():
            if matches(topic_filter, topic):
                client.deliver(topic, payload, qos=qos, retained=True)

    def _draw(self) -> float:
        """Return the next pseudo-random number in [0, 1): Knuth's MMIX generator."""
        self._state = (self._state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (self._state >> 11) / 2**53


class MemoryTransport:
    """A client of a `MemoryBroker`; see `base.Transport`."""

    def __init__(self, broker: MemoryBroker, client_id: str) -> None:
        self.client_id = client_id
        self.will: Will | None = None
        self.connected = False
        self.sent_bytes = 0
        self.received_bytes = 0
        self._broker = broker
        self._filters: set[str] = set()
        self._events: list[Event] = []
        self._last_id = 0
        self._now_s = 0.0

    def connect(self, now_s: float, *, will: Will | None = None) -> None:
        self.close()
        self._now_s, self.will = now_s, will
        if reason := self._broker.admit(self):
            self._events.append(Disconnected(reason=reason))
            return
        self.connected = True
        will_bytes = 4 + len(will.topic.encode()) + len(will.payload) if will else 0
        self._count(sent=packet_bytes(12 + len(self.client_id.encode()) + will_bytes), received=_ACK_BYTES)
        self._events.append(Connected())

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> int:
        self._need_connection()
        self._last_id = self._last_id % 0xFFFF + 1
        self._count(sent=publish_wire_bytes(topic, len(payload), qos), received=_ACK_BYTES if qos else 0)
        if qos:
            self._events.append(Delivered(message_id=self._last_id))
        self._broker.route(topic, payload, qos=qos, retain=retain)
        return self._last_id

    def together(self) -> AbstractContextManager[None]:
        return nullcontext()

    def subscribe(self, topic_filter: str) -> None:
        _check_filter(topic_filter)
        self._need_connection()
        self._count(sent=packet_bytes(5 + len(topic_filter.encode())), received=_ACK_BYTES + 1)
        self._filters.add(topic_filter)
        self._broker.greet(self, topic_filter)

    def unsubscribe(self, topic_filter: str) -> None:
        self._need_connection()
        self._count(sent=packet_bytes(4 + len(topic_filter.encode())), received=_ACK_BYTES)
        self._filters.discard(topic_filter)

    def interests(self) -> dict[int, int]:
        return {}

    def deadline_s(self) -> float | None:
        return self._now_s if self._events else None

    def service(self, ready: Collection[int], now_s: float) -> list[Event]:  # noqa: ARG002  no descriptors here
        self._now_s = now_s
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        if self.connected:
            self._count(sent=2, received=0)
            self._broker.forget(self)
        self.connected = False
        self._filters.clear()
        self._events.clear()

    def wants(self, topic: str) -> bool:
        """Tell whether a subscription of this client covers a topic."""
        return any(matches(topic_filter, topic) for topic_filter in self._filters)

    def deliver(self, topic: str, payload: bytes, *, qos: int, retained: bool) -> None:
        """Queue a message from the broker."""
        size = publish_wire_bytes(topic, len(payload), qos)
        self._count(sent=_ACK_BYTES if qos else 0, received=size)
        self._events.append(Received(topic=topic, payload=payload, retained=retained, wire_bytes=size))

    def lost(self, reason: str) -> None:
        """Take note that the broker ended the connection."""
        self.connected = False
        self._events.append(Disconnected(reason=reason))

    def _count(self, *, sent: int, received: int) -> None:
        self.sent_bytes += sent
        self.received_bytes += received

    def _need_connection(self) -> None:
        if not self.connected:
            raise Unreachable(
                f"client {self.client_id} is not connected to the broker in memory: connect first"
            )
