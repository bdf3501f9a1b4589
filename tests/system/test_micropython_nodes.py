"""Nodes on real MicroPython, the real agent and mosquitto, as processes: kills at seeded moments, heads."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from fedclient import limits
from fedclient.device.slots import Slots
from fedclient.nodes import head as heads
from fedclient.nodes.keys import derive
from fedclient.nodes.messages import NodeSample, decode_head
from fedclient.samples.store import SampleStore
from fedclient.testing.broker import Mosquitto
from fedclient.values import HeadVersion
from tests.micropython.conftest import HEAP, PROGRAMS, environment, tool
from tests.micropython.test_node import Running
from tests.system.test_nodes import Shed
from tests.trainer.setup import FEATURES
from tests.trainer.test_node_heads import trained


class Board:
    """One node: its flash, its lives, and what it saw settled in all of them."""

    def __init__(self, interpreter: str, shed: Shed, name: str, path: Path) -> None:
        self.interpreter, self.name, self.flash = interpreter, name, path / name
        self.flash.mkdir()
        shed.ask("nodes", "add", name)
        self.settings = json.loads(shed.ask("nodes", "export-secrets", name))
        (self.flash / "node.json").write_text(json.dumps(self.settings))
        self.life = 0
        self.running: Running | None = None
        self.settled: set[tuple[int, int]] = set()

    def start(self, program: str, asked: Any) -> Running:
        (self.flash / "asked.json").write_text(json.dumps(asked))
        process = subprocess.Popen(
            [self.interpreter, "-X", f"heapsize={HEAP}", str(PROGRAMS / program), "asked.json"],
            cwd=self.flash,
            env=environment(),
            stdout=subprocess.PIPE,
            text=True,
        )
        self.running = Running(process)
        return self.running

    def stream(self, most: int = 100_000) -> Running:
        self.life += 1
        asked = {"settings": self.settings, "life": self.life, "most": most, "ahead": 12, "capacity": 64}
        return self.start("stream.py", {**asked, "keep": False, "quiet": True, "pause_ms": 3})

    def kill(self) -> None:
        if self.running is not None:
            self.running.kill()
            self.settled |= {tuple(one) for one in self.running.of("settled")}
            self.running = None

    def wipe(self) -> None:
        for path in self.flash.glob("slot*"):
            path.unlink()


@pytest.fixture
def shed(mosquitto: str, tmp_path: Path) -> Iterator[Shed]:
    with Mosquitto(mosquitto) as broker:
        made = Shed(tmp_path, broker)
        yield made
        made.agent.kill()


@pytest.fixture
def board(shed: Shed, tmp_path: Path) -> Iterator[Callable[[str], Board]]:
    with ExitStack() as stack:

        def make(name: str) -> Board:
            made = Board(tool("micropython"), shed, name, tmp_path)
            stack.callback(made.kill)
            return made

        yield make


def stored(shed: Shed, name: str) -> list[tuple[int, int]]:
    with SampleStore(shed.bench.folder.samples) as store:
        found = [
            memoryview(one.array.data).cast("f").tolist() for one in store.read(sorted(store.of_node(name)))
        ]
    return [(int(life * 2), int(number * 2)) for life, number in found]


def test_what_a_node_saw_settled_is_stored_once_whoever_is_killed(
    shed: Shed, board: Callable[[str], Board], thorough: bool
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    shed.agent.start()
    boards = [board("barn"), board("porch")]
    for one in boards:
        one.stream()
    victims = ["node", "agent", "broker"] * (20 if thorough else 3)
    chance.shuffle(victims)
    killed = 0
    for victim in victims:
        one = chance.choice(boards)
        assert one.running is not None
        goal = len(one.running.of("settled")) + chance.randrange(1, 16)
        one.running.until(lambda said, goal=goal: sum(each[0] == "settled" for each in said) >= goal)
        if victim == "agent":
            shed.agent.kill()
            shed.agent.start()
        elif victim == "broker":
            shed.broker.kill()
            shed.broker.restart()
        else:
            one.kill()
            if killed % 2 == 0:  # the first, and every other
                one.wipe()
            killed += 1
            one.stream()
    for one in boards:
        one.kill()
    for last in [one.stream(most=5) for one in boards]:
        last.until(lambda said: any(each[0] == "done" for each in said))
    for one in boards:
        one.kill()
    assert shed.agent.stop() == 0
    for one in boards:
        there = stored(shed, one.name)
        print(f"{one.name}: {one.life} lives, {len(one.settled)} seen settled, {len(there)} stored")
        assert len(there) == len(set(there)), "stored twice"
        assert one.settled <= set(there), "settled and lost"


def test_two_nodes_get_the_adopted_head_and_predict_as_the_device_does(
    shed: Shed, board: Callable[[str], Board]
) -> None:
    chance = random.Random(6)
    samples = [
        ([chance.randrange(-128, 128) for _ in range(FEATURES)], chance.randrange(3)) for _ in range(60)
    ]
    boards = [board("barn"), board("porch")]
    head = trained(shed.bench.model)
    manifest = shed.bench.publish(HeadVersion(1, 3), head=head.tobytes())
    Slots(shed.bench.folder.current).adopt(manifest, shed.bench.model, head.tobytes())
    shed.agent.start()
    for one in boards:
        running = one.start("predicting.py", samples)
        running.until(lambda said: {each[0] for each in said} >= {"settled", "head"})
        ((version, outputs, classes),) = running.of("head")
        assert version[:2] == [1, 3]
        made = decode_head(taken(one))
        wanted = [sample(values) for values, _ in samples]
        assert outputs == [heads.outputs(made, each) for each in wanted]
        assert classes == [heads.predict(made, each) for each in wanted]
        assert len(set(classes)) > 1, "a head that says one thing proves nothing"
    assert shed.status()["nodes"]["samples"] == 120
    assert shed.agent.stop() == 0


def sample(values: list[int]) -> NodeSample:
    data = bytes(one & 0xFF for one in values)
    return NodeSample(nonce=bytes(8), counter=1, dtype="int8", data=data, scale=0.0625)


def taken(one: Board) -> bytes:
    """Return the body of the head in a node's flash, whose tag is checked."""
    keys = derive(bytes.fromhex(one.settings["secret"]), one.settings["generation"])
    topic = f"fl/v1/{one.settings['federation']}/node/{one.name}/head"
    return keys.down.open(topic, (one.flash / "head").read_bytes(), limits.MAX_NODE_HEAD_BYTES)
