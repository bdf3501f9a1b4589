"""Nodes, agent and broker as processes: heads, what is refused, TLS.  Kills: test_micropython_nodes.py."""

from __future__ import annotations

import json
import os
import random
import select
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from fedclient import limits
from fedclient.cli import doctor_nodes
from fedclient.cli.doctor_finding import Verdict
from fedclient.cli.main import main
from fedclient.config import load
from fedclient.device import folder as folders
from fedclient.device.slots import Slots
from fedclient.nodes.keys import TAG_BYTES, derive
from fedclient.nodes.messages import decode_head, encode_sample
from fedclient.nodes.registry import Registry
from fedclient.samples.store import SampleStore
from fedclient.testing.broker import Mosquitto
from fedclient.transport.base import Event, Received
from fedclient.transport.mqtt import MqttTransport
from fedclient.transport.settings import MqttSettings
from fedclient.values import Broker, HeadVersion
from fedclient.wire.topics import NodeTopics
from tests.cli.patients import patient
from tests.nodes import golden
from tests.nodes.puppet import Puppet
from tests.system.commands import SETTINGS, Setup
from tests.system.test_idle_imports import Watched, heavy
from tests.trainer.setup import Bench
from tests.trainer.test_node_heads import trained
from tests.transport.certificates import make_pki, password_lines, tls_lines

PATIENCE_S = 60.0
AGAIN_S = 1.0


class Shed:
    """A device with an agent, and nodes that talk to a real mosquitto."""

    def __init__(self, path: Path, broker: Mosquitto, more: str = "") -> None:
        self.broker = broker
        settings = f"{SETTINGS}\n[nodes]\nenabled = true\nport = {broker.port}\nmax_per_second = 1000\n{more}"
        self.setup = Setup(path / "state", settings)
        self.bench = Bench(folders.create(path / "state"))
        words = ["--state", str(path / "state"), "--config", str(self.setup.config), "run"]
        self.agent = Watched("agent", words, path / "agent.log")
        self.nodes: list[Puppet] = []

    def ask(self, *words: str) -> str:
        """Return what a command prints; in this process, which saves the start of another one."""
        settings = ["--state", str(self.setup.path), "--config", str(self.setup.config)]
        with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as said:
            assert main([*settings, *words]) == 0, said.getvalue()
        return out.getvalue()

    def add(self, name: str, **over: Any) -> Puppet:
        self.ask("nodes", "add", name)
        told = json.loads(self.ask("nodes", "export-secrets", name))
        broker = Broker(host=told["host"], port=told["port"], tls=told["tls"])
        settings = MqttSettings(broker=broker, client_id=name, **over)
        node = Puppet(Registry(self.bench.folder.nodes).get(name), MqttTransport(settings))
        self.nodes.append(node)
        return node

    def pump(self, done: Callable[[], bool], what: str) -> None:
        """Let nodes send again and listen until it is done."""
        until_s, again_at_s = time.monotonic() + PATIENCE_S, 0.0
        while not done():
            now_s = time.monotonic()
            assert now_s < until_s, f"{what}: waited in vain\n{self.agent.log.read_text()[-3000:]}"
            if now_s >= again_at_s:
                again_at_s = now_s + AGAIN_S
                for node in self.nodes:
                    if not node.transport.connected:
                        node.connect()
                    node.send()
            descriptors = [one for node in self.nodes for one in node.transport.interests()]
            select.select(descriptors, [], [], 0.02)
            for node in self.nodes:
                node.listen()

    def stored(self) -> dict[str, list[int]]:
        """Return the counters of each node, as its first value has them."""
        found: dict[str, list[int]] = {}
        with SampleStore(self.bench.folder.samples) as store:
            for node in self.nodes:
                ids = sorted(store.of_node(node.name))
                found[node.name] = [int(memoryview(one.array.data).cast("f")[0]) for one in store.read(ids)]
        return found

    def status(self) -> dict:
        return json.loads(self.ask("status", "--json"))


@pytest.fixture
def shed(tmp_path: Path, mosquitto: str) -> Iterator[Shed]:
    with Mosquitto(mosquitto) as broker:
        made = Shed(tmp_path, broker)
        yield made
        made.agent.kill()
        for node in made.nodes:
            node.transport.close()


def test_heads_go_out_and_the_agent_needs_no_numpy_for_it(shed: Shed) -> None:
    node = shed.add("shed")
    head = trained(shed.bench.model)
    manifest = shed.bench.publish(HeadVersion(1, 3), head=head.tobytes())
    Slots(shed.bench.folder.current).adopt(manifest, shed.bench.model, head.tobytes())
    shed.agent.start()
    shed.pump(lambda: any(node.heads), "a head")
    topic = node.topics.head("shed")
    made = decode_head(node.keys.down.open(topic, node.heads[-1], limits.MAX_NODE_HEAD_BYTES))
    assert (made.version.generation, made.version.version, made.layers[0].rows) == (1, 3, 3)
    head = trained(shed.bench.model, seed=7)
    manifest = shed.bench.publish(HeadVersion(1, 4), head=head.tobytes())
    Slots(shed.bench.folder.current).adopt(manifest, shed.bench.model, head.tobytes())
    node.sample(1)  # whatever wakes the agent
    shed.pump(lambda: len(node.heads) >= 2, "the next head")
    later = decode_head(node.keys.down.open(topic, node.heads[-1], limits.MAX_NODE_HEAD_BYTES))
    assert later.version > made.version
    shed.ask("nodes", "revoke", "shed")
    shed.pump(lambda: node.heads[-1] == b"", "the head is cleared")
    assert shed.agent.stop() == 0
    modules = set(shed.agent.modules.read_text().split())
    assert "fedclient.client.nodes" in modules
    assert heavy({name.partition(".")[0] for name in modules}) == set()


def test_hostile_messages_store_nothing_and_are_reported(shed: Shed, thorough: bool) -> None:
    """A node that turned says it all: this broker lets everybody publish and hear everything."""
    node, turned = shed.add("shed"), shed.add("turned")
    registry = Registry(shed.bench.folder.nodes)
    registry.add("barn")
    revoked = derive(registry.add("loft").secret, 1).up
    registry.revoke("loft")
    shed.agent.start()
    shed.pump(lambda: node.transport.connected and turned.transport.connected, "connections")
    answer = Listener(turned, node.topics.ack("shed"))
    node.sample(1)
    topic, first = node.kept[1]
    shed.pump(lambda: node.settled == {1} and answer.heard, "the first")
    shed.nodes.remove(node)  # it says nothing for now
    body = encode_sample(golden.sample(7, "int8", b"7", 1.0))
    message = node.keys.up.seal(topic, body)
    here, at = random.Random(6), NodeTopics("local")
    hostile: dict[str, list[tuple[str, bytes]]] = {
        "wrong tag": [
            (topic, body + os.urandom(TAG_BYTES)),
            (topic, derive(os.urandom(32), 1).up.seal(topic, body)),
            (at.sample("barn"), message),  # another node's topic
            *((topic, message[:size]) for size in (TAG_BYTES + 1, len(message) - 1)),
            *((topic, flipped(message, here.randrange(8 * len(message)))) for _ in range(10)),
            (topic, answer.heard[0]),  # an ack, replayed as a sample
        ],
        "too long or too short": [(topic, b""), (topic, message[:TAG_BYTES]), (topic, bytes(20_000))],
        "unknown node": [(at.sample("nobody"), message)],
        "revoked node": [(at.sample("loft"), revoked.seal(at.sample("loft"), body))],
        "malformed": [(topic, node.keys.up.seal(topic, b"\x80"))],
        "sent again": [(topic, first)] * 3,
        "": [(at.ack("shed"), answer.heard[0])],  # replayed to its node: nobody counts it here
    }
    wanted = {what: len(messages) for what, messages in hostile.items()}
    for where, one in (pair for messages in hostile.values() for pair in messages):
        turned.transport.publish(where, one)
    node.sample(2)
    shed.nodes.append(node)
    shed.pump(lambda: node.settled == {1, 2}, "the second")
    report = shed.status()
    assert report["agent_running"]
    del wanted[""]
    assert report["nodes"].pop("sent_again") >= wanted.pop("sent again")  # or its node did
    assert report["nodes"] == {"nodes": 3, "samples": 2, "refused": wanted}
    if thorough:  # what is larger than a packet may be ends the agent's connection, which takes a second
        turned.transport.publish(topic, bytes(2 * limits.MAX_NODE_PACKET_BYTES))
    node.sample(3)
    shed.pump(lambda: 3 in node.settled, "the third")
    assert shed.stored() == {"turned": [], "shed": [1, 2, 3]}
    assert shed.agent.stop() == 0


class Listener:
    """Hears on a node's connection what is none of its business."""

    def __init__(self, node: Puppet, topic: str) -> None:
        self.heard: list[bytes] = []
        node.transport.subscribe(topic)
        serve = node.transport.service

        def overhear(*args: Any) -> list[Event]:
            events = serve(*args)
            self.heard += [one.payload for one in events if isinstance(one, Received) and one.topic == topic]
            return events

        node.transport.service = overhear


def flipped(message: bytes, bit: int) -> bytes:
    changed = bytearray(message)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


# What a mosquitto for nodes may be told: each node is the user of its name, and has its own topics alone.
RIGHTS = (
    "user device",
    "topic read fl/v1/local/node/+/sample",
    "topic read fl/v1/local/node/+/label",
    "topic write fl/v1/local/node/+/ack",
    "topic write fl/v1/local/node/+/head",
    "pattern write fl/v1/local/node/%u/sample",
    "pattern write fl/v1/local/node/%u/label",
    "pattern read fl/v1/local/node/%u/ack",
    "pattern read fl/v1/local/node/%u/head",
)


def test_the_nodes_broker_may_have_tls_and_passwords(tmp_path: Path, mosquitto: str) -> None:
    pki, password = make_pki(tmp_path), tmp_path / "password"
    password.touch(mode=0o600)
    password.write_text("of the device\n")
    users = password_lines(tmp_path, {"device": "of the device", "shed": "of the shed"}, *RIGHTS)
    own = f"host = 'localhost'\ntls = true\nca_file = '{pki}/ca.pem'\nusername = 'device'\n"
    with Mosquitto(mosquitto, config=tls_lines(pki, "server", *users)) as broker:
        shed = Shed(tmp_path, broker, f"{own}password_file = '{password}'\n")
        node = shed.add("shed", ca_file=f"{pki}/ca.pem", username="shed", password="of the shed")
        shed.agent.start()
        shed.pump(lambda: node.transport.connected, "a connection")
        node.sample(1)
        shed.pump(lambda: node.settled == {1}, "the first")
        assert shed.stored() == {"shed": [1]}
        config = load(shed.setup.config, {}, shed.bench.folder.path)
        found = doctor_nodes.broker(patient(shed.bench.folder.path, config=config))
        assert (found.verdict, "(TLS, " in found.found) == (Verdict.OK, True)
        password.write_text("of nobody\n")
        config = load(shed.setup.config, {}, shed.bench.folder.path)
        found = doctor_nodes.broker(patient(shed.bench.folder.path, config=config))
        assert found.found == f"the broker at localhost:{broker.port} does not admit the user 'device'"
        assert shed.agent.stop() == 0
        node.transport.close()
