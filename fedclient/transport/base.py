"""What a transport is: MQTT 3.1.1 semantics, driven by its owner's selector loop.

    connect -> Connected -> subscribe, publish -> Received, Delivered ... -> Disconnected

The owner waits on `interests()` until `deadline_s()`, then calls `service()`, which does what
is due and returns what happened.  Rules for both sides:

- One connection at a time, always a clean session: after `Connected` the owner subscribes again
  and offers again whatever has no receipt.  Message ids hold until the next `Disconnected`.
- Nothing reconnects by itself.  Every failure is a `Disconnected` with a sentence.
- Any message may come twice, and a `Delivered` proves nothing (PROTOCOL 4.3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Collection
    from contextlib import AbstractContextManager


@dataclass(frozen=True, kw_only=True, slots=True)
class Connected:
    """The broker accepted the connection; it remembers nothing of an earlier one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Disconnected:
    """The connection, or the attempt at one, has ended."""

    reason: str  # one sentence for the operator


@dataclass(frozen=True, kw_only=True, slots=True)
class Received:
    """A message on a topic that was subscribed to."""

    topic: str
    payload: bytes
    retained: bool  # the broker had it before the subscription
    wire_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivered:
    """The broker's PUBACK; good for flow control only."""

    message_id: int


Event: TypeAlias = Connected | Disconnected | Received | Delivered


@dataclass(frozen=True, kw_only=True, slots=True)
class Will:
    """What the broker publishes, retained, when the connection ends without a DISCONNECT."""

    topic: str
    payload: bytes


class Transport(Protocol):
    """One client of one broker."""

    @property
    def connected(self) -> bool:
        """Whether the broker has accepted, and nothing has ended it since."""

    @property
    def sent_bytes(self) -> int:
        """MQTT bytes written so far, every packet and header included, TLS and TCP not."""

    @property
    def received_bytes(self) -> int:
        """MQTT bytes read so far."""

    def connect(self, now_s: float, *, will: Will | None = None) -> None:
        """Start one attempt, ending any connection; how it went is an event of `service`.

        `will` is this one connection's: the next has its own or none.
        Raises ConfigError for settings that cannot work.
        """

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> int:
        """Send a message and return its id; an empty retained one clears the topic.

        Raises Unreachable when not connected, ConfigError when the broker has said that it
        takes no message of this size.
        """

    def together(self) -> AbstractContextManager[None]:
        """Send what is published inside as one write, at the end of it."""

    def subscribe(self, topic_filter: str) -> None:
        """Ask for a topic or a pattern with QoS 1.  Raises Unreachable when not connected."""

    def unsubscribe(self, topic_filter: str) -> None:
        """Ask for no more of it.  Raises Unreachable when not connected."""

    def interests(self) -> dict[int, int]:
        """Which file descriptors to wait for, and for which `selectors` events."""

    def deadline_s(self) -> float | None:
        """CLOCK_BOOTTIME instant by which to call `service` even if no descriptor is ready."""

    def service(self, ready: Collection[int], now_s: float) -> list[Event]:
        """Read, write and keep alive what is due; return what happened, in order."""

    def close(self) -> None:
        """End the connection with a DISCONNECT; no event follows."""


def packet_bytes(remaining: int) -> int:
    """Size of an MQTT packet with `remaining` bytes after its fixed header (MQTT 3.1.1, 2.2)."""
    length_bytes = 1 + sum(remaining >= bound for bound in (1 << 7, 1 << 14, 1 << 21))
    return 1 + length_bytes + remaining


def publish_wire_bytes(topic: str, payload_len: int, qos: int) -> int:
    """Size of a whole PUBLISH packet (MQTT 3.1.1, 3.3): topic, message id if any, payload."""
    return packet_bytes(2 + len(topic.encode()) + (2 if qos else 0) + payload_len)
