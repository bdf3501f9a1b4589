"""A node on real MicroPython, in a board's heap, against real mosquitto and the device's own intake."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fedclient.nodes import head as heads
from fedclient.nodes.messages import Ack, NodeHead, NodeHeadVersion, NodeLayer, encode_ack, encode_head
from fedclient.testing.broker import Mosquitto
from tests.micropython.conftest import HEAP, PROGRAMS, environment
from tests.micropython.receiving import NODE, WAIT_S, Device, device, stored
from tests.nodes import golden

# Where mip puts it on a PC, if not elsewhere.
UMQTT = Path(os.environ.get("FEDCLIENT_UMQTT") or Path.home() / ".micropython" / "lib")


class Running:
    """A node's process, and what it printed so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.said: list[list[Any]] = []
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                if line.endswith("\n"):
                    self.said.append(json.loads(line))
                self._news.notify_all()

    def until(self, ready: Callable[[list[list[Any]]], Any]) -> Any:
        with self._news:
            assert self._news.wait_for(lambda: ready(self.said), WAIT_S), self.said[-5:]
            return ready(self.said)

    def of(self, kind: str) -> list[list[Any]]:
        with self._news:
            return [one[1:] for one in self.said if one[0] == kind]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._thread.join(WAIT_S)  # all that it said is read


@pytest.fixture
def flash(tmp_path: Path) -> Path:
    made = tmp_path / "flash"
    made.mkdir()
    return made


@pytest.fixture
def start(micropython: str, flash: Path):
    @contextmanager
    def one(port: int, life: int = 1, **asked: Any) -> Iterator[Running]:
        settings = {"format": 1, "federation": "local", "node": NODE.name, "generation": NODE.generation}
        settings |= {"secret": NODE.secret.hex(), "host": "127.0.0.1", "port": port, "tls": False}
        asked = {
            "settings": settings,
            "life": life,
            "most": 30,
            "ahead": 12,
            "capacity": 64,
            "keep": False,
        } | asked
        (flash / "asked.json").write_text(json.dumps(asked))
        process = subprocess.Popen(
            [micropython, "-X", f"heapsize={HEAP}", str(PROGRAMS / "stream.py"), "asked.json"],
            cwd=flash,
            env=environment(UMQTT),
            stdout=subprocess.PIPE,
            text=True,
        )
        with process:
            running = Running(process)
            try:
                yield running
            finally:
                running.kill()

    return one


@pytest.fixture
def broker(mosquitto: str) -> Iterator[Mosquitto]:
    with Mosquitto(mosquitto) as started:
        yield started


def done(said: list[list[Any]]) -> bool:
    return any(one[0] == "done" for one in said)


def head(version: int, rows: int = 3, columns: int = 2) -> NodeHead:
    rng = random.Random(version)
    layer = NodeLayer(
        relu=False,
        weights=rng.randbytes(rows * columns),
        scales=golden.floats(*[0.01] * rows),
        bias=golden.floats(*[0.5] * rows),
    )
    return NodeHead(
        version=NodeHeadVersion(1, version),
        layers=(layer,),
        labels=tuple(f"v{version} {n}" for n in range(rows)),
    )


def predicted(one: NodeHead) -> str:
    sample = golden.sample(1, "int16", b"\x03\x00\xfb\xff", 0.5)
    return one.labels[heads.predict(one, sample)]


def test_samples_and_labels_arrive_once_and_are_settled(start, broker, tmp_path: Path) -> None:
    with device(broker.port, tmp_path), start(broker.port) as node:
        node.until(done)
        assert node.of("settled") == [[1, number] for number in range(1, 31)]
    labels = {number: f"again {number}" if number % 4 == 0 else number % 10 for number in range(1, 31)}
    assert stored(tmp_path) == [(1, number, labels[number]) for number in range(1, 31)]


def test_a_node_waits_for_a_device_that_comes_later(start, broker, tmp_path: Path) -> None:
    with start(broker.port) as node:
        node.until(lambda said: sum(one[0] == "queued" for one in said) >= 10)
        assert not node.of("settled")
        with device(broker.port, tmp_path):
            node.until(done)
    assert len(stored(tmp_path)) == 30


def test_micropython_s_own_mqtt_client_serves_as_well(
    micropython: str, start, broker, tmp_path: Path
) -> None:
    found = subprocess.run(
        [micropython, "-c", "import umqtt.simple"], env=environment(UMQTT), capture_output=True, check=False
    )
    if found.returncode:
        pytest.skip("LEFT OUT: no umqtt.simple (micropython -m mip install umqtt.simple, or FEDCLIENT_UMQTT)")
    with device(broker.port, tmp_path), start(broker.port, client="umqtt.simple", most=60) as node:
        node.until(lambda said: sum(one[0] == "settled" for one in said) > 20)
        broker.restart()
        node.until(done)
    assert sorted(number for _, number, _ in stored(tmp_path)) == list(range(1, 61))


def test_an_old_copy_of_the_flash_loses_nothing_and_stores_nothing_twice(
    start, broker, tmp_path: Path, flash: Path
) -> None:
    with device(broker.port, tmp_path):
        for life in (1, 2, 3):
            with start(broker.port, life, most=20) as node:
                node.until(done)
            if life == 1:
                shutil.copytree(flash, tmp_path / "copy")
            elif life == 2:  # its counters are stored, and the next life's flash knows nothing of them
                shutil.rmtree(flash)
                shutil.copytree(tmp_path / "copy", flash)
    there = [(life, number) for life, number, _ in stored(tmp_path)]
    assert there == [(life, number) for life in (1, 2, 3) for number in range(1, 21)]


def test_what_is_sent_when(on_node) -> None:
    found = on_node("sending.py")
    assert found["unanswered"] == [[0, "label"]] * 3, "nothing but asking before the first answer"
    assert found["base"] == 2**20  # the first counter is 2^20 above `next`, which was 1
    counters, at, qos = zip(*found["again"], strict=True)
    assert set(counters) == set(qos) == {1}
    gaps = [after - before for before, after in itertools.pairwise(at)]
    assert all(gap >= least for gap, least in zip(gaps, (20, 20, 40, 80), strict=True)), gaps
    assert found["held"] == [5, 1028]
    assert found["released"] == [1028, 1029]
    assert found["pings"] == 1
    assert (found["refused"], found["queued"]) == (15, 0), "refused, and nothing queued"


def test_waits_go_on_where_ticks_begin_anew_and_what_is_lost_is_sent_again(on_node) -> None:
    found = on_node("waiting.py")
    at = [ms for ms, what, *_ in found["asked"] if what == "label"]
    for gap, least in zip(
        [after - before for before, after in itertools.pairwise(at)], (2000, 4000, 8000), strict=True
    ):
        assert least <= gap <= least * 1.25 + 200, at
    assert found["after a week"] == [[0, "ping"], [0, "sample", 1]]
    assert found["numbers"].count(2) == 2, "one that is lost waits for no silence behind it"
    assert found["numbers"].index(9) > 0
    connects = [ms for ms, what, *_ in found["silence"] if what == "connect"]
    assert len(connects) in (2, 3), found["silence"]
    assert all(8000 <= after - before <= 12000 for before, after in itertools.pairwise(connects))
    assert len(found["silence"]) < 15, "and it is no flood"


class Chaos:
    """Lives of a node that each end by kill -9, and what happens between them."""

    def __init__(self, seed: int, start, broker: Mosquitto, folders: tuple[Path, Path]) -> None:
        self.rng = random.Random(seed)
        self.start, self.broker = start, broker
        self.folder, self.flash = folders
        self.keep = self.rng.random() < 0.5
        self.settled: list[tuple[int, int]] = []
        self.copy = self.folder / "copy"
        self.device = Device(broker.port, self.folder)

    def life(self, number: int, *, last: bool) -> None:
        most = 20 if last else 10_000
        with self.start(self.broker.port, number, most=most, keep=self.keep, quiet=True) as node:
            if last:
                node.until(done)
            else:
                enough = self.rng.randrange(1, 60)
                node.until(lambda said: len(said) >= enough)
                self.trouble()
                enough += self.rng.randrange(60)
                node.until(lambda said: len(said) >= enough)
                time.sleep(self.rng.random() / 100)  # a random moment
            node.kill()
            self.settled += [tuple(one) for one in node.of("settled")]

    def trouble(self) -> None:
        what = self.rng.randrange(4)
        if what == 0:
            self.broker.restart()
        elif what == 1:
            self.device.stop()
            self.device = Device(self.broker.port, self.folder)

    def between(self) -> None:
        what = self.rng.randrange(5)
        slots = sorted(self.flash.glob("slot*"))
        if what == 0:
            for path in self.flash.iterdir():
                path.unlink()
        elif what == 1 and slots:
            self.rng.choice(slots).write_bytes(b"damaged")
        elif what == 2:
            shutil.rmtree(self.copy, ignore_errors=True)
            shutil.copytree(self.flash, self.copy)
        elif what == 3 and self.copy.exists():
            shutil.rmtree(self.flash)
            shutil.copytree(self.copy, self.flash)


def test_killed_at_random_moments_nothing_settled_is_lost_and_nothing_stored_twice(
    start, broker, tmp_path: Path, flash: Path, thorough: bool
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chaos = Chaos(seed, start, broker, (tmp_path, flash))
    lives = 40 if thorough else 4
    try:
        for number in range(1, lives + 1):
            chaos.life(number, last=number == lives)
            chaos.between()
    finally:
        chaos.device.stop()
    there = [(life, number) for life, number, _ in stored(tmp_path)]
    print(f"{len(there)} samples stored, {len(set(chaos.settled))} seen settled, in {lives} lives")
    assert len(there) == len(set(there)), "stored twice"
    assert not set(chaos.settled) - set(there), "settled and lost"


def test_a_file_brings_samples_over_a_power_cut(start, broker, tmp_path: Path) -> None:
    with device(broker.port, tmp_path), start(broker.port, 1, keep=True, most=5) as node:
        node.until(done)
    with start(broker.port, 2, keep=True, most=9) as node:  # nobody answers in this life
        node.until(lambda said: sum(one[0] == "queued" for one in said) == 9)
    with device(broker.port, tmp_path), start(broker.port, 3, keep=True, most=1) as node:
        node.until(done)
    lives = [life for life, *_ in stored(tmp_path)]
    assert (lives.count(1), lives.count(2), lives.count(3)) == (5, 9, 1)


def test_answers_that_are_not_for_this_boot_or_not_genuine_settle_nothing(
    start, broker, tmp_path: Path
) -> None:
    with device(broker.port, tmp_path) as other, start(broker.port, 1) as node:
        node.until(done)
        topic, replayed = [answer for answer in other.answers if answer[0].endswith("/ack")][-1]
    client = other.client
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    with start(broker.port, 2, most=10) as node:
        node.until(lambda said: sum(one[0] == "queued" for one in said) == 10)
        node.until(lambda said: any(one[0] == "boot" for one in said))
        up, down = other.receiver.keys(NODE.name).up, other.receiver.keys(NODE.name).down
        all_of_it = encode_ack(Ack(nonce=bytes(8), next=10_000))
        rng = random.Random(1)
        hostile = [
            replayed,
            down.seal(topic, all_of_it),
            up.seal(topic, all_of_it),
            down.seal(topic.replace(NODE.name, "shed-2"), all_of_it),
            replayed[:-1],
            replayed[:10],
            rng.randbytes(1537),
            rng.randbytes(200_000),
            down.seal(topic, b"\x84" + rng.randbytes(40)),
            *(flipped(replayed, rng.randrange(8 * len(replayed))) for _ in range(20)),
        ]
        node.until(lambda said: sum(one[0] == "queued" for one in said) == 10)
        deadline = time.monotonic() + WAIT_S
        while sum(count for (count,) in node.of("refused")) < len(hostile) - 1:  # one is skipped unread
            if not node.of("refused"):
                for message in hostile:
                    client.publish(topic, message, 1)
                node.until(lambda said: any(one[0] == "refused" for one in said))
            assert time.monotonic() < deadline, node.said
            time.sleep(0.01)
        assert not node.of("settled")
        client.loop_stop()
        with device(broker.port, tmp_path):
            node.until(done)
    assert len(stored(tmp_path)) == 40


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_heads_arrive_predict_alike_and_never_go_back(start, broker, tmp_path: Path, flash: Path) -> None:
    def has(version: int) -> Callable[[list[list[Any]]], bool]:
        return lambda said: ["head", [1, version, 0], predicted(head(version))] in said

    with device(broker.port, tmp_path) as there:
        there.head(head(5))
        with start(broker.port, 1, most=1) as node:
            node.until(has(5))
            there.head(head(7))
            node.until(has(7))
            there.head(head(6))
            node.until(lambda said: ["refused", 1] in said)
        # The retained one is below what the node has taken: refused again after a boot, also with the
        # newest file damaged; then it predicts with the one before.
        with start(broker.port, 2, most=1) as node:
            node.until(lambda said: ["refused", 1] in said)
            assert node.said[0][3] == [1, 7, 0]
        (flash / "head").write_bytes(flipped((flash / "head").read_bytes(), 99))
        with start(broker.port, 3, most=1) as node:
            node.until(lambda said: ["refused", 1] in said)
            assert node.said[0][3] == [1, 5, 0]
            there.head(head(7))
            node.until(has(7))
            broken = there.receiver.keys(NODE.name).down.seal(there.answers[-1][0], encode_head(head(9)))
            there.client.publish(there.answers[-1][0], flipped(broken, 200), 1)
            there.client.publish(there.answers[-1][0], bytes(5000), 1)  # above what this node reads
            there.head(head(8))
            node.until(has(8))
            assert not any(one[1] == [1, 9, 0] for one in node.said if one[0] == "head")
            there.head(head(10, columns=3))  # other nodes have other sensors
            node.until(lambda said: ["head", [1, 10, 0], None] in said)
