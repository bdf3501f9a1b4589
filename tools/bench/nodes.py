"""Samples of nodes into one agent: 1,000 a second from 50 nodes, over a real mosquitto on loopback.

Nodes send again what was not acknowledged within two seconds, as theirs do.  At the end every sample has
to be acknowledged and in the store once.  The senders are one other process; only the agent is measured.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Any

import process

from fedclient.device import folder as folders
from fedclient.limits import MAX_NODE_ACK_BYTES
from fedclient.nodes.keys import Node, derive
from fedclient.nodes.messages import NodeSample, decode_ack, encode_sample
from fedclient.nodes.registry import Registry
from fedclient.samples.store import SampleStore
from fedclient.testing.broker import Mosquitto, find_mosquitto
from fedclient.transport.base import Received
from fedclient.transport.mqtt import MqttTransport
from fedclient.transport.settings import MqttSettings
from fedclient.values import Broker
from fedclient.wire.topics import NodeTopics

VALUES = 64  # int8 values of a sample, as of a digit
AGAIN_S = 2.0
TOPICS = NodeTopics("local")


class Sender:
    """One node that sends at its rate, and again what it hears nothing of."""

    def __init__(self, node: Node, port: int) -> None:
        assert node.secret is not None
        self.name, self._keys, self._nonce = node.name, derive(node.secret, node.generation), os.urandom(8)
        broker = Broker(host="127.0.0.1", port=port, tls=False)
        self.transport = MqttTransport(MqttSettings(broker=broker, client_id=node.name))
        self.transport.connect(0.0)
        while not self.transport.connected:
            self.transport.service(self.transport.interests(), time.monotonic())
        self.transport.subscribe(TOPICS.ack(node.name))
        self.sent = self.again = 0
        self._kept: deque[tuple[int, float, bytes]] = deque()

    @property
    def waiting(self) -> int:
        return len(self._kept)

    def send(self) -> None:
        self.sent += 1
        data = bytes((self.sent * 7 + at) % 256 for at in range(VALUES))
        sample = NodeSample(
            nonce=self._nonce, counter=self.sent, dtype="int8", data=data, scale=0.125, label=self.sent % 10
        )
        self._publish(self.sent, self._keys.up.seal(TOPICS.sample(self.name), encode_sample(sample)))

    def service(self) -> None:
        for event in self.transport.service(self.transport.interests(), time.monotonic()):
            if isinstance(event, Received):
                body = self._keys.down.open(event.topic, event.payload, MAX_NODE_ACK_BYTES)
                self._settle(decode_ack(body))
        now_s = time.monotonic()
        while self._kept and self._kept[0][1] + AGAIN_S < now_s:
            counter, _, message = self._kept.popleft()
            self.again += 1
            self._publish(counter, message)

    def _publish(self, counter: int, message: bytes) -> None:
        self.transport.publish(TOPICS.sample(self.name), message)
        self._kept.append((counter, time.monotonic(), message))

    def _settle(self, ack: Any) -> None:
        named = {one for first, count in ack.ranges for one in range(first, first + count)}
        self._kept = deque(one for one in self._kept if one[0] >= ack.next and one[0] not in named)


def measure(*, nodes: int, per_second: int, seconds: float) -> dict[str, Any] | None:
    """Return what it took; None without mosquitto."""
    path = find_mosquitto()
    if path is None:
        return None
    with tempfile.TemporaryDirectory() as name, Mosquitto(path) as broker:
        state, config = Path(name, "state"), Path(name, "config.toml")
        config.write_text(
            f"[nodes]\nenabled = true\nport = {broker.port}\nmax_per_second = {10 * per_second}\n"
            "max_samples = 1000000\n[limits]\nsamples_max_rows = 1000000\n"
        )
        folder = folders.create(state)
        registry = Registry(folder.nodes)
        known = [registry.add(f"node-{number}") for number in range(nodes)]
        words = ["-m", "fedclient", "--state", str(state), "--config", str(config), "run"]
        agent = subprocess.Popen([sys.executable, *words], stderr=subprocess.DEVNULL)
        try:
            senders = [Sender(node, broker.port) for node in known]
            _warm_up(senders)
            found = _load(senders, agent.pid, per_second, seconds)
        finally:
            agent.terminate()
            agent.wait(30)
        with SampleStore(folder.samples) as store:
            stored = store.node_stats()
        sent = sum(sender.sent for sender in senders)
        in_store = sum(one.samples for one in stored.values())
        return {**found, "nodes": nodes, "sent": sent, "stored": in_store, "lost": sent - in_store}


def _warm_up(senders: list[Sender]) -> None:
    """Have everything that is loaded late loaded, and every window read."""
    for sender in senders:
        sender.send()
    _drain(senders, 30.0)


def _load(senders: list[Sender], pid: int, per_second: int, seconds: float) -> dict[str, Any]:
    before_s, memory = process.cpu_s(pid), [process.memory(pid).rss]
    begun_s = look_s = time.monotonic()
    sent = 0
    while (gone_s := time.monotonic() - begun_s) < seconds:
        due = min(int(gone_s * per_second), int(seconds * per_second))
        while sent < due:
            senders[sent % len(senders)].send()
            sent += 1
        _turn(senders)
        if time.monotonic() - look_s > seconds / 12:
            look_s = time.monotonic()
            memory.append(process.memory(pid).rss)
    sending_s = time.monotonic() - begun_s
    late_s = _drain(senders, 60.0)
    memory.append(process.memory(pid).rss)
    cpu_s = process.cpu_s(pid) - before_s
    return {
        "seconds": round(sending_s, 2),
        "samples_per_s": round(sent / sending_s, 1),
        "until_all_acknowledged_s": round(late_s, 2),
        "unacknowledged": sum(sender.waiting for sender in senders),
        "sent_again": sum(sender.again for sender in senders),
        "cpu_us_per_sample": round(cpu_s * 1e6 / sent, 1),
        "cpu_share": round(cpu_s / (sending_s + late_s), 3),
        "rss_mib": [round(one, 1) for one in memory],
        "rss_growth_of_second_half_mib": round(memory[-1] - memory[len(memory) // 2], 1),
    }


def _drain(senders: list[Sender], patience_s: float) -> float:
    begun_s = time.monotonic()
    while any(sender.waiting for sender in senders) and time.monotonic() < begun_s + patience_s:
        _turn(senders)
    return time.monotonic() - begun_s


def _turn(senders: list[Sender]) -> None:
    waits = {fd: sender for sender in senders for fd in sender.transport.interests()}
    select.select(list(waits), [], [], 0.005)
    for sender in senders:
        sender.service()


if __name__ == "__main__":
    print(json.dumps(measure(nodes=50, per_second=1000, seconds=float((sys.argv[1:] or ["60"])[0]))))
