"""Fetching: few subscriptions, every chunk verified, taken up anywhere, poison noticed (PROTOCOL 6)."""

from __future__ import annotations

import hashlib

import pytest

from fedclient.client.fetch import MAX_BAD_COPIES, WINDOW, Fetch, check_sizes
from fedclient.device.blobs import Blobs
from fedclient.errors import ConfigError
from fedclient.limits import MAX_CHUNK_BYTES
from fedclient.values import BlobRef
from fedclient.wire.blobs import split
from tests.client.harness import TOPICS

MODEL = hashlib.shake_128(b"model").digest(6 * MAX_CHUNK_BYTES + 9)
HEAD = b"head" * 10
BLOBS = {blob.ref: blob for blob in (split(MODEL), split(HEAD))}
MODEL_REF, HEAD_REF = BLOBS
RETAINED = {
    TOPICS.blob(ref.hash, number): chunk
    for ref, blob in BLOBS.items()
    for number, chunk in enumerate((blob.hashes, *blob.chunks))
}


class Wire:
    """Subscriptions as the broker sees them; a new one brings the retained message."""

    def __init__(self, retained: dict[str, bytes] | None = None) -> None:
        self.retained = dict(retained or RETAINED)
        self.subscribed: set[str] = set()
        self.queue: list[str] = []
        self.asked: list[str] = []

    def subscribe(self, topic: str) -> None:
        assert "#" not in topic, "6: never blob/#"
        assert "+" not in topic, "6: never blob/#"
        self.subscribed.add(topic)
        self.asked.append(topic)
        assert len(self.subscribed) <= WINDOW
        self.queue.append(topic)

    def unsubscribe(self, topic: str) -> None:
        self.subscribed.discard(topic)

    def run(self, fetch: Fetch, *, messages: int = 1000, order: int = 0) -> int:
        """Carry at most so many messages; returns how many there were."""
        fetch.update(self.subscribe, self.unsubscribe)
        for count in range(messages):
            if not self.queue:
                return count
            topic = self.queue.pop(order if len(self.queue) > 1 else 0)
            fetch.take(topic, self.retained.get(topic, b""))
            fetch.update(self.subscribe, self.unsubscribe)
        return messages


@pytest.fixture
def blobs(tmp_path) -> Blobs:
    return Blobs(tmp_path)


def begin(blobs: Blobs) -> Fetch:
    return Fetch((MODEL_REF, HEAD_REF), blobs, TOPICS)


@pytest.mark.parametrize("order", [0, -1, 1])
def test_rule_6_a_small_window_brings_everything_in_any_order(blobs, order) -> None:
    wire, fetch = Wire(), begin(blobs)
    wire.run(fetch, order=order)
    assert fetch.done
    assert (blobs.read(MODEL_REF), blobs.read(HEAD_REF)) == (MODEL, HEAD)
    assert not wire.subscribed
    assert len(wire.asked) == len(set(wire.asked)) == 1 + 7 + 1  # a single chunk needs no list


@pytest.mark.parametrize("messages", range(1, 9))
def test_rule_6_a_fetch_goes_on_at_every_chunk(blobs, messages) -> None:
    assert Wire().run(begin(blobs), messages=messages) == messages
    wire = Wire()
    again = begin(blobs)  # a new process: only the disk remembers
    wire.run(again)
    assert again.done
    assert blobs.read(MODEL_REF) == MODEL
    assert len(wire.asked) == (1 + 7 + 1) - (messages - 1) if messages < 8 else len(wire.asked) == 1


def test_rule_6_what_is_whole_is_not_fetched_again(blobs) -> None:
    Wire().run(begin(blobs))
    wire, again = Wire(), begin(blobs)
    assert again.done
    wire.run(again)
    assert not wire.asked


def test_rule_6_after_a_reconnect_everything_wanted_is_asked_for_again(blobs) -> None:
    wire, fetch = Wire(), begin(blobs)
    wire.run(fetch, messages=3)
    before = set(wire.subscribed)
    wire.subscribed.clear()
    wire.queue.clear()
    fetch.reconnected()
    wire.run(fetch, messages=0)
    assert wire.subscribed == before
    wire.run(fetch)
    assert fetch.done


def test_rule_6_ending_gives_up_every_subscription(blobs) -> None:
    wire, fetch = Wire(), begin(blobs)
    wire.run(fetch, messages=3)
    assert wire.subscribed
    fetch.end(wire.unsubscribe)
    assert not wire.subscribed


@pytest.mark.parametrize("number", [0, 1, 4, 7])
def test_rule_6_three_bad_copies_are_poison_and_never_reach_the_disk(blobs, number) -> None:
    topic = TOPICS.blob(MODEL_REF.hash, number)
    wire, fetch = Wire({**RETAINED, topic: b"poison"}), begin(blobs)
    for _ in range(50):
        if fetch.poisoned:
            break
        wire.run(fetch, messages=1)
    assert fetch.poisoned
    assert fetch.bad_copies == MAX_BAD_COPIES
    assert not fetch.done
    good = Wire()
    again = begin(blobs)  # later, when the gateway has published the good ones
    good.run(again)
    assert again.done
    assert blobs.read(MODEL_REF) == MODEL


def test_rule_6_one_bad_copy_is_asked_for_again(blobs) -> None:
    topic = TOPICS.blob(MODEL_REF.hash, 2)
    wire, fetch = Wire({**RETAINED, topic: RETAINED[topic][:-1]}), begin(blobs)
    while fetch.bad_copies == 0:
        wire.run(fetch, messages=1)
    wire.retained[topic] = RETAINED[topic]
    wire.run(fetch)
    assert fetch.done
    assert fetch.bad_copies == 1


def test_rule_6_chunks_nobody_asked_for_are_ignored(blobs) -> None:
    fetch = begin(blobs)
    fetch.take(TOPICS.blob(MODEL_REF.hash, 3), RETAINED[TOPICS.blob(MODEL_REF.hash, 3)])
    fetch.take(TOPICS.blob(HEAD_REF.hash, 1), HEAD)
    fetch.take(TOPICS.manifest, b"x")
    fetch.take(TOPICS.blob(MODEL_REF.hash, 0), b"")  # a cleared retained message
    assert fetch.bad_copies == 0
    assert not blobs.has(HEAD_REF)
    Wire().run(fetch)
    assert fetch.done
    fetch.take(TOPICS.blob(HEAD_REF.hash, 1), b"late")
    assert fetch.bad_copies == 0


@pytest.mark.parametrize(("max_bytes", "free_bytes"), [(29, 1000), (1000, 29)])
def test_rule_6_what_there_is_no_room_for_is_refused(max_bytes, free_bytes) -> None:
    refs = (BlobRef(hash=b"m" * 32, size=20), BlobRef(hash=b"h" * 32, size=10))
    check_sizes(refs, 30, 30)
    with pytest.raises(ConfigError, match="30 bytes"):
        check_sizes(refs, max_bytes, free_bytes)
