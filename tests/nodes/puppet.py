"""A node of few lines, for tests of the other end: it keeps what it was not told is stored."""

from __future__ import annotations

import os
import select
import time
from contextlib import suppress

from fedclient import limits
from fedclient.errors import Unreachable
from fedclient.nodes.keys import Node, NodeKeys, derive
from fedclient.nodes.messages import Ack, NodeLabel, NodeSample, decode_ack, encode_label, encode_sample
from fedclient.transport.base import Disconnected, Event, Received, Transport
from fedclient.wire.topics import NodeTopics


class Puppet:
    """Counts from 1, as if its flash were never read; `settled` is what it saw acknowledged."""

    def __init__(self, node: Node, transport: Transport, federation: str = "local") -> None:
        assert node.secret is not None
        self.name = node.name
        self.transport = transport
        self.topics = NodeTopics(federation)
        self.keys: NodeKeys = derive(node.secret, node.generation)
        self.nonce = os.urandom(8)
        self.counter = 0
        self.kept: dict[int, tuple[str, bytes]] = {}  # counter -> topic and message
        self.settled: set[int] = set()
        self.acks: list[Ack] = []
        self.heads: list[bytes] = []

    def connect(self) -> None:
        """Connect at once, or be without a connection; only what is in memory needs no waiting."""
        self.transport.connect(0.0)
        until_s = time.monotonic() + 10
        while not self.transport.connected and time.monotonic() < until_s:
            select.select(list(self.transport.interests()), [], [], 0.05)
            if any(isinstance(one, Disconnected) for one in self._service()):
                return
        for topic in (self.topics.ack(self.name), self.topics.head(self.name)):
            self.transport.subscribe(topic)

    def sample(self, *values: int, label: int | str | None = None, scale: float = 1.0) -> int:
        self.counter += 1
        data = b"".join(value.to_bytes(2, "little", signed=True) for value in values)
        body = encode_sample(
            NodeSample(
                nonce=self.nonce, counter=self.counter, dtype="int16", data=data, scale=scale, label=label
            )
        )
        return self._keep(self.topics.sample(self.name), body)

    def label(self, of: int, label: int | str | None) -> int:
        self.counter += 1
        body = encode_label(NodeLabel(nonce=self.nonce, counter=self.counter, of=of, label=label))
        return self._keep(self.topics.label(self.name), body)

    def send(self) -> None:
        """Send all that is kept, again if need be."""
        with suppress(Unreachable):
            for topic, message in list(self.kept.values()):
                self.transport.publish(topic, message)

    def listen(self) -> None:
        for event in self._service():
            if isinstance(event, Received) and event.topic == self.topics.ack(self.name):
                key, most = self.keys.down, limits.MAX_NODE_ACK_BYTES
                self._acknowledged(decode_ack(key.open(event.topic, event.payload, most)))
            elif isinstance(event, Received) and event.topic == self.topics.head(self.name):
                self.heads.append(event.payload)

    def _service(self) -> list[Event]:
        return self.transport.service(self.transport.interests(), time.monotonic())

    def _keep(self, topic: str, body: bytes) -> int:
        self.kept[self.counter] = topic, self.keys.up.seal(topic, body)
        return self.counter

    def _acknowledged(self, ack: Ack) -> None:
        if ack.nonce != self.nonce:
            return
        self.acks.append(ack)
        named = {one for first, count in ack.ranges for one in range(first, first + count)}
        done = {one for one in self.kept if one < ack.next or one in named}
        self.settled |= done
        for one in done:
            del self.kept[one]
