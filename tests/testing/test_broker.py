from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from fedclient.errors import Unreachable
from fedclient.testing.broker import EmbeddedBroker, Mosquitto, main
from fedclient.transport.base import Connected, Event, Received
from fedclient.transport.mqtt import MqttTransport
from tests.transport.drive import drive, drive_one, now_s, settings

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def admits(port: int) -> bool:
    client = MqttTransport(settings(port))
    client.connect(now_s())
    answer = drive_one(client, Connected)
    client.close()
    return answer == [Connected()]


def gone(pid: int) -> bool:
    """Whether the process has ended, or is a zombie that nobody has asked about."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_it_listens_when_start_returns(broker: EmbeddedBroker | Mosquitto) -> None:
    assert admits(broker.port)


def test_it_comes_back_on_the_same_port(broker: EmbeddedBroker | Mosquitto) -> None:
    port, pid = broker.port, broker.pid
    broker.kill()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=1)
    assert broker.restart() == port
    assert broker.pid != pid
    assert admits(port)
    assert broker.restart() == port  # running or not
    assert admits(port)


def test_a_port_in_use_is_a_sentence(broker: EmbeddedBroker | Mosquitto) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(Unreachable, match="did not start on port") as caught:
            broker.start(taken.getsockname()[1])
        assert "\n" not in str(caught.value)
        assert "in use" in str(caught.value)


def test_a_port_that_somebody_takes_meanwhile_is_left_to_them(
    broker: EmbeddedBroker | Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = broker.port
        broker.kill()
        offers = iter([taken.getsockname()[1], free])
        monkeypatch.setattr("fedclient.testing.broker._free_port", lambda: next(offers))
        assert broker.start() == free
        assert admits(free)


def test_clients_that_connect_while_others_subscribe_are_all_heard(
    broker: EmbeddedBroker | Mosquitto,
) -> None:
    keeper = MqttTransport(settings(broker.port, client_id="keeper"))
    keeper.connect(now_s())
    drive_one(keeper, Connected)
    for number in range(20):  # amqtt goes through these for each client that connects
        keeper.publish(f"kept/{number}", b"x", retain=True)
        keeper.subscribe(f"kept/{number}")
    drive_one(keeper, Received, count=20)
    clients = [MqttTransport(settings(broker.port, client_id=f"client-{n}")) for n in range(10)]
    for client in clients:
        client.connect(now_s())
    heard = drive_and_talk(keeper, clients)
    assert heard == [{b"0", b"1", b"2"}] * len(clients)
    for client in (keeper, *clients):
        client.close()


def drive_and_talk(busy: MqttTransport, clients: list[MqttTransport]) -> list[set[bytes]]:
    """Let each client, once connected, speak to itself; `busy` subscribes to one more topic in each turn."""
    greeted: set[int] = set()
    turns = iter(range(1000))

    def heard(seen: list[list[Event]]) -> list[set[bytes]]:
        own = [f"own/{number}/" for number in range(len(seen))]
        return [
            {
                event.payload
                for event in events
                if isinstance(event, Received) and event.topic.startswith(mine)
            }
            for events, mine in zip(seen, own, strict=True)
        ]

    def done(seen: list[list[Event]]) -> bool:
        busy.subscribe(f"more/{next(turns)}")
        for number, events in enumerate(seen):
            if number not in greeted and Connected() in events:
                greeted.add(number)
                for topic in range(3):
                    clients[number].subscribe(f"own/{number}/{topic}")
                    clients[number].publish(f"own/{number}/{topic}", str(topic).encode())
        return all(len(words) == 3 for words in heard(seen))

    return heard(drive(clients, done))


@pytest.mark.parametrize(
    "which", ["EmbeddedBroker()", pytest.param("Mosquitto(path)", marks=pytest.mark.mosquitto)]
)
def test_it_does_not_outlive_a_parent_that_was_killed(which: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue("mosquitto") if "path" in which else pytest.importorskip("amqtt").__name__
    script = f"""
import sys, time
from fedclient.testing.broker import EmbeddedBroker, Mosquitto
path = sys.argv[1]
broker = {which}
broker.start()
print(broker.pid, flush=True)
time.sleep(600)
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", script, path], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert not gone(pid)
    watch = os.pidfd_open(pid)
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    assert select.select([watch], [], [], 10)[0]
    os.close(watch)
    assert gone(pid)


@pytest.mark.parametrize("home", ["", "/nonexistent"])
def test_the_command_says_when_it_is_ready_and_is_quiet_after(home: str) -> None:
    pytest.importorskip("amqtt")
    with EmbeddedBroker() as other:  # for a port that is free just now
        port = other.port
    process = subprocess.Popen(
        [sys.executable, "-m", "fedclient.testing.broker", "--port", str(port)],
        env={**ENVIRONMENT, "HOME": home},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == f"listening on 127.0.0.1:{port}\n"
    assert admits(port)
    socket.create_connection(("127.0.0.1", port)).close()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert (process.returncode, out, err) == (0, "", "")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--port", "21883", "--bind", "0.0.0.0"], "loopback only"),
        (["--port", "21883", "--bind", "::"], "loopback only"),
        (["--port", "21883", "--bind", "localhost"], "does not appear to be"),
        (["--port", "0"], "from 1 to 65535"),
    ],
)
def test_anything_but_loopback_is_refused(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert says in capsys.readouterr().err
