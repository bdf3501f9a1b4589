"""A node on MicroPython: its compiled files, what it takes of a heap, the smallest it works in, its speed.

The heap is that of the unix port, whose pointers are of 64 bits: objects are up to twice those of a board.
A round is 64 samples of 64 int8 values queued, sent with QoS 1 and settled, and a head of 64 by 10 that
predicts.  `mpy`: the package compiled before, as a board with little memory should have it; `py`: as it is.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from fedclient import limits
from fedclient.nodes.keys import derive
from fedclient.nodes.messages import (
    Ack,
    Ask,
    NodeHead,
    NodeHeadVersion,
    NodeLayer,
    decode_label,
    decode_sample,
    encode_ack,
    encode_head,
)
from fedclient.nodes.window import Window
from fedclient.testing.broker import Mosquitto, find_mosquitto
from fedclient.transport.base import Received
from fedclient.transport.mqtt import MqttTransport
from fedclient.transport.settings import MqttSettings
from fedclient.values import Broker
from fedclient.wire.topics import NodeTopics

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "examples" / "micropython" / "fednode"
PROGRAM, SPEED, WAKES = (Path(__file__).with_name(f"on_board{name}.py") for name in ("", "_speed", "_wakes"))
MARCHES = ("armv6m", "xtensawin")  # of a Pico, of an ESP32
TOPICS = NodeTopics("local")
NODE, SECRET = "bench", bytes(32)


def measure(step_kib: int = 4) -> dict[str, Any] | None:
    """Return the figures, or None where the interpreter, the compiler or the broker is missing."""
    interpreter, compiler, mosquitto = _tool("micropython"), _tool("mpy-cross"), find_mosquitto()
    if not (interpreter and compiler and mosquitto):
        return None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sizes = {march: _compile(compiler, march, folder / march) for march in MARCHES}
        _compile(compiler, "", folder / "mpy" / "fednode")
        shutil.copytree(PACKAGE, folder / "py" / "fednode")
        with Mosquitto(mosquitto) as broker, _Device(broker.port):
            board = _Board(interpreter, folder, broker.port)
            heap = {kind: board.memory(kind) for kind in ("mpy", "py")}
            smallest = {kind: board.smallest(kind, step_kib) for kind in ("mpy", "py")}
            speed, wakes = board.run("mpy", 1024, SPEED), board.run("mpy", 2048, WAKES)
        found = {"mpy_bytes": sizes, "heap_bytes": heap, "smallest_heap_kib": smallest}
        return {**found, "speed": speed, "wakes": wakes}


def _tool(name: str) -> str | None:
    folder = Path(os.environ.get("FEDCLIENT_MICROPYTHON") or ROOT / ".micropython").resolve()
    return shutil.which(name, path=str(folder / "bin")) or shutil.which(name)


def _compile(compiler: str, march: str, folder: Path) -> dict[str, int]:
    """Return the bytes of each compiled file of the package, and their sum."""
    folder.mkdir(parents=True)
    sizes = {}
    for _, name in json.loads((PACKAGE / "package.json").read_text())["urls"]:
        made = folder / name.replace(".py", ".mpy")
        options = [f"-march={march}"] if march else []
        # The name that tracebacks show is in the file: as that of compile.sh is.
        options += ["-s", f"fednode/{name}"]
        subprocess.run([compiler, *options, "-O3", "-o", made, PACKAGE / name], check=True)
        sizes[made.stem] = made.stat().st_size
    return {**sizes, "all": sum(sizes.values())}


class _Board:
    """Runs a program with the compiled package or with its source, in heaps of different sizes."""

    def __init__(self, interpreter: str, folder: Path, port: int) -> None:
        self._interpreter, self._folder = interpreter, folder
        settings = {"federation": "local", "node": NODE, "generation": 1, "secret": SECRET.hex()}
        (folder / "node.json").write_text(json.dumps(settings | {"host": "127.0.0.1", "port": port}))

    def run(self, kind: str, heap_kib: int, program: Path = PROGRAM) -> dict[str, float] | None:
        """Return what the program printed, or None when it did not get through."""
        flash = Path(tempfile.mkdtemp(dir=self._folder))
        done = subprocess.run(
            [self._interpreter, "-X", f"heapsize={heap_kib}K", program, str(self._folder / "node.json")],
            cwd=flash,
            env={**os.environ, "MICROPYPATH": f"{self._folder / kind}:.frozen"},
            capture_output=True,
            text=True,
            check=False,
        )
        return json.loads(done.stdout) if done.returncode == 0 else None

    def memory(self, kind: str) -> dict[str, float]:
        found = self.run(kind, 192)
        if found is None:
            raise RuntimeError("a node does not work in 192 KiB")
        return {step: found[step] - found["before"] for step in ("imported", "made", "ring_full", "head")}

    def smallest(self, kind: str, step_kib: int) -> int:
        """Return the smallest heap in which it works three times in a row."""
        low, high = 0, 192
        while high - low > step_kib:
            middle = (low + high) // 2
            if all(self.run(kind, middle) is not None for _ in range(3)):
                high = middle
            else:
                low = middle
        return high


class _Device(threading.Thread):
    """Takes samples of one node, forgets them, and answers; offers a head."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        broker = Broker(host="127.0.0.1", port=port, tls=False)
        self._transport = MqttTransport(MqttSettings(broker=broker, client_id="device"))
        self._keys = derive(SECRET, 1)
        self._window = Window()
        self._end = False

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, *_: object) -> None:
        self._end = True
        self.join()

    def run(self) -> None:
        self._transport.connect(time.monotonic())
        while not self._transport.connected:
            self._transport.service(self._transport.interests(), time.monotonic())
        self._transport.subscribe(TOPICS.samples_up)
        self._transport.subscribe(TOPICS.labels_up)
        rng = random.Random(6)  # noqa: S311  weights
        ones = struct.pack("<10f", *[0.01] * 10)
        layer = NodeLayer(relu=False, weights=rng.randbytes(640), scales=ones, bias=ones)
        names = tuple(f"class {number}" for number in range(10))
        self._say("head", encode_head(NodeHead(version=NodeHeadVersion(1, 1), layers=(layer,), labels=names)))
        while not self._end:
            for event in self._transport.service(self._transport.interests(), time.monotonic()):
                if isinstance(event, Received):
                    self._take(event)
            time.sleep(0.001)

    def _take(self, received: Received) -> None:
        _, kind = TOPICS.parse_up(received.topic)
        body = self._keys.up.open(received.topic, received.payload, limits.MAX_NODE_SAMPLE_BYTES)
        said = decode_sample(body) if kind == "sample" else decode_label(body)
        if not isinstance(said, Ask) and not self._window.has(said.counter):
            self._window = self._window.take(said.counter)
        ranges = self._window.ranges(limits.MAX_ACK_RANGES)
        self._say("ack", encode_ack(Ack(nonce=said.nonce, next=self._window.next, ranges=ranges)))

    def _say(self, kind: str, body: bytes) -> None:
        topic = getattr(TOPICS, kind)(NODE)
        self._transport.publish(topic, self._keys.down.seal(topic, body), retain=kind == "head")


if __name__ == "__main__":
    print(json.dumps(measure()))
    sys.exit()
