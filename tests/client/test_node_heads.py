"""When a child has to write heads for nodes, and what the agent makes of its end."""

from __future__ import annotations

import os
import selectors
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedclient.client import node_heads as module
from fedclient.client.node_heads import NodeHeads
from fedclient.config import Config, NodeSettings, TrainerSettings
from fedclient.device import folder as folders
from fedclient.device.slots import Slots
from fedclient.nodes import headfile
from fedclient.nodes.headfile import POOLED
from fedclient.nodes.messages import decode_head, encode_head
from fedclient.values import HeadVersion
from tests.nodes import golden
from tests.trainer.setup import Bench
from tests.trainer.test_node_heads import trained


class Child:
    """Ends when a test says so; what it was asked is there to see."""

    made: list[Child] = []  # noqa: RUF012 - emptied by the fixture
    code = 0

    def __init__(self, arguments, kill_at_s: float) -> None:
        self.arguments, self.kill_at_s = arguments, kill_at_s
        self.gone_descriptor, self._end = os.pipe()
        self.killed = self.stopped = self.was_cut_off = False
        self.made.append(self)

    def end(self) -> None:
        os.close(self._end)

    def finish(self) -> int:
        os.close(self.gone_descriptor)
        return self.code

    def cut_off(self) -> None:
        self.was_cut_off = True
        self.kill()

    def kill(self) -> None:
        self.killed = True
        self.kill_at_s = float("inf")

    def stop(self, _: float) -> None:
        self.stopped = True


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(folders.create(tmp_path / "state"))


@pytest.fixture
def fake(monkeypatch) -> Iterator[type[Child]]:
    monkeypatch.setattr(module, "Child", Child)
    yield Child
    Child.made.clear()
    Child.code = 0


def adopt(bench: Bench, version: int = 1) -> None:
    head = trained(bench.model, seed=version)
    manifest = bench.publish(HeadVersion(1, version), head=head.tobytes())
    Slots(bench.folder.current).adopt(manifest, bench.model, head.tobytes())


def heads_of(bench: Bench, *, personal: bool = False) -> NodeHeads:
    settings = NodeSettings(enabled=True, personal=personal)
    trainer = TrainerSettings(idle=False, nice=0)
    return NodeHeads(bench.folder, Config(state=bench.folder.path, nodes=settings, trainer=trainer))


def turn(heads: NodeHeads, *nodes: str, now_s: float = 0.0, held_back: str = "") -> bool:
    return heads.service((), nodes, now_s, lambda: held_back)


def ended(heads: NodeHeads, child: Child, *nodes: str, now_s: float = 0.0) -> bool:
    return heads.service([child.gone_descriptor], nodes, now_s, lambda: "")


def test_a_real_child_writes_the_head_of_all(bench: Bench) -> None:
    adopt(bench)
    heads = heads_of(bench)
    assert not turn(heads, "shed")
    (descriptor,) = heads.interests()
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        assert selector.select(60)
    assert heads.service([descriptor], ["shed"], 1.0, lambda: "")
    assert decode_head(heads.body("shed")).version.version == 1
    assert heads.body("shed") == heads.body("barn")
    assert (turn(heads, "shed"), heads.interests(), heads.why) == (False, {}, "")


def test_when_a_trainer_has_ended_nodes_get_their_heads_at_once(bench: Bench, fake) -> None:
    adopt(bench)
    heads = heads_of(bench)
    turn(heads, "shed", held_back=module.TRAINER_RUNS)
    assert (fake.made, heads.deadline_s()) == ([], module.LOOK_S)
    turn(heads, "shed", now_s=module.LOOK_S)
    assert len(fake.made) == 1


def test_nothing_is_made_without_nodes_or_a_head_or_in_bad_moments(bench: Bench, fake) -> None:
    heads = heads_of(bench)
    turn(heads, "shed")
    adopt(bench)
    turn(heads)
    assert heads.deadline_s() is None
    turn(heads, "shed", held_back="too hot")
    assert (fake.made, heads.deadline_s()) == ([], module.LOOK_AGAIN_S)
    turn(heads, "shed", now_s=module.LOOK_AGAIN_S - 1)
    assert fake.made == []
    turn(heads, "shed", now_s=module.LOOK_AGAIN_S)
    assert [child.arguments.nodes for child in fake.made] == [()]
    assert heads.deadline_s() == module.LOOK_AGAIN_S + module.LOOK_S


def test_a_child_is_cut_off_when_something_speaks_against_it_and_begins_again(bench: Bench, fake) -> None:
    adopt(bench)
    heads = heads_of(bench, personal=True)
    turn(heads, "shed")
    (child,) = fake.made
    turn(heads, "shed", now_s=0.5, held_back="too hot")  # asked once a second
    assert not child.was_cut_off
    turn(heads, "shed", now_s=1.0, held_back="too hot")
    assert (child.was_cut_off, heads.deadline_s()) == (True, None)
    child.end()
    fake.code = -9
    ended(heads, child, "shed", now_s=1.1)
    assert heads.why == ""  # no failure
    turn(heads, "shed", now_s=1.2)
    assert len(fake.made) == 2


def test_a_child_that_tunes_nothing_is_let_finish(bench: Bench, fake) -> None:
    adopt(bench)
    heads = heads_of(bench)
    turn(heads, "shed")
    turn(heads, "shed", now_s=1.0, held_back=module.TRAINER_RUNS)
    (child,) = fake.made
    assert (child.was_cut_off, heads.deadline_s()) == (False, 1.0 + module.LOOK_S)


def test_each_node_has_its_own(bench: Bench, fake) -> None:
    adopt(bench)
    heads = heads_of(bench, personal=True)
    turn(heads, "shed", "barn")
    assert fake.made[0].arguments.nodes == ("shed", "barn")


def write(bench: Bench, name: str = POOLED, *, why: str = "a backbone", **made_of: int) -> None:
    slot = Slots(bench.folder.current).active()
    assert slot is not None
    made = headfile.HeadFile(adopted_sha256=slot.head_sha256, revision=0, why=why, body=b"", **made_of)
    made.save(bench.folder.node_heads, name)


def test_a_head_that_is_there_is_not_made_again_and_a_next_one_is(bench: Bench, fake) -> None:
    adopt(bench)
    write(bench)
    heads = heads_of(bench)
    turn(heads, "shed")
    assert (fake.made, heads.why, heads.body("shed")) == ([], "a backbone", b"")
    adopt(bench, 2)
    turn(heads, "shed")
    assert len(fake.made) == 1


def test_after_a_purge_they_are_made_again(bench: Bench, fake) -> None:
    adopt(bench)
    write(bench)
    heads = heads_of(bench)
    turn(heads, "shed")
    headfile.forget(bench.folder.node_heads)
    turn(heads, "shed")
    assert len(fake.made) == 1


def test_after_a_purge_the_head_that_was_is_sent_no_more(bench: Bench, fake) -> None:
    adopt(bench)
    heads = heads_of(bench)
    assert heads.body("shed") is None
    head = encode_head(golden.HEADS["two layers"])
    headfile.HeadFile(adopted_sha256="ab", revision=0, why="", body=head).save(
        bench.folder.node_heads, POOLED
    )
    assert heads.body("shed") == head
    turn(heads, "shed", held_back="too hot")
    headfile.forget(bench.folder.node_heads)
    assert turn(heads, "shed", held_back="too hot", now_s=1.0)  # there is something to say
    assert heads.body("shed") == b""
    assert not turn(heads, "shed", held_back="too hot", now_s=2.0)
    headfile.HeadFile(adopted_sha256="ab", revision=0, why="", body=head).save(
        bench.folder.node_heads, POOLED
    )
    headfile.forget(bench.folder.node_heads)
    assert heads.body("shed") == b""  # whoever asks first


def test_a_head_that_its_node_has_outgrown_is_made_anew(bench: Bench, fake) -> None:
    adopt(bench)
    for name, examples in (("shed", 0), ("barn", 100)):
        write(bench, name, labels=1000, examples=examples)
    heads = heads_of(bench, personal=True)
    given = {"shed": 1019, "barn": 1049}  # [adoption] min_samples is 20
    turn(heads, "shed", "barn")
    heads.committed(lambda: given, 1.0)
    turn(heads, "shed", "barn", now_s=1.0)
    assert (fake.made, heads.deadline_s()) == ([], None)
    given["shed"] += 1
    heads.committed(lambda: given, 2.0)
    turn(heads, "shed", "barn", now_s=2.0, held_back="too hot")
    turn(heads, "shed", "barn", now_s=2.0 + module.LOOK_AGAIN_S)
    assert [child.arguments.nodes for child in fake.made] == [("shed",)]
    write(bench, "shed", labels=1020, examples=20)
    fake.made[0].end()
    begun_s = 2.0 + module.LOOK_AGAIN_S
    assert ended(heads, fake.made[0], "shed", "barn", now_s=begun_s)
    given["barn"] += 1
    for at_s, children in ((begun_s + module.GROWTH_S - 1, 1), (begun_s + module.GROWTH_S, 2)):
        turn(heads, "shed", "barn", now_s=at_s)
        heads.committed(lambda: given, at_s)
        turn(heads, "shed", "barn", now_s=at_s)
        assert len(fake.made) == children
    assert fake.made[1].arguments.nodes == ("barn",)


def test_labels_are_not_counted_where_they_change_nothing(bench: Bench, fake) -> None:
    adopt(bench)
    write(bench, labels=0)
    heads = heads_of(bench)
    turn(heads, "shed")
    heads.committed(pytest.fail, 1.0)  # one head for all
    heads = heads_of(bench, personal=True)
    turn(heads, "shed")
    heads.committed(pytest.fail, 1.0)  # it is being made
    assert len(fake.made) == 1


def test_a_child_that_fails_is_not_started_again_at_once(bench: Bench, fake) -> None:
    adopt(bench)
    heads = heads_of(bench)
    turn(heads, "shed")
    fake.code = -9
    fake.made[0].end()
    assert not ended(heads, fake.made[0], "shed", now_s=5.0)
    assert heads.why == "the heads of nodes were not written: ended by signal SIGKILL"
    turn(heads, "shed", now_s=5.0 + module.AGAIN_S - 1)
    assert len(fake.made) == 1
    turn(heads, "shed", now_s=5.0 + module.AGAIN_S)
    assert len(fake.made) == 2


def test_a_child_that_hangs_is_ended_and_one_at_the_end_too(bench: Bench, fake) -> None:
    adopt(bench)
    heads = heads_of(bench)
    turn(heads, "shed")
    turn(heads, "shed", now_s=module.PATIENCE_S)
    assert fake.made[0].killed
    heads.stop()
    assert (fake.made[0].stopped, heads.interests()) == (True, {})


def test_a_look_costs_little(bench: Bench, fake) -> None:
    adopt(bench)
    write(bench)
    heads = heads_of(bench)
    turn(heads, "shed")
    reads = []
    heads._missing = reads.append
    begun = time.monotonic()
    for _ in range(100):
        turn(heads, "shed")
    assert (reads, fake.made) == ([], [])
    print(f"{(time.monotonic() - begun) * 1e4:.0f} us each")
