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

from fedclient.samples.store import SampleStore
from fedclient.testing.broker import Mosquitto
from tests.micropython.conftest import HEAP, PROGRAMS, environment, tool
from tests.micropython.test_node import Running
from tests.system.test_nodes import Shed


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
