"""The link to nodes: what they say is stored and then acknowledged; who is no node has no effect."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from selectors import EVENT_READ

import pytest

from fedclient.client import nodes as module
from fedclient.client.node_heads import NodeHeads
from fedclient.client.nodes import GROUP_S, NodeLink, refuse_federation
from fedclient.config import BrokerSettings, Config, NodeSettings
from fedclient.device import enrolment, folder
from fedclient.device.folder import DeviceFolder
from fedclient.errors import ConfigError, StorageError, StorageFull, Unreachable
from fedclient.limits import MAX_NODE_PACKET_BYTES, MAX_NODE_SAMPLE_BYTES
from fedclient.nodes import headfile, receiver
from fedclient.nodes.headfile import POOLED, HeadFile
from fedclient.nodes.intake import Intake
from fedclient.nodes.keys import TAG_BYTES
from fedclient.nodes.messages import encode_head
from fedclient.nodes.registry import Registry
from fedclient.samples.store import SampleStore
from fedclient.transport.memory import MemoryBroker, MemoryTransport
from fedclient.values import Broker
from fedclient.wire.invitation import encode_invitation
from tests.nodes import golden
from tests.nodes.puppet import Puppet
from tests.wire.golden import INVITATION


def full(*_: object) -> None:
    raise StorageFull("no room on the disk")


def free() -> str:
    """Nothing keeps a child back."""
    return ""


READY = 7  # a descriptor


class World:
    """One device's link, a broker for its nodes, and a clock."""

    def __init__(self, path: Path, settings: NodeSettings | None = None) -> None:
        self.folder: DeviceFolder = folder.create(path)
        self.config = Config(state=path, nodes=settings or NodeSettings(enabled=True, max_per_second=1e6))
        self.registry = Registry(self.folder.nodes)
        self.broker = MemoryBroker()
        self.opened: list[str] = []
        self.now_s = 100.0
        self.link = self.start()

    def start(self) -> NodeLink:
        link = NodeLink(
            self.folder,
            self.config,
            self.open_transport,
            "device",
            seed=1,
        )
        link.start(self.now_s)
        return link

    def open_transport(self, client_id: str) -> MemoryTransport:
        self.opened.append(client_id)
        return MemoryTransport(self.broker, client_id)

    def node(self, name: str) -> Puppet:
        known = self.registry.load().get(name) or self.registry.add(name)
        made = Puppet(known, MemoryTransport(self.broker, name))
        made.connect()
        return made

    def turn(self, *nodes: Puppet, seconds: float = 1.0) -> None:
        """Let the loop run as the daemon's would, for so long."""
        until_s = self.now_s + seconds
        while True:
            self.link.service((), self.now_s, free)
            for node in nodes:
                node.listen()
            due_s = self.link.deadline_s()
            if due_s is None or due_s > until_s:
                break
            self.now_s = max(self.now_s, due_s)
        self.now_s = until_s

    @property
    def stored(self) -> list[tuple[list[float], object]]:
        with SampleStore(self.folder.samples) as store:
            return [
                (memoryview(one.array.data).cast("f").tolist(), one.label)
                for one in store.read(range(1, store.stats().newest_id + 1))
            ]

    def counts(self, node: str) -> dict[str, int]:
        self.link.asked()
        with SampleStore(self.folder.samples) as store:
            found = store.node_stats().get(node)
            return {} if found is None else dict(found.counts)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "device")


def test_samples_are_stored_and_acknowledged_after_the_commit(world: World, monkeypatch) -> None:
    node = world.node("shed")
    world.turn()
    seen = []
    commit = Intake.commit

    def watched(*args):
        found = commit(*args)
        seen.append((len(world.stored), len(node.acks)))
        return found

    monkeypatch.setattr(Intake, "commit", watched)
    first = node.sample(1, 2, label="walking", scale=0.5)
    node.label(node.sample(3, 4), 7)
    node.send()
    world.turn(node)
    assert world.stored == [([0.5, 1.0], "walking"), ([3.0, 4.0], 7)]
    assert (node.settled, node.kept) == ({first, 2, 3}, {})
    assert seen == [(2, 0)]  # stored, and nothing said yet


def test_after_a_commit_it_is_looked_who_has_outgrown_its_head(world: World, monkeypatch) -> None:
    given: list[dict[str, int]] = []
    monkeypatch.setattr(NodeHeads, "committed", lambda _, labels, __: given.append(labels()))
    node = world.node("shed")
    world.turn()
    assert given == []
    node.label(node.sample(1, label="walking"), "running")
    node.send()
    world.turn(node)
    assert given == [{"shed": 2}]


def test_what_comes_close_together_is_one_commit_with_one_answer(world: World) -> None:
    node = world.node("shed")
    world.turn()
    for _ in range(20):
        node.sample(1)
    node.send()
    world.link.service((), world.now_s, free)
    node.sample(2)
    node.transport.publish(*node.kept[21])
    world.link.service((), world.now_s, free)
    assert world.link.deadline_s() == world.now_s + module.PAUSE_S
    world.now_s += module.PAUSE_S
    world.link.service((), world.now_s, free)
    assert world.link.deadline_s() == pytest.approx(world.now_s - module.PAUSE_S + GROUP_S)
    world.turn(node)
    assert [ack.next for ack in node.acks] == [21, 22]
    assert world.link.deadline_s() is None  # a quiet link never wakes the loop


def test_messages_that_come_one_by_one_are_read_some_at_a_time(world: World, monkeypatch) -> None:
    node = world.node("shed")
    world.turn()
    node.sample(1)
    node.send()
    world.turn(node)  # it is stored: the next one opens a group
    served: list[float] = []
    real = MemoryTransport.service

    def only_what_is_ready(self, ready, now_s):
        if self.client_id != "device" or READY not in ready:
            return []
        served.append(now_s)
        return real(self, ready, now_s)

    monkeypatch.setattr(MemoryTransport, "service", only_what_is_ready)
    monkeypatch.setattr(MemoryTransport, "interests", lambda _: {READY: EVENT_READ})
    monkeypatch.setattr(MemoryTransport, "deadline_s", lambda _: None)
    begun_s = world.now_s
    world.link._committed_s, turns = begun_s, 0
    for ms in range(1, 151):
        world.now_s = begun_s + ms / 1000
        counter = node.sample(ms)
        node.transport.publish(*node.kept[counter])
        due_s = world.link.deadline_s()
        if READY in world.link.interests() or (due_s is not None and world.now_s >= due_s):
            world.link.service(world.link.interests(), world.now_s, free)
            turns += 1
    assert 12 <= len(served) == turns <= 16  # not 150
    assert len(world.link._pending) >= 140
    for _ in range(module.FULL):
        node.transport.publish(*node.kept[node.sample(1)])
    world.now_s += module.PAUSE_S
    world.link.service((), world.now_s, free)
    assert READY in world.link.interests()  # where many come there is no pause
    monkeypatch.undo()
    world.turn(node)
    assert node.kept == {}


def test_a_large_group_does_not_wait(world: World) -> None:
    node = world.node("shed")
    world.turn()
    for _ in range(module.GROUP + 3):
        node.sample(1)
    node.send()
    world.now_s += 0.01
    world.link.service((), world.now_s, free)
    node.listen()
    assert [ack.next for ack in node.acks] == [module.GROUP + 1]
    world.turn(node)
    assert len(node.settled) == module.GROUP + 3


def test_a_node_that_is_added_or_revoked_while_the_agent_runs(world: World) -> None:
    world.turn()
    node = world.node("shed")  # added after the start
    node.sample(1)
    node.send()
    world.turn(node)
    assert node.settled == {1}
    world.registry.revoke("shed")
    node.sample(2)
    node.send()
    world.turn(node)
    assert (node.settled, len(world.stored)) == ({1}, 1)
    assert world.counts("shed")[receiver.REVOKED] == 1
    renewed = world.node("barn")
    world.registry.renew("barn")
    renewed.sample(1)
    renewed.send()
    world.turn(renewed)
    assert world.counts("barn") == {receiver.TAG: 1}


def test_a_head_that_there_is_no_more_is_taken_off_the_broker(world: World) -> None:
    """Who connects later would get what was tuned on samples that are purged by now."""
    folder, head = world.folder.node_heads, encode_head(golden.HEADS["two layers"])
    node = world.node("shed")
    world.link.asked()
    world.turn(node)
    assert node.heads == []  # none was made yet: the broker keeps what it has
    HeadFile(adopted_sha256="", revision=0, why="", body=head).save(folder, POOLED)
    world.turn(node)
    assert len(node.heads) == 1
    headfile.forget(folder)
    world.turn(node)
    assert node.heads[1:] == [b""]
    late = world.node("shed")
    world.turn(late)
    assert late.heads == []


def test_a_disk_that_is_full_is_waited_for_and_nothing_is_said(world: World, monkeypatch) -> None:
    node = world.node("shed")
    world.turn()
    node.sample(1)
    node.send()

    with monkeypatch.context() as patch:
        patch.setattr(Intake, "commit", full)
        world.turn(node, seconds=0.3)
    assert (node.acks, world.stored) == ([], [])
    assert world.link.notes == ["nodes: no room on the disk"]
    world.turn(node, seconds=120)
    node.send()
    world.turn(node)
    assert (node.settled, len(world.stored), world.link.notes) == ({1}, 1, [])


def test_a_store_that_somebody_deletes_is_begun_anew(world: World) -> None:
    node = world.node("shed")
    world.turn()
    node.sample(1)
    node.send()
    world.turn(node)
    world.folder.samples.parent.rename(world.folder.path / "elsewhere")
    node.sample(2)
    for _ in range(10):
        node.send()
        world.turn(node)
    assert (node.settled, world.link.notes) == ({1, 2}, [])
    assert len(world.stored) == 1


def test_a_disk_that_stays_full_is_tried_ever_more_rarely(world: World, monkeypatch, caplog) -> None:
    """Each time the broker is there at once, and the node sends again."""
    node = world.node("shed")
    node.sample(1)
    monkeypatch.setattr(Intake, "commit", full)
    for _ in range(3600):
        node.send()
        world.turn(node)
    assert len(world.opened) < 3600 / 30 + 10
    assert len(caplog.records) < 250
    monkeypatch.undo()
    for _ in range(60):
        node.send()
        world.turn(node)
    assert node.settled == {1}


def test_a_broker_that_acknowledges_nothing_is_left_before_its_answers_fill_the_memory(
    world: World, monkeypatch
) -> None:
    node = world.node("shed")
    world.turn()
    monkeypatch.setattr(module, "UNACKNOWLEDGED", 3)
    with monkeypatch.context() as patch:
        patch.setattr(module, "Delivered", Unreachable)  # no such event comes
        for counter in range(1, 5):
            node.sample(counter)
            node.send()
            world.turn(node, seconds=0.3)
    assert "left 3 answers to nodes without acknowledgement" in world.link.notes[0]
    for counter in range(5, 15):  # one that does is stayed with
        node.sample(counter)
        world.turn(node, seconds=10)
        node.send()
    world.turn(node)
    assert (len(node.settled), world.link.notes) == (14, [])
    assert len(world.opened) == 3


def test_a_commit_of_which_nobody_knows_is_looked_up(world: World, monkeypatch) -> None:
    """The disk reported an error, and has the sample nevertheless."""
    node = world.node("shed")
    world.turn()
    node.sample(1)
    node.send()
    world.turn(node)
    node.sample(2)
    node.send()
    commit = Intake.commit

    def committed_and_failed(self, *asked):
        known = dict(self._windows)
        commit(self, *asked)
        self._windows = known
        raise StorageError("the disk reported an error")

    with monkeypatch.context() as patch:
        patch.setattr(Intake, "commit", committed_and_failed)
        world.turn(node, seconds=0.3)
    assert (node.settled, len(world.stored)) == ({1}, 2)
    world.turn(node, seconds=120)
    node.send()
    world.turn(node)
    assert (node.settled, len(world.stored)) == ({1, 2}, 2)


def test_a_broker_that_comes_back_is_found_again(world: World) -> None:
    node = world.node("shed")
    world.turn()
    opened = len(world.opened)
    world.broker.stop()
    world.turn(seconds=30)
    assert len(world.opened) > opened  # anew each time: a password may have been changed
    assert world.link.notes == ["nodes: the broker in memory is stopped: start it"]
    node.sample(1)
    node.send()
    world.broker.start()
    world.turn(seconds=61)
    node.connect()
    node.send()
    world.turn(node)
    assert (node.settled, world.link.notes) == ({1}, [])


def test_a_stop_stores_what_was_heard(world: World) -> None:
    node = world.node("shed")
    world.turn()
    for counter in (1, 2):
        node.sample(counter)
        node.transport.publish(*node.kept[counter])
        world.link.service((), world.now_s, free)
    assert len(world.stored) == 1
    world.link.stop()
    node.listen()
    assert node.settled == {1, 2}
    assert len(world.stored) == 2


def test_secrets_that_cannot_be_read_are_said_and_nobody_is_listened_to(world: World) -> None:
    node = world.node("shed")
    world.turn()
    HeadFile(adopted_sha256="", revision=7, why="", body=b"").save(world.folder.node_heads, POOLED)
    HeadFile(adopted_sha256="", revision=7, why="", body=b"").save(world.folder.node_heads, "shed")
    world.folder.nodes.write_text("{")
    node.sample(1)
    node.send()
    world.turn(node)
    assert world.stored == []
    assert "add the nodes again" in world.link.notes[0]
    assert len(list(world.folder.node_heads.iterdir())) == 2  # nobody knows whose are to go
    world.folder.nodes.unlink()
    world.link.asked()
    assert [path.name for path in world.folder.node_heads.iterdir()] == [POOLED]


CASES: dict[str, tuple[str, int, str, int, bool]] = {
    "the same": ("broker.farm", 8883, "broker.farm", 8883, True),
    "another port of that host": ("broker.farm", 1883, "Broker.Farm", 8883, True),
    "another host": ("192.0.2.1", 8883, "192.0.2.2", 8883, False),
    "a name for it": ("localhost", 1883, "127.0.0.1", 1883, True),
    "two on this machine": ("127.0.0.1", 1883, "localhost", 1884, False),
    "this machine's own name": ("127.0.0.1", 1883, "gateway.lan", 1883, True),
    "another name of it": ("192.0.2.1", 1883, "alias.farm", 8883, True),
}


@pytest.fixture
def names(monkeypatch) -> list[str]:
    """A resolver that knows two names of this machine and one of another, and is asked for them only."""
    known = {"gateway.lan": "127.0.1.1", "alias.farm": "192.0.2.1", "192.0.2.1": "192.0.2.1"}
    asked: list[str] = []

    def resolve(host, port, **_):
        asked.append(host)
        if host not in known:
            raise socket.gaierror(-2, "not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (known[host], port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return asked


@pytest.mark.parametrize("case", CASES)
@pytest.mark.usefixtures("names")
def test_the_federations_broker_is_refused(tmp_path: Path, case: str) -> None:
    host, port, theirs, their_port, refused = CASES[case]
    device = folder.create(tmp_path / "device")
    nodes = NodeSettings(enabled=True, host=host, port=port, tls=True)
    config = Config(state=device.path, nodes=nodes, broker=BrokerSettings(host=theirs, port=their_port))
    if refused:
        with pytest.raises(ConfigError, match="give the nodes a broker of their own"):
            refuse_federation(device, config)
    else:
        refuse_federation(device, config)


def test_a_resolver_is_not_asked_where_ports_tell(tmp_path: Path, names: list[str]) -> None:
    config = Config(nodes=NodeSettings(enabled=True), broker=BrokerSettings(host="broker.farm", port=8883))
    refuse_federation(folder.create(tmp_path / "device"), config)
    assert names == []


def test_the_invitations_broker_counts_too(tmp_path: Path) -> None:
    device = folder.create(tmp_path / "device")
    config = Config(state=device.path, nodes=NodeSettings(enabled=True, host="192.0.2.1", tls=True))
    refuse_federation(device, config)
    told = replace(INVITATION, broker=Broker(host="192.0.2.1", port=443, tls=True))
    enrolment.save(device.enrolment, encode_invitation(told), b"request")
    with pytest.raises(ConfigError, match="broker of their own"):
        refuse_federation(device, config)


def test_nothing_starts_with_the_federations_broker(tmp_path: Path) -> None:
    device = folder.create(tmp_path / "device")
    config = Config(
        state=device.path,
        nodes=NodeSettings(enabled=True),
        broker=BrokerSettings(host="127.0.0.1", port=1883, tls="off"),
    )
    link = NodeLink(device, config, lambda name: MemoryTransport(MemoryBroker(), name), "device")
    with pytest.raises(ConfigError, match="is the federation's broker"):
        link.start(0.0)


def test_a_broker_that_becomes_the_federations_is_not_connected_to_again(world: World, monkeypatch) -> None:
    seen: list[Callable] = []

    def refuse(*_):
        seen.append(refuse)
        raise ConfigError("give the nodes a broker of their own")

    monkeypatch.setattr(module, "refuse_federation", refuse)
    world.turn(seconds=5)
    assert seen
    assert world.link.notes == ["nodes: give the nodes a broker of their own"]
    assert not world.link._transport.connected


def test_a_flood_of_forgeries_stores_nothing_and_is_counted(world: World) -> None:
    node = world.node("shed")
    world.turn()
    node.sample(5)
    topic, message = node.kept[1]
    world.turn(node)
    stranger = MemoryTransport(world.broker, "stranger")
    stranger.connect(0.0)
    barn = node.topics.sample("barn")
    world.registry.add("barn")
    for at in range(8 * len(message)):
        flipped = bytearray(message)
        flipped[at // 8] ^= 1 << at % 8
        stranger.publish(topic, bytes(flipped))
    for size in range(len(message)):
        stranger.publish(topic, message[:size])
    stranger.publish(topic, bytes(MAX_NODE_PACKET_BYTES - 100))
    stranger.publish(barn, message)
    stranger.publish(node.topics.sample("nobody"), message)
    world.turn(node)
    assert (world.stored, node.acks) == ([], [])
    counts = world.counts("shed")
    assert counts[receiver.TAG] == 8 * len(message) + len(message) - 17
    assert counts[receiver.LENGTH] == 17 + 1
    assert world.counts("barn") == {receiver.TAG: 1}
    assert world.counts(receiver.NOBODY) == {receiver.UNKNOWN: 1}
    node.send()
    for _ in range(3):
        stranger.publish(topic, message)  # the genuine one, again and again
    world.turn(node)
    assert len(world.stored) == 1
    assert world.counts("shed")["sent again"] == 3


def test_what_is_refused_opens_no_database_and_fills_no_memory(world: World, monkeypatch) -> None:
    node = world.node("shed")
    world.turn()
    monkeypatch.setattr(SampleStore, "__init__", pytest.fail)
    topic = node.topics.sample("shed")
    node.transport.publish(topic, bytes(100))
    world.turn(node)
    world.link._committed_s = world.now_s  # a group begins
    node.transport.publish(topic, bytes(MAX_NODE_SAMPLE_BYTES + 1))
    node.transport.publish(topic, bytes(MAX_NODE_SAMPLE_BYTES))
    world.link.service((), world.now_s, free)
    assert [len(one.payload) for one in world.link._pending] == [MAX_NODE_SAMPLE_BYTES]
    world.turn(node)
    monkeypatch.undo()
    assert world.counts("shed") == {receiver.TAG: 2, receiver.LENGTH: 1}


def test_a_node_with_a_bug_is_told_that_its_message_is_gone(world: World) -> None:
    node = world.node("shed")
    world.turn()
    counter = node.sample(1)
    topic, message = node.kept[counter]
    node.kept[counter] = topic, node.keys.up.seal(topic, message[: -TAG_BYTES - 1])
    node.sample(2)
    node.send()
    world.turn(node)
    assert (node.kept, world.stored) == ({}, [([2.0], None)])
    assert [ack.gone for ack in node.acks] == [(counter,)]
    assert world.counts("shed") == {"stored": 1, receiver.FORM: 1}


def test_the_plain_text_rule_is_the_transports(tmp_path: Path) -> None:
    from fedclient.cli.broker import nodes_opener  # noqa: PLC0415

    config = Config(nodes=NodeSettings(enabled=True, host="192.0.2.7"))
    with pytest.raises(ConfigError, match="allow_plaintext"):
        nodes_opener(config, 1000)("device")
    allowed = replace(config, nodes=replace(config.nodes, allow_plaintext=True))
    nodes_opener(allowed, 1000)("device")
