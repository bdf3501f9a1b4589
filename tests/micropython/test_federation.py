"""Two MicroPython nodes feed a device of a federation with digits, and predict with the heads that come back.

Real MicroPython in a board's heap, two real mosquittos, real agents and a real gateway.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedclient import limits
from fedclient.config import GatewaySettings
from fedclient.model.head import write_head
from fedclient.nodes import head as heads
from fedclient.nodes.keys import Node, derive
from fedclient.nodes.messages import NodeHead, NodeSample, decode_head
from fedclient.nodes.registry import Registry
from fedclient.samples.store import SampleStore
from fedclient.testing.broker import Mosquitto
from fedclient.testing.fleet import Fleet
from fedclient.transport.base import Received
from fedclient.transport.mqtt import MqttTransport
from fedclient.transport.settings import MqttSettings
from fedclient.values import Broker, Codec, Plan
from fedclient.wire.topics import NodeTopics
from tests.micropython.conftest import HEAP, PROGRAMS, environment

DIGITS = Path(__file__).parents[2] / "fedclient" / "testing" / "data" / "digits.npz"
SCALE = 0.0625
ROWS = 120  # samples of a node: it sends them, and predicts each with each head
TOPICS = NodeTopics("local")
PLAN = Plan(epochs=2, batch_size=16, learning_rate=0.2, codec=Codec(density=0.2))


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Return pixels less their mean and over their deviation, as int8 with SCALE; and labels."""
    with np.load(DIGITS) as file:
        x, y = file["x"].reshape(len(file["y"]), -1).astype(np.float64), file["y"]
    shown = (x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 0.1)
    return np.clip(np.rint(shown / SCALE), -127, 127).astype(np.int8), y


class Listener:
    """Keeps every head that is sent to a node, by its version."""

    def __init__(self, node: Node, port: int) -> None:
        self._node, self._topic = node, TOPICS.head(node.name)
        broker = Broker(host="127.0.0.1", port=port, tls=False)
        self._transport = MqttTransport(MqttSettings(broker=broker, client_id=f"listener-{node.name}"))
        self._transport.connect(0.0)
        while not self._transport.connected:
            self._transport.service(self._transport.interests(), 0.0)
        self._transport.subscribe(self._topic)
        self.heads: dict[tuple[int, int, int], NodeHead] = {}

    def listen(self) -> None:
        for event in self._transport.service(self._transport.interests(), 0.0):
            if isinstance(event, Received):
                assert self._node.secret is not None
                key = derive(self._node.secret, self._node.generation).down
                head = decode_head(key.open(self._topic, event.payload, limits.MAX_NODE_HEAD_BYTES))
                version = head.version.generation, head.version.version, head.version.revision
                self.heads[version] = head

    def close(self) -> None:
        self._transport.close()


class Board:
    """A node as a process: what it printed."""

    def __init__(self, interpreter: str, flash: Path, asked: dict[str, Any]) -> None:
        flash.mkdir()
        (flash / "rows").write_bytes(asked.pop("data"))
        (flash / "asked.json").write_text(json.dumps({**asked, "file": "rows"}))
        self._log = flash / "log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [interpreter, "-X", f"heapsize={HEAP}", str(PROGRAMS / "rows.py"), "asked.json"],
                cwd=flash, env=environment(), stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def said(self, kind: str) -> list[list[Any]]:
        assert self.process.poll() is None, self._log.read_text()
        whole = self._log.read_text().rpartition("\n")[0].splitlines()
        return [found[1:] for found in map(json.loads, whole) if found[0] == kind]


@pytest.fixture
def brokers(mosquitto: str) -> Iterator[tuple[Mosquitto, Mosquitto]]:
    with Mosquitto(mosquitto) as ours, Mosquitto(mosquitto) as theirs:
        yield ours, theirs


def test_digits_of_two_nodes_train_in_a_federation_and_its_heads_predict_on_them(
    micropython: str, brokers: tuple[Mosquitto, Mosquitto], tmp_path: Path
) -> None:
    x, y = digits()
    ours, theirs = brokers
    federation = Broker(host="127.0.0.1", port=theirs.port, tls=False)
    gateway = GatewaySettings(cohort=4, min_devices=3, deadline_s=2.0)
    with ExitStack() as stack, Fleet(tmp_path / "fleet", federation, gateway) as fleet:
        fleet.publish(write_head(x.shape[1], 10), PLAN)
        for number in range(3):
            rows = slice(300 + 200 * number, 500 + 200 * number)
            fleet.add_device((x[rows] * np.float32(SCALE)), y[rows].tolist())
        shed = fleet.add_device([], [])
        # Heads for nodes are made while nobody trains or judges: rounds that follow at once leave no time.
        for settings in fleet.root.glob("device-*.toml"):
            settings.write_text(settings.read_text().replace("min_spacing_s = 0.0", "min_spacing_s = 5.0"))
        settings = fleet.root / "device-4.toml"
        settings.write_text(f"{settings.read_text()}\n[nodes]\nenabled = true\nport = {ours.port}\n")
        registry = Registry(shed.folder.nodes)
        nodes = [registry.add("barn"), registry.add("shed")]
        listeners = [Listener(node, ours.port) for node in nodes]
        for listener in listeners:
            stack.callback(listener.close)
        boards = []
        for at, node in enumerate(nodes):
            mine = slice(ROWS * at, ROWS * (at + 1))
            assert node.secret is not None
            asked = {
                "settings": {
                    "federation": "local", "node": node.name, "generation": 1, "secret": node.secret.hex(),
                    "host": "127.0.0.1", "port": ours.port, "tls": False,
                },
                "data": np.hstack([x[mine], y[mine, None].astype(np.int8)]).tobytes(),
                "values": x.shape[1], "scale": SCALE, "rows": ROWS, "predict": ROWS,
            }  # fmt: skip
            boards.append(Board(micropython, tmp_path / node.name, asked))
            stack.callback(boards[-1].process.wait)
            stack.callback(boards[-1].process.kill)
        fleet.start()

        def enough() -> bool:
            for listener in listeners:
                listener.listen()
            trained = any(device == shed.id for device, _ in fleet.counted())
            later = all(board.said("head") and board.said("head")[-1][0][1] >= 2 for board in boards)
            return trained and later and all(board.said("settled") for board in boards)

        fleet.wait_until(enough, 120, "heads of what the nodes sent")
        for listener in listeners:
            listener.listen()
        compared = 0
        for at, (board, listener) in enumerate(zip(boards, listeners, strict=True)):
            for version, found in board.said("head"):
                head = listener.heads[tuple(version)]
                compared += len(found)
                assert found == [heads.predict(head, sample(x[ROWS * at + one])) for one in range(ROWS)]
            right = sum(a == b for a, b in zip(board.said("head")[-1][1], y[ROWS * at :], strict=False))
            print(f"{nodes[at].name}: {right} of {ROWS} right with its last head")
        print(f"{compared} predictions equal, {len(fleet.rounds())} versions")
        with SampleStore(shed.folder.samples) as store:
            stored = [bytes(one.array.data) for one in store.read(range(1, 10_000))]
        wanted = [(one * np.float32(SCALE)).tobytes() for one in x[: 2 * ROWS]]
        assert sorted(stored) == sorted(wanted)


def sample(row: np.ndarray) -> NodeSample:
    return NodeSample(nonce=bytes(8), counter=1, dtype="int8", data=row.tobytes(), scale=SCALE)
