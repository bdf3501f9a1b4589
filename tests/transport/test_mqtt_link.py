"""What the link adds to paho: few calls of the system for many messages, and nothing out of order."""

from __future__ import annotations

import selectors
import struct
from collections.abc import Iterator

import pytest
from paho.mqtt.client import Client

from fedclient.errors import Unreachable
from fedclient.transport import mqtt_link
from fedclient.transport.base import Connected, Disconnected, Received, publish_wire_bytes
from fedclient.transport.mqtt import MqttTransport
from tests.transport.drive import RawBroker, drive_one, publish_packet, raw_pair, serve

PUBACK = b"\x40\x02\x00\x07"  # of publish_packet's message id


@pytest.fixture
def pair() -> Iterator[tuple[RawBroker, MqttTransport]]:
    with raw_pair() as (broker, transport):
        assert serve(transport) == [Connected()]
        broker.read_rest()
        broker.got.clear()
        yield broker, transport


@pytest.fixture
def calls(monkeypatch) -> dict[str, int]:
    """How often the system was asked."""
    seen = {"_sock_recv": 0, "_sock_send": 0}

    def count(name: str) -> None:
        real = getattr(Client, name)

        def counted(self: Client, given: object) -> object:
            seen[name] += 1
            return real(self, given)

        monkeypatch.setattr(Client, name, counted)

    for name in seen:
        count(name)
    return seen


def test_many_messages_are_read_at_once_and_acknowledged_at_once(pair, calls: dict[str, int]) -> None:
    broker, transport = pair
    packets = [publish_packet("a/b", bytes([n]), 0x32) for n in range(50)]
    broker.peer.sendall(b"".join(packets))
    events = drive_one(transport, Received, count=50)
    assert [one.payload for one in events] == [bytes([n]) for n in range(50)]
    assert calls["_sock_send"] <= 2
    assert calls["_sock_recv"] <= 6  # by packets and their heads it would be 150
    assert broker.read_until(200) == 50 * PUBACK
    transport.publish("a", b"", qos=0)  # what is not said while reading leaves at once
    assert broker.read_rest()[200:] == publish_packet("a", b"")


def test_a_message_of_qos_0_is_not_acknowledged(pair) -> None:
    broker, transport = pair
    broker.peer.sendall(publish_packet("a/b", b"x", 0x31))
    (event,) = serve(transport)
    assert event == Received(
        topic="a/b", payload=b"x", retained=True, wire_bytes=publish_wire_bytes("a/b", 1, 0)
    )
    assert broker.read_rest() == b""


def test_what_is_published_together_leaves_together(pair, calls: dict[str, int]) -> None:
    broker, transport = pair
    with transport.together():
        for n in range(20):
            transport.publish("a", bytes([n]), qos=0)
        assert (calls["_sock_send"], broker.read_rest()) == (0, b"")
    assert calls["_sock_send"] == 1
    wanted = b"".join(publish_packet("a", bytes([n])) for n in range(20))
    assert broker.read_until(len(wanted)) == wanted
    transport.close()
    with transport.together(), pytest.raises(Unreachable):
        transport.publish("a", b"")


def test_nothing_overtakes_what_a_full_socket_did_not_take(pair, monkeypatch) -> None:
    broker, transport = pair
    real, room = Client._sock_send, [3, 0, 1, 0, 0, 2, 0, 5, 0]

    def little(link: Client, given: bytes) -> int:
        most = room.pop(0) if room else len(given)
        if not most:
            raise BlockingIOError
        return real(link, given[:most])

    monkeypatch.setattr(Client, "_sock_send", little)
    broker.peer.sendall(2 * publish_packet("a", b"x", 0x32))
    assert len(serve(transport)) == 2
    assert set(transport.interests().values()) == {selectors.EVENT_READ | selectors.EVENT_WRITE}
    published = publish_packet("a", b"yyy")
    transport.publish("a", b"yyy", qos=0)
    while transport._link.want_write():
        transport.service(transport.interests(), 0.0)
    assert room == []
    assert broker.read_until(8 + len(published)) == 2 * PUBACK + published


def test_a_broker_that_sends_and_does_not_read_is_left(pair, monkeypatch) -> None:
    """Else acknowledgements for it would fill the memory."""
    broker, transport = pair

    def none(_link: Client, _given: bytes) -> int:
        raise BlockingIOError

    monkeypatch.setattr(Client, "_sock_send", none)
    monkeypatch.setattr(mqtt_link, "_HELD_BYTES", 2 * len(PUBACK))
    broker.peer.sendall(2 * publish_packet("a", b"x", 0x32))
    assert len(drive_one(transport, Received, count=2)) == 2
    broker.peer.sendall(publish_packet("a", b"x", 0x32))
    end = drive_one(transport, Disconnected)[-1]
    assert "does not read what is sent to it" in end.reason


@pytest.mark.parametrize(
    ("first", "body"),
    [
        (0x32, b"\x00\x01a\x00"),  # half a message id
        (0x32, b"\x00\x05a\x00\x07"),  # a topic beyond the end
        (0x30, b"\x00"),
        (0x30, b""),
        (0x32, struct.pack("!H", 2) + b"\xff\xfe\x00\x07x"),  # no UTF-8
    ],
)
def test_a_malformed_message_ends_the_connection(pair, first: int, body: bytes) -> None:
    broker, transport = pair
    broker.peer.sendall(bytes([first, len(body)]) + body)
    (event,) = serve(transport)
    assert "is not MQTT 3.1.1" in event.reason
