"""Drives transports the way an agent's loop does, and plays a broker one byte at a time."""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence

from fedclient.transport.base import Event, Transport
from fedclient.transport.mqtt import MqttTransport
from fedclient.transport.settings import MqttSettings
from fedclient.values import Broker

CONNACK = b"\x20\x02\x00\x00"


def now_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def drive(
    transports: Sequence[Transport], until: Callable[[list[list[Event]]], bool], *, within_s: float = 20
) -> list[list[Event]]:
    """Serve all until the condition on their events holds; the events, per transport."""
    seen: list[list[Event]] = [[] for _ in transports]
    end_s = now_s() + within_s
    while not until(seen):
        last = [(len(events), str(events[-1:])[:200]) for events in seen]
        assert now_s() < end_s, f"not within {within_s} s; events so far, and the last: {last}"
        with selectors.DefaultSelector() as selector:
            for transport in transports:
                for fd, mask in transport.interests().items():
                    selector.register(fd, mask)
            due = [at for t in transports if (at := t.deadline_s()) is not None]
            wait_s = max(0.0, min([end_s, *due]) - now_s())
            ready = {key.fd for key, _ in selector.select(wait_s)}
        for transport, events in zip(transports, seen, strict=True):
            events.extend(transport.service(ready, now_s()))
    return seen


def drive_one(
    transport: Transport, kind: type[Event], *, count: int = 1, within_s: float = 20
) -> list[Event]:
    """Serve one transport until it has seen `count` events of a kind."""
    done = lambda seen: sum(isinstance(e, kind) for e in seen[0]) >= count  # noqa: E731
    return drive([transport], done, within_s=within_s)[0]


def settings(port: int, **changes: object) -> MqttSettings:
    chosen = {"broker": Broker(host="127.0.0.1", port=port), "client_id": "device", **changes}
    return MqttSettings(**chosen)  # type: ignore[arg-type]


class RawBroker:
    """A broker that sends what a test tells it to, byte for byte."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.peer: socket.socket | None = None
        self.got = bytearray()

    def accept(self, connack: bytes = CONNACK) -> bytes:
        """Take the next connection, answer its CONNECT, and return that."""
        if self.peer is not None:
            self.peer.close()
        self.listener.settimeout(5)
        self.peer, _ = self.listener.accept()
        self.peer.settimeout(5)
        connect = self.peer.recv(4096)
        self.got = bytearray(connect)
        self.peer.sendall(connack)
        return connect

    def read_until(self, size: int) -> bytes:
        """Read on until so many bytes have come on this connection, CONNECT included."""
        assert self.peer is not None
        while len(self.got) < size:
            self.got += self.peer.recv(65536)
        return bytes(self.got)

    def read_rest(self) -> bytes:
        """Read what is there now."""
        assert self.peer is not None
        self.peer.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            while data := self.peer.recv(65536):
                self.got += data
        self.peer.settimeout(5)
        return bytes(self.got)

    def reset(self) -> None:
        """End the connection with a TCP RST."""
        assert self.peer is not None
        self.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.peer.close()
        self.peer = None

    def close(self) -> None:
        if self.peer is not None:
            self.peer.close()
        self.listener.close()


@contextlib.contextmanager
def raw_pair(connack: bytes = CONNACK, **changes: object) -> Iterator[tuple[RawBroker, MqttTransport]]:
    """A raw broker and a transport whose CONNECT it has answered; nothing served yet."""
    broker = RawBroker()
    transport = MqttTransport(settings(broker.port, **changes))
    try:
        transport.connect(0.0)
        broker.accept(connack)
        yield broker, transport
    finally:
        transport.close()
        broker.close()


def serve(transport: Transport, at_s: float = 0.0) -> list[Event]:
    """Wait until bytes from the raw broker are here, then serve once at a made-up time."""
    with selectors.DefaultSelector() as selector:
        for fd in transport.interests():
            selector.register(fd, selectors.EVENT_READ)
        ready = [key.fd for key, _ in selector.select(5)]
    assert ready
    return transport.service(ready, at_s)


def length(size: int) -> bytes:
    """MQTT's variable byte integer."""
    out = bytearray()
    while True:
        size, digit = divmod(size, 128)
        out.append(digit | (0x80 if size else 0))
        if not size:
            return bytes(out)


def publish_packet(topic: str, payload: bytes, first_byte: int = 0x30) -> bytes:
    name = topic.encode()
    body = struct.pack("!H", len(name)) + name + (b"\x00\x07" if first_byte & 6 else b"") + payload
    return bytes([first_byte]) + length(len(body)) + body
