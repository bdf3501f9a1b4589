"""paho under our loop, against a broker that says exactly what a test wants it to say."""

from __future__ import annotations

import os
import selectors
import socket
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from fedclient.errors import ConfigError, Unreachable
from fedclient.limits import MAX_DEVICE_PACKET_BYTES
from fedclient.transport.base import (
    Connected,
    Delivered,
    Disconnected,
    Event,
    Received,
    Will,
    publish_wire_bytes,
)
from fedclient.transport.mqtt import MqttTransport
from fedclient.transport.mqtt_link import ANSWER_S
from tests.transport.drive import (
    CONNACK,
    RawBroker,
    drive_one,
    length,
    publish_packet,
    raw_pair,
    serve,
    settings,
)

PINGREQ, PINGRESP = b"\xc0\x00", b"\xd0\x00"
CONNACK_5 = b"\x20\x03\x00\x00\x00"


def reason(events: list[Event]) -> str:
    """The one sentence of the one Disconnected at the end."""
    assert [isinstance(event, Disconnected) for event in events].count(True) == 1
    assert isinstance(events[-1], Disconnected)
    sentence = events[-1].reason
    assert "\n" not in sentence
    assert "Traceback" not in sentence
    return sentence


# --- bytes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [3, 5])
@pytest.mark.parametrize("qos", [0, 1])
def test_every_byte_that_leaves_is_counted(version: int, qos: int) -> None:
    with raw_pair(CONNACK if version == 3 else CONNACK_5, mqtt_version=version) as (broker, transport):
        assert serve(transport) == [Connected()]
        assert transport.sent_bytes == len(broker.got)
        for size in (0, 1, 100, 118, 119, 120, 121, 16_000, 16_370, 16_371, 16_372, 16_373, 70_000):
            before = transport.sent_bytes
            transport.publish("a/b", bytes(size), qos=qos)
            packet = transport.sent_bytes - before
            assert packet == publish_wire_bytes("a/b", size + (version == 5), qos)
            assert len(broker.read_until(transport.sent_bytes)) == transport.sent_bytes
        transport.subscribe("x/#")
        transport.unsubscribe("x/#")
        transport.close()
        assert len(broker.read_rest()) == transport.sent_bytes


def test_every_byte_that_arrives_is_counted_and_told() -> None:
    with raw_pair() as (broker, transport):
        packets = [publish_packet("a/b", bytes(n), 0x32) for n in (0, 120, 121, 5000)]
        broker.peer.sendall(b"".join(packets))
        events = drive_one(transport, Received, count=4)
        assert [e.wire_bytes for e in events if isinstance(e, Received)] == list(map(len, packets))
        assert transport.received_bytes == len(CONNACK) + sum(map(len, packets))


def test_counts_go_on_over_connections() -> None:
    broker = RawBroker()
    transport = MqttTransport(settings(broker.port))
    total = 0
    for _ in range(3):
        transport.connect(0.0)
        broker.accept()
        serve(transport)
        transport.close()
        total += len(broker.read_rest())
    assert transport.sent_bytes == total
    assert transport.received_bytes == 3 * len(CONNACK)
    broker.close()


def test_a_message_may_arrive_one_byte_at_a_time() -> None:
    with raw_pair() as (broker, transport):
        assert serve(transport) == [Connected()]
        for byte in publish_packet("t", b"payload", 0x31):
            broker.peer.sendall(bytes([byte]))
            events = serve(transport)
        assert events == [Received(topic="t", payload=b"payload", retained=True, wire_bytes=12)]


def test_small_packets_leave_at_once() -> None:
    with raw_pair() as (_, transport):
        assert transport._link is not None
        assert transport._link.socket().getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


# --- the limit on what is buffered (PROTOCOL 6) ------------------------------------------------


def test_protocol_6_an_announced_packet_above_the_limit_ends_the_connection() -> None:
    announced = 200 * 1024 * 1024
    with raw_pair() as (broker, transport):
        assert serve(transport) == [Connected()]
        broker.peer.sendall(b"\x30" + length(announced) + bytes(100_000))
        tracemalloc.start()
        try:
            sentence = reason(serve(transport))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert str(announced) in sentence
        assert str(MAX_DEVICE_PACKET_BYTES) in sentence
        assert peak < 50_000
        assert not transport.connected
        assert transport.interests() == {}
        assert transport.deadline_s() is None


@pytest.mark.parametrize(("over", "kind"), [(0, Received), (1, Disconnected)])
def test_protocol_6_the_limit_is_exact(over: int, kind: type[Event]) -> None:
    with raw_pair(max_packet_bytes=5000) as (broker, transport):
        broker.peer.sendall(publish_packet("t", bytes(5000 - 3 + over)))
        assert isinstance(drive_one(transport, kind)[-1], kind)


def test_a_flood_is_handed_over_in_portions() -> None:
    with raw_pair() as (broker, transport):
        packet = publish_packet("t", bytes(90_000))
        sender = threading.Thread(target=broker.peer.sendall, args=(packet * 30,))
        sender.start()
        portions = []
        while sum(portions) < 30:
            # Due at once: TLS may hold bytes that no descriptor tells of, so none is named here.
            ready = [] if transport.deadline_s() == 1.0 else transport.interests()
            portions.append(sum(isinstance(event, Received) for event in transport.service(ready, 1.0)))
        assert max(portions) > 0
        sender.join()
        # One packet may have been begun in the portion before, and one may cross the budget.
        assert max(portions) * len(packet) < 1024 * 1024 + 2 * len(packet)


def test_qos_2_which_nobody_asked_for_is_not_hoarded() -> None:
    with raw_pair() as (broker, transport):
        broker.peer.sendall(publish_packet("t", b"x", 0x34))
        assert "QoS 2" in reason(drive_one(transport, Disconnected))


# --- time --------------------------------------------------------------------------------------


def test_a_broker_that_never_answers_is_given_up() -> None:
    broker = RawBroker()
    transport = MqttTransport(settings(broker.port))
    transport.connect(100.0)
    assert transport.deadline_s() == 100.0  # connecting took its time: look at the clock again
    assert transport.service([], 103.0) == []
    assert transport.deadline_s() == 103.0 + ANSWER_S
    assert transport.service([], 102.9 + ANSWER_S) == []
    assert "no answer" in reason(transport.service([], 103.0 + ANSWER_S))
    assert transport.deadline_s() is None
    broker.close()


def test_the_keep_alive_is_one_ping_per_silence() -> None:
    with raw_pair() as (broker, transport):
        assert serve(transport, 0.3) == [Connected()]
        assert transport.deadline_s() == 240.0  # of the CONNECT, which left first
        assert transport.service([], 239.9) == []
        assert PINGREQ not in broker.read_rest()
        assert transport.service([], 240.0) == []
        assert broker.read_rest().endswith(PINGREQ)
        assert transport.deadline_s() == 240.0 + ANSWER_S
        broker.peer.sendall(PINGRESP)
        assert serve(transport, 240.2) == []
        assert transport.deadline_s() == 240.0 + 240
        # What that costs in an idle minute: the ping, its answer and nothing else.
        assert 2 * 60 / 240 <= 4
        assert (len(PINGREQ) + len(PINGRESP)) * 60 / 240 <= 10


def test_an_unanswered_ping_ends_the_connection() -> None:
    with raw_pair() as (_, transport):
        serve(transport, 0.0)
        transport.service([], 240.0)
        assert "no answer" in reason(transport.service([], 240.0 + ANSWER_S))


def test_a_board_that_slept_asks_at_once_whether_the_broker_is_there() -> None:
    with raw_pair() as (broker, transport):
        serve(transport, 0.0)
        assert transport.service([], 80_000.0) == []
        assert broker.read_rest().endswith(PINGREQ)


def test_traffic_puts_the_ping_off_and_never_causes_one() -> None:
    with raw_pair() as (broker, transport):
        serve(transport, 0.0)
        for now in range(1, 100):
            transport.publish("t", b"x")
            broker.peer.sendall(b"\x40\x02" + now.to_bytes(2, "big"))
            assert serve(transport, float(now)) == [Delivered(message_id=now)]
        assert PINGREQ not in broker.read_rest()
        # The last publish was told no later time than that of the service before it.
        assert transport.deadline_s() == 98.0 + 240


def test_sending_alone_does_not_hide_a_dead_broker() -> None:
    with raw_pair() as (broker, transport):
        serve(transport, 0.0)
        for now in range(0, 240, 10):
            transport.service([], float(now))
            transport.publish("t", b"x", qos=0)
        transport.service([], 240.0)
        assert broker.read_rest().endswith(PINGREQ)
        assert "no answer" in reason(transport.service([], 240.0 + ANSWER_S))


# --- publishing --------------------------------------------------------------------------------


def test_hundreds_of_messages_are_in_flight_at_once() -> None:
    with raw_pair() as (broker, transport):
        serve(transport)
        ids = [transport.publish("t", bytes(100)) for _ in range(300)]
        broker.read_until(transport.sent_bytes)
        assert broker.got.count(bytes(100)) == 300
        broker.peer.sendall(b"".join(b"\x40\x02" + i.to_bytes(2, "big") for i in ids))
        events = drive_one(transport, Delivered, count=300)
        assert [e.message_id for e in events if isinstance(e, Delivered)] == ids


def test_a_socket_that_takes_no_more_is_waited_for() -> None:
    with raw_pair() as (broker, transport):
        serve(transport)
        for _ in range(100):
            transport.publish("t", bytes(90_000))
        [mask] = transport.interests().values()
        assert mask == selectors.EVENT_READ | selectors.EVENT_WRITE
        total = 15 + 100 * publish_wire_bytes("t", 90_000, 1)
        reader = threading.Thread(target=broker.read_until, args=(total,))
        reader.start()
        while transport.sent_bytes < total:
            assert transport.service(transport.interests(), 1.0) == []
        reader.join()
        assert list(transport.interests().values()) == [selectors.EVENT_READ]


def test_nothing_unacknowledged_is_sent_again_by_itself() -> None:
    broker = RawBroker()
    transport = MqttTransport(settings(broker.port))
    transport.connect(0.0)
    broker.accept()
    serve(transport)
    transport.publish("t", b"once")
    broker.reset()
    reason(serve(transport))
    assert transport.deadline_s() is None  # and it does not reconnect by itself either
    transport.connect(1.0)
    connect = broker.accept()
    assert serve(transport, 1.0) == [Connected()]
    transport.close()
    assert broker.read_rest() == connect + b"\xe0\x00"
    broker.close()


def test_a_connection_that_breaks_inside_a_call_becomes_an_event() -> None:
    with raw_pair() as (broker, transport):
        serve(transport)
        broker.reset()
        transport.publish("t", b"x")
        assert not transport.connected
        for call in (lambda: transport.publish("t", b"x"), lambda: transport.subscribe("t")):
            with pytest.raises(Unreachable):
                call()
        assert transport.deadline_s() == 0.0
        assert "check the network" in reason(transport.service([], 1.0))
        assert transport.service([], 2.0) == []


def test_without_a_connection_there_is_nothing_to_call() -> None:
    transport = MqttTransport(settings(1))
    for call in (
        lambda: transport.publish("t", b"x"),
        lambda: transport.subscribe("t"),
        lambda: transport.unsubscribe("t"),
    ):
        with pytest.raises(Unreachable, match="no connection"):
            call()
    transport.close()
    assert transport.service([], 0.0) == []
    assert (transport.interests(), transport.deadline_s()) == ({}, None)


def test_the_will_travels_with_the_connection() -> None:
    broker = RawBroker()
    transport = MqttTransport(settings(broker.port))
    transport.connect(0.0, will=Will(topic="state/d", payload=b"off"))
    connect = broker.accept()
    assert connect[9] == 0x02 | 0x04 | 0x08 | 0x20  # clean session, will, QoS 1, retained
    assert connect.endswith(b"\x00\x07state/d\x00\x03off")
    transport.close()
    broker.close()


# --- MQTT 5 ------------------------------------------------------------------------------------


def connack_5(properties: bytes) -> bytes:
    body = b"\x00\x00" + length(len(properties)) + properties
    return b"\x20" + length(len(body)) + body


def test_mqtt_5_declares_our_limit_and_honours_the_brokers() -> None:
    broker = RawBroker()
    transport = MqttTransport(settings(broker.port, mqtt_version=5, max_packet_bytes=5000))
    transport.connect(0.0)
    said = b"\x27" + (1000).to_bytes(4, "big") + b"\x13" + (60).to_bytes(2, "big")
    connect = broker.accept(connack_5(said))
    assert b"\x27" + (5000).to_bytes(4, "big") in connect
    assert serve(transport) == [Connected()]
    assert transport.deadline_s() == 60.0  # Server Keep Alive
    transport.publish("t", bytes(1000 - 3 - 3 - 2 - 1))
    with pytest.raises(ConfigError, match="1001 bytes is above the 1000"):
        transport.publish("t", bytes(1000 - 3 - 3 - 2))
    assert transport.connected
    transport.close()
    broker.close()


def test_mqtt_5_never_has_more_in_flight_than_the_broker_takes() -> None:
    with raw_pair(connack_5(b"\x21\x00\x05"), mqtt_version=5) as (broker, transport):
        serve(transport)
        ids = [transport.publish("t", b"<%d>" % number) for number in range(12)]
        broker.read_until(transport.sent_bytes)
        assert broker.got.count(b"<") == 5
        broker.peer.sendall(b"".join(b"\x40\x02" + i.to_bytes(2, "big") for i in ids[:5]))
        drive_one(transport, Delivered, count=5)
        broker.read_until(transport.sent_bytes)
        assert broker.got.count(b"<") == 10


def test_mqtt_5_says_why_the_broker_left() -> None:
    with raw_pair(CONNACK_5, mqtt_version=5) as (broker, transport):
        serve(transport)
        broker.peer.sendall(b"\xe0\x05\x8e\x03\x1f\x00\x00")  # paho 2.1 reads no shorter one
        assert "Session taken over" in reason(drive_one(transport, Disconnected))


# --- what goes wrong, in one sentence ----------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "name", "says"),
    [
        (1, None, "mqtt_version"),
        (2, None, "Client identifier not valid"),
        (3, None, "see its log"),
        (4, "ann", "does not admit the user 'ann': check user name and password"),
        (5, "ann", "does not admit the user 'ann'"),
        (5, None, "this client without a user name"),
    ],
)
def test_a_refused_connection_says_why(code: int, name: str | None, says: str) -> None:
    with raw_pair(b"\x20\x02\x00" + bytes([code]), username=name) as (broker, transport):
        sentence = reason(drive_one(transport, Disconnected))
        assert says in sentence
        assert f"127.0.0.1:{broker.port}" in sentence
        assert not transport.connected


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"", "closed the connection without an answer"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "not MQTT"),
        (b"\x20\x03\x00\x00\x00" + b"\xf0\x00", "not MQTT"),
        (b"\x20\x01\x00", "not MQTT"),
        (CONNACK + b"\x30\x05\x00\x02\xff\xfehi"[:7], "not MQTT"),
    ],
)
def test_what_is_no_broker_is_called_so(answer: bytes, says: str) -> None:
    with raw_pair(answer) as (broker, transport):
        broker.peer.shutdown(socket.SHUT_WR)
        assert says in reason(drive_one(transport, Disconnected))


def test_a_denied_subscription_is_no_silence() -> None:
    with raw_pair() as (broker, transport):
        serve(transport)
        transport.subscribe("fl/v1/x/all/manifest")
        broker.peer.sendall(b"\x90\x03\x00\x01\x80")
        assert "refused the subscription to fl/v1/x/all/manifest" in reason(serve(transport))


def test_a_broker_that_leaves_is_told_from_one_that_refuses() -> None:
    with raw_pair() as (broker, transport):
        serve(transport)
        broker.peer.close()
        broker.peer = None
        assert "second client with the id device" in reason(serve(transport))


def failed_connect(**changes: object) -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    transport = MqttTransport(settings(port, **changes))
    transport.connect(0.0)
    assert transport.deadline_s() == 0.0
    return reason(transport.service([], 0.0))


def test_nobody_listening_is_a_sentence() -> None:
    assert "nothing listens at 127.0.0.1:" in failed_connect()


@pytest.mark.parametrize(
    ("failure", "says"),
    [
        (socket.gaierror(-2, "Name or service not known"), "host name '127.0.0.1' is not known"),
        (UnicodeError("label empty"), "host name '127.0.0.1' is not known"),
        (TimeoutError("timed out"), "check the address, the network and the firewall"),
        (OSError(101, "Network is unreachable"), "(Network is unreachable): check the network"),
    ],
)
def test_a_network_that_fails_is_a_sentence(
    failure: Exception, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object, **_kwargs: object) -> None:
        raise failure

    monkeypatch.setattr(socket, "create_connection", fail)
    assert says in failed_connect()


@given(st.binary(min_size=1, max_size=60), st.sampled_from([3, 5]))
@hypothesis_settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_bytes_from_a_broker_raise_anything(junk: bytes, version: int) -> None:
    with raw_pair(CONNACK if version == 3 else CONNACK_5, mqtt_version=version) as (broker, transport):
        serve(transport)
        broker.peer.sendall(junk)
        broker.peer.shutdown(socket.SHUT_WR)
        assert reason(drive_one(transport, Disconnected))


@given(
    st.sampled_from([0x20, 0x30, 0x32, 0x40, 0x90, 0xB0, 0xD0, 0xE0]),
    st.binary(max_size=30),
    st.sampled_from([3, 5]),
)
@hypothesis_settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_malformed_packet_raises_anything(first: int, body: bytes, version: int) -> None:
    with raw_pair(CONNACK if version == 3 else CONNACK_5, mqtt_version=version) as (broker, transport):
        serve(transport)
        transport.publish("t", b"x")
        transport.subscribe("t")
        broker.peer.sendall(bytes([first]) + length(len(body)) + body)
        broker.peer.shutdown(socket.SHUT_WR)
        assert reason(drive_one(transport, Disconnected))


# --- what it costs to have it ------------------------------------------------------------------


def test_no_thread_is_started() -> None:
    with raw_pair() as (_, transport):
        before = threading.active_count()
        serve(transport)
        transport.publish("t", b"x")
        assert threading.active_count() == before


def test_importing_it_brings_no_heavy_library() -> None:
    script = "import sys, fedclient.transport.mqtt as m; print(*sys.modules)"
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert not {"numpy", "asyncio", "nacl", "sqlite3", "amqtt", "typing_extensions"} & set(
        done.stdout.split()
    )
