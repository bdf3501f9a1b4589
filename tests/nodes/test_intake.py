"""From genuine messages to rows and answers: any order, each once, whatever is sent again or purged."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from fedclient.config import NodeSettings
from fedclient.errors import StorageFull
from fedclient.nodes import intake as counted
from fedclient.nodes import receiver
from fedclient.nodes.intake import Intake
from fedclient.nodes.messages import Ack, Ask, Malformed, NodeLabel
from fedclient.nodes.receiver import Heard
from fedclient.samples.nodes import NodeRows
from fedclient.samples.store import SampleStore
from tests.nodes import golden

NONCE = golden.NONCE


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SampleStore]:
    with SampleStore(tmp_path / "samples.db") as opened:
        yield opened


def settings(**more: Any) -> NodeSettings:
    return NodeSettings(enabled=True, **more)


def sample(
    counter: int, label: Any = None, *, node: str = "shed", generation: int = 1, size: int = 50
) -> Heard:
    said = golden.sample(counter, "int16", counter.to_bytes(8, "little"), 0.5, label)
    return Heard(node=node, generation=generation, said=said, size=size)


def label(counter: int, of: int, label: Any, *, node: str = "shed", generation: int = 1) -> Heard:
    said = NodeLabel(nonce=NONCE, counter=counter, of=of, label=label)
    return Heard(node=node, generation=generation, said=said, size=50)


def contents(store: SampleStore) -> list[tuple[int, Any]]:
    """Counter, as it is in the values, and label of each sample."""
    found = []
    for one in store.read(range(1, store.stats().newest_id + 1)):
        values = memoryview(one.array.data).cast("f").tolist()
        assert (one.array.dtype, one.array.shape) == ("float32", (4,))
        found.append((sum(int(value * 2) % 2**16 << 16 * at for at, value in enumerate(values)), one.label))
    return found


def counts(store: SampleStore, taking: Intake, node: str = "shed") -> dict[str, int]:
    taking.flush()
    return dict(store.node_stats()[node].counts)


def test_a_sample_is_stored_and_acknowledged(store: SampleStore) -> None:
    taking = Intake(store, settings())
    assert taking.commit([sample(1, "walking"), sample(2)], 0.0) == [("shed", Ack(nonce=NONCE, next=3))]
    assert contents(store) == [(1, "walking"), (2, None)]
    assert store._database.execute("SELECT DISTINCT source FROM samples") == [("shed",)]
    assert store.node_stats()["shed"].samples == 2
    assert counts(store, taking) == {counted.STORED: 2, counted.LABELLED: 1}


def test_what_is_sent_again_is_answered_and_not_stored_again(store: SampleStore) -> None:
    taking = Intake(store, settings())
    taking.commit([sample(1), sample(3)], 0.0)
    for again in (taking, Intake(store, settings())):  # also after a restart
        (answer,) = again.commit([sample(3), sample(1), sample(3)], 0.0)
        assert answer == ("shed", Ack(nonce=NONCE, next=2, ranges=((3, 1),)))
    (answer,) = taking.commit([sample(2), sample(2)], 0.0)
    assert answer[1].next == 4
    assert [counter for counter, _ in contents(store)] == [1, 3, 2]
    assert counts(store, taking) == {counted.STORED: 3, counted.AGAIN: 4}


def test_what_is_only_sent_again_writes_nothing(store: SampleStore) -> None:
    taking = Intake(store, settings())
    taking.commit([sample(1)], 0.0)
    size = store.path.with_name("samples.db-wal").stat().st_size
    for _ in range(5):
        taking.commit([sample(1), Heard(node="shed", generation=1, said=Ask(NONCE), size=40)], 0.0)
    assert store.path.with_name("samples.db-wal").stat().st_size == size
    assert counts(store, taking)[counted.AGAIN] == 5


def test_an_ask_changes_nothing_and_is_answered(store: SampleStore) -> None:
    taking = Intake(store, settings())
    taking.commit([sample(7)], 0.0)
    ask = Heard(node="shed", generation=1, said=Ask(b"8 others"), size=40)
    assert taking.commit([ask], 0.0) == [("shed", Ack(nonce=b"8 others", next=1, ranges=((7, 1),)))]


def test_each_nonce_gets_an_answer_of_its_own(store: SampleStore) -> None:
    ask = Heard(node="shed", generation=1, said=Ask(b"8 others"), size=40)
    answers = Intake(store, settings()).commit([sample(1), ask, sample(2)], 0.0)
    assert answers == [("shed", Ack(nonce=NONCE, next=3)), ("shed", Ack(nonce=b"8 others", next=3))]


def test_a_purge_keeps_the_floor(store: SampleStore) -> None:
    taking = Intake(store, settings())
    taking.commit([sample(1), sample(2), sample(5)], 0.0)
    assert store.purge() == 3
    for after in (taking, Intake(store, settings())):
        (answer,) = after.commit([sample(1), sample(2), sample(5)], 0.0)
        assert answer[1] == Ack(nonce=NONCE, next=3, ranges=((5, 1),))
    assert len(store) == 0


def test_the_newest_label_wins_in_whatever_order(store: SampleStore) -> None:
    taking = Intake(store, settings())
    taking.commit([sample(1, 5), sample(2, 5)], 0.0)
    taking.commit([label(9, 1, "new"), label(4, 1, "old"), label(3, 2, None)], 0.0)
    assert contents(store) == [(1, "new"), (2, None)]


@pytest.mark.parametrize("together", [True, False])
def test_a_label_before_its_sample_waits(store: SampleStore, together: bool) -> None:
    first, then = [label(8, 3, "late"), label(9, 3, "later"), label(7, 3, "early")], [sample(3, "own")]
    if together:
        Intake(store, settings()).commit(first + then, 0.0)
    else:
        Intake(store, settings()).commit(first, 0.0)
        Intake(store, settings()).commit(then, 0.0)  # after a restart
    assert contents(store) == [(3, "later")]
    assert store._database.execute("SELECT * FROM node_label") == []


def test_labels_are_counted_as_they_come(store: SampleStore) -> None:
    taking = Intake(store, settings())
    taking.commit([sample(1, 5), sample(2), label(3, 2, 6), sample(4, None, node="barn")], 0.0)
    assert taking.labels() == {"shed": 2}
    taking.commit([label(7, 1, 8), label(8, 9, 1), sample(9), sample(1, 5)], 0.0)  # corrected, early, again
    assert Intake(store, settings()).labels() == {"shed": 4}


def test_a_label_of_a_purged_sample_is_gone(store: SampleStore) -> None:
    taking = Intake(store, settings())
    taking.commit([sample(1), sample(2)], 0.0)
    store.purge(before_id=2)
    (answer,) = taking.commit([label(3, 1, "x"), label(4, 2, "y")], 0.0)
    assert answer[1] == Ack(nonce=NONCE, next=5, gone=(3,))
    assert contents(store) == [(2, "y")]


def test_labels_whose_sample_was_given_up_do_not_stay(store: SampleStore) -> None:
    taking = Intake(store, settings())
    taking.commit([label(8, 3, "x"), label(9, 4, "y")], 0.0)
    (answer,) = taking.commit([sample(3 + 1024), label(2000, 2, "z")], 0.0)
    assert answer[1].gone == (2000,)
    assert store._database.execute("SELECT of FROM node_label") == []  # 2000 gave both up
    assert [counter for counter, _ in contents(store)] == [1027]


def test_nodes_do_not_touch_each_other(store: SampleStore) -> None:
    taking = Intake(store, settings())
    answers = taking.commit([sample(1, "a"), sample(1, "b", node="barn"), label(2, 1, "c", node="barn")], 0.0)
    assert [(node, ack.next) for node, ack in answers] == [("shed", 2), ("barn", 3)]
    assert contents(store) == [(1, "a"), (1, "c")]


def test_a_new_generation_counts_anew_and_keeps_the_samples(store: SampleStore) -> None:
    taking = Intake(store, settings())
    taking.commit([sample(1, "old"), label(9, 5, "waits")], 0.0)
    taking.commit(
        [sample(1, "new", generation=2), label(2, 1, "newer", generation=2), sample(5, generation=2)], 0.0
    )
    assert contents(store) == [(1, "old"), (1, "newer"), (5, None)]
    (answer,) = Intake(store, settings()).commit([sample(1, generation=2)], 0.0)
    assert answer[1] == Ack(nonce=NONCE, next=3, ranges=((5, 1),))


def test_a_generation_that_comes_back_begins_above_its_samples(store: SampleStore) -> None:
    """The file of nodes is an old copy, or was removed and the node added again."""
    taking = Intake(store, settings())
    taking.commit([sample(1, "old"), sample(7)], 0.0)
    taking.commit([sample(1, generation=2)], 0.0)
    for again in (taking, Intake(store, settings())):
        (answer,) = again.commit([sample(7, "again"), sample(1, "again"), sample(8)], 0.0)
        assert answer[1] == Ack(nonce=NONCE, next=9)
    assert contents(store) == [(1, "old"), (7, None), (1, None), (8, None)]


@pytest.mark.parametrize("damage", ["floor = 'one'", "taken = 'one'", "taken = x'01'", "floor = 0.5"])
def test_a_damaged_window_begins_above_its_samples_and_stops_no_other_node(
    store: SampleStore, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    Intake(store, settings()).commit([sample(1), sample(3), sample(1, node="barn")], 0.0)
    store._database.execute(f"UPDATE node_window SET {damage} WHERE node = 'shed'")  # noqa: S608
    taking = Intake(store, settings())
    answers = dict(taking.commit([sample(3), sample(4), sample(2, node="barn")], 0.0))
    assert (answers["shed"].next, answers["barn"].next) == (5, 3)
    assert len(store) == 5
    assert "shed" in caplog.text
    taking = Intake(store, settings())
    assert taking.commit([sample(4)], 0.0) == [("shed", Ack(nonce=NONCE, next=5))]


def test_a_sample_larger_than_the_owner_allows_is_gone(store: SampleStore) -> None:
    taking = Intake(store, settings(max_message_bytes=100))
    (answer,) = taking.commit([sample(1, size=101), sample(2, size=100), label(3, 1, "x")], 0.0)
    assert answer[1] == Ack(nonce=NONCE, next=4, gone=(1, 3))
    assert [counter for counter, _ in contents(store)] == [2]
    assert counts(store, taking)[counted.LARGE] == 1


def malformed(counter: int) -> Heard:
    return Heard(node="shed", generation=1, said=Malformed(NONCE, counter), size=50)


def test_a_malformed_message_is_settled_once_and_stores_nothing(store: SampleStore) -> None:
    taking = Intake(store, settings())
    (answer,) = taking.commit([sample(1), malformed(2), sample(3), label(4, 2, "x")], 0.0)
    assert answer[1] == Ack(nonce=NONCE, next=5, gone=(2, 4))
    (answer,) = Intake(store, settings()).commit([malformed(2), sample(2)], 0.0)  # also after a restart
    assert answer[1] == Ack(nonce=NONCE, next=5)
    assert [counter for counter, _ in contents(store)] == [1, 3]
    assert counts(store, taking) == {counted.STORED: 2, receiver.FORM: 1, counted.GONE: 1}


def test_malformed_messages_have_no_rate_of_their_own(store: SampleStore) -> None:
    taking = Intake(store, settings(max_per_second=1.0))
    (answer,) = taking.commit([malformed(one) for one in range(1, 1031)], 0.0)
    assert answer[1].next == 1025
    assert counts(store, taking) == {receiver.FORM: 1024, counted.RATE: 6}


def test_above_the_rate_nothing_is_taken_and_it_may_come_again(store: SampleStore) -> None:
    taking = Intake(store, settings(max_per_second=2.0))
    (answer,) = taking.commit([sample(one) for one in range(1, 1031)], 0.0)
    assert answer[1].next == 1025  # what a node may have kept comes at once
    (answer,) = taking.commit([sample(one) for one in range(1025, 1031)], 1.0)
    assert answer[1].next == 1027
    (answer,) = taking.commit([sample(one) for one in range(1, 1031)], 1.2)  # what is there costs nothing
    assert answer[1].next == 1027
    (answer,) = taking.commit([sample(1, node="barn")], 1.2)
    assert answer[1].next == 2
    assert counts(store, taking)[counted.RATE] == 6 + 4 + 4


def test_a_node_has_its_share_and_its_oldest_go(store: SampleStore) -> None:
    store.append([1.0], source="shed")  # an app may use the name
    taking = Intake(store, settings(max_samples=3))
    taking.commit([sample(1, node="barn")], 0.0)
    for one in range(1, 8):
        taking.commit([sample(one)], 0.0)
    held = store._database.execute("SELECT source, counter FROM samples ORDER BY id")
    assert held == [("shed", None), ("barn", 1), ("shed", 5), ("shed", 6), ("shed", 7)]
    assert store.stats().dropped == 4
    assert len(store) == 5


def test_a_commit_that_fails_changes_nothing(store: SampleStore, monkeypatch: pytest.MonkeyPatch) -> None:
    taking = Intake(store, settings())
    taking.commit([sample(1)], 0.0)

    def full(*_: object) -> None:
        raise StorageFull("no room")

    with monkeypatch.context() as patch:
        patch.setattr(NodeRows, "save_windows", full)
        with pytest.raises(StorageFull):
            taking.commit([sample(2)], 0.0)
    assert [counter for counter, _ in contents(store)] == [1]
    assert taking.commit([sample(2)], 0.0) == [("shed", Ack(nonce=NONCE, next=3))]
    assert [counter for counter, _ in contents(store)] == [1, 2]
    assert counts(store, taking) == {counted.STORED: 2}


@pytest.mark.parametrize("seed", range(8))
def test_any_order_with_losses_repeats_restarts_and_purges(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was acknowledged was stored exactly once; nothing is stored twice."""
    chance = random.Random(seed)
    store, taking = SampleStore(tmp_path / "samples.db"), None
    stored: list[int] = []
    settled, unsettled = set(), list(range(1, 400))
    save = NodeRows.save_windows

    def sometimes_full(*args: Any) -> None:
        if chance.random() < 0.2:
            raise StorageFull("no room")
        save(*args)

    monkeypatch.setattr(NodeRows, "save_windows", sometimes_full)
    while unsettled:
        if taking is None or chance.random() < 0.1:
            taking = Intake(store, settings(max_per_second=10**6))
        batch = [sample(chance.choice(unsettled[:60])) for _ in range(chance.randrange(1, 20))]
        batch += [sample(one) for one in chance.sample(sorted(settled), min(3, len(settled)))]
        chance.shuffle(batch)
        ack = None
        with suppress(StorageFull):
            ((_, ack),) = taking.commit(batch, 0.0)
        if chance.random() < 0.1:
            stored += [counter for counter, _ in contents(store)]
            store.purge()
        if ack is not None and chance.random() < 0.7:  # else it is lost
            named = {one for first, count in ack.ranges for one in range(first, first + count)}
            settled |= {one for one in unsettled if one < ack.next or one in named}
            unsettled = [one for one in unsettled if one not in settled]
    stored += [counter for counter, _ in contents(store)]
    assert sorted(stored) == list(range(1, 400))
    store.close()
