"""The small MQTT client against real mosquitto, and against a broker that is none."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Queue
from typing import Any

import paho.mqtt.client as mqtt
import pytest

from fedclient.testing.broker import Mosquitto
from tests.micropython.conftest import HEAP, PROGRAMS, environment

WAIT_S = 20


class Talk:
    """A client on MicroPython that does what it is told."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def do(self, name: str, *arguments: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([name, arguments]) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@pytest.fixture
def talk(micropython: str, tmp_path: Path):
    @contextmanager
    def start(*client: Any, **asked: Any) -> Iterator[Talk]:
        (tmp_path / "talk.json").write_text(json.dumps({"client": client, **asked}))
        with subprocess.Popen(
            [micropython, "-X", f"heapsize={HEAP}", str(PROGRAMS / "talk.py"), "talk.json"],
            cwd=tmp_path,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield Talk(process)
            finally:
                process.kill()

    return start


@pytest.fixture
def listener(mosquitto: str):
    """A broker, and a peer of another make that hears everything."""
    with Mosquitto(mosquitto) as broker:
        heard: Queue[tuple[str, bytes, int, bool]] = Queue()
        subscribed = threading.Event()
        peer = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        peer.on_message = lambda _c, _u, m: heard.put((m.topic, m.payload, m.qos, m.retain))
        peer.on_subscribe = lambda *_: subscribed.set()
        peer.connect("127.0.0.1", broker.port)
        peer.subscribe("#", 1)
        peer.loop_start()
        assert subscribed.wait(WAIT_S)
        yield broker, peer, heard
        peer.disconnect()
        peer.loop_stop()


def test_messages_go_out_with_qos_0_and_1(talk, listener) -> None:
    broker, _, heard = listener
    large = "x" * 20_000  # the length takes three bytes
    with talk("a", "127.0.0.1", broker.port) as one:
        assert one.do("connect") is False
        one.do("publish", "t/0", "zero")
        one.do("publish", "t/1", large, False, 1)
        one.do("publish", "t/r", "kept", True, 1)
        found = [heard.get(timeout=WAIT_S) for _ in range(3)]
        assert found == [
            ("t/0", b"zero", 0, False),
            ("t/1", large.encode(), 1, False),
            ("t/r", b"kept", 1, False),
        ]
        assert one.do("disconnect") is None


def test_messages_come_in_and_one_above_the_limit_is_skipped(talk, listener) -> None:
    broker, peer, _ = listener
    with talk("a", "127.0.0.1", broker.port, limit=3000) as one:
        one.do("connect")
        one.do("subscribe", "in/#", 1)
        for qos in (0, 1):
            for size in (0, 5, 2900, 150_000, 7):  # the fourth has no room in the heap
                peer.publish(f"in/{qos}", b"y" * size, qos)
        came, skipped = one.do("listen", 10)
        assert [(topic, size) for topic, size, _ in came] == [
            (f"in/{qos}", size) for qos in (0, 1) for size in (0, 5, 2900, 7)
        ]
        assert skipped == 2
        # All were acknowledged: the connection goes on.
        peer.publish("in/1", b"last", 1)
        assert one.do("listen", 11)[0][-1] == ["in/1", 4, "last"]


def test_messages_that_come_while_it_waits_for_an_answer_are_not_lost(talk, listener) -> None:
    broker, _, _ = listener
    with talk("a", "127.0.0.1", broker.port) as one:
        one.do("connect")
        one.do("subscribe", "own", 1)
        for number in range(20):
            one.do("publish", "own", str(number), False, 1)
        assert [text for *_, text in one.do("listen", 20)[0]] == [str(number) for number in range(20)]


def test_a_death_publishes_the_last_will_and_a_farewell_does_not(talk, listener) -> None:
    broker, _, heard = listener
    with talk("a", "127.0.0.1", broker.port, will=["will", "gone", True, 1]) as one:
        one.do("connect")
        one.do("disconnect")
    with talk("a", "127.0.0.1", broker.port, will=["will", "killed", False, 1]) as one:
        one.do("connect")
        one.process.kill()
        assert heard.get(timeout=WAIT_S) == ("will", b"killed", 1, False)


def test_a_ping_is_answered(talk, listener) -> None:
    broker, _, _ = listener
    with talk("a", "127.0.0.1", broker.port, options={"keepalive": 60}) as one:
        one.do("connect")
        for _ in range(2):
            one.do("ping")
            assert one.do("wait_msg") == 0xD0
        one.do("ping")
        assert one.do("ping") == "OSError('no answer to a ping',)"


def test_what_it_says_of_itself_byte_for_byte(talk) -> None:
    options = {"keepalive": 300, "user": "u", "password": "pw"}
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        talk("id", *server.getsockname(), options=options, will=["w/t", "gone", True, 1]) as one,
    ):
        said: Queue[bytes] = Queue()

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"\x20\x02\x01\x00")
                said.put(connection.recv(1000))

        threading.Thread(target=serve, daemon=True).start()
        assert one.do("connect", False) is True
        assert said.get(timeout=WAIT_S) == (
            b"\x10\x20\x00\x04MQTT\x04\xec\x01\x2c\x00\x02id\x00\x03w/t\x00\x04gone\x00\x01u\x00\x02pw"
        )


def test_a_wrong_password_is_said(talk, mosquitto: str, tmp_path: Path) -> None:
    lines = ["allow_anonymous false"]
    login = {"user": "u", "password": "p"}
    with (
        Mosquitto(mosquitto, config=lines) as broker,
        talk("a", "127.0.0.1", broker.port, options=login) as one,
    ):
        assert one.do("connect") == "MQTTException(5,)"


def test_a_message_that_the_heap_has_no_room_for_is_skipped(talk, listener) -> None:
    """A retained one would end each connection again."""
    broker, peer, _ = listener
    peer.publish("in/1", b"y" * 300_000, 1, True).wait_for_publish(WAIT_S)
    with talk("a", "127.0.0.1", broker.port, limit=1_000_000) as one:
        one.do("connect")
        one.do("subscribe", "in/#", 1)
        peer.publish("in/2", b"last", 1)
        assert one.do("listen", 2) == [[["in/2", 4, "last"]], 1]


def test_a_broker_that_is_gone_or_mute_is_noticed(talk, listener) -> None:
    broker, _, _ = listener
    with talk("a", "127.0.0.1", broker.port) as one:
        one.do("connect")
        broker.kill()
        assert one.do("publish", "t", "x", False, 1).startswith("OSError")
        assert one.do("connect").startswith("OSError")
    with socket.create_server(("127.0.0.1", 0)) as mute, talk("a", "127.0.0.1", mute.getsockname()[1]) as one:
        assert one.do("connect", True, 0.2).startswith("OSError")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n",
        b"\x20\x02\x00\x00" + b"\x30\xff\xff\xff\xff\xff",  # a length of five bytes
        b"\x20\x02\x00\x00" + b"\x30\x03\x00\x09a",  # a topic longer than its packet
        b"\x20\x02\x00\x00" + b"\x34\x05\x00\x01a\x00\x01",  # QoS 2
        b"\x20\x02\x00\x00" + b"\x40\xff\xff\xff\x7f",  # an answer of 256 MiB
    ],
)
def test_a_broker_that_is_none_ends_in_an_oserror(talk, answer: bytes) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        talk("a", "127.0.0.1", server.getsockname()[1]) as one,
    ):

        def serve() -> None:
            connection, _ = server.accept()
            with connection, suppress(OSError):
                connection.sendall(answer)
                while connection.recv(1000):
                    connection.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        said = [one.do("connect"), one.do("wait_msg")]
        assert any(str(each).startswith("OSError") for each in said), said
        one.process.kill()
        thread.join(WAIT_S)


def flood(connection: socket.socket) -> None:
    while True:
        connection.sendall(b"\x30\x06\x00\x01tabc" * 100)


def drip(connection: socket.socket) -> None:
    for byte in b"\x30\xff\xff\xff\x7f" + bytes(1000):  # which is skipped
        connection.sendall(bytes([byte]))
        time.sleep(0.02)


def drip_one_that_fits(connection: socket.socket) -> None:
    for byte in b"\x30\xe8\x07\x00\x01t" + bytes(300):  # and never all of it
        connection.sendall(bytes([byte]))
        time.sleep(0.02)


@pytest.mark.parametrize("say", [flood, drip, drip_one_that_fits])
def test_no_call_takes_longer_than_its_patience_whatever_the_broker_sends(talk, say) -> None:
    limit = 2000 if say is drip_one_that_fits else 5
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        talk("a", "127.0.0.1", server.getsockname()[1], limit=limit, patience=300) as one,
    ):

        def serve() -> None:
            connection, _ = server.accept()
            with connection, suppress(OSError):
                connection.sendall(b"\x20\x02\x00\x00")
                say(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        assert one.do("connect") is False
        assert one.do("publish", "t", "x", False, 1) == "OSError('the broker does not come to an end',)"
        one.process.kill()
        thread.join(WAIT_S)


def test_a_broker_that_reads_nothing_is_left(talk) -> None:
    """What the socket does not take is waited for, and not for ever."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        talk("a", "127.0.0.1", server.getsockname()[1], patience=300) as one,
    ):
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)

        def serve() -> None:
            connection, _ = server.accept()
            connection.sendall(b"\x20\x02\x00\x00")
            held.append(connection)

        held: list[socket.socket] = []
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        assert one.do("connect") is False
        said = None
        for _ in range(2000):  # until the system's buffers are full
            said = said or one.do("publish", "t", "x" * 16000)
        assert said == "OSError('the broker does not come to an end',)"
        held[0].close()
        one.process.kill()
        thread.join(WAIT_S)
