"""Messages of nodes: what is genuine is opened, anything else is counted under why."""

from __future__ import annotations

from collections import Counter

import pytest

from fedclient.limits import MAX_NODE_SAMPLE_BYTES
from fedclient.nodes import receiver
from fedclient.nodes.keys import Node, derive
from fedclient.nodes.messages import Malformed, encode_label, encode_sample
from fedclient.nodes.receiver import Receiver
from tests.nodes import golden

TOPIC = golden.TOPICS.sample("shed")
SAMPLE = golden.SAMPLES["int8"]
BODY = encode_sample(SAMPLE)
SECRET, OTHER = bytes(range(32)), bytes(32)
KEYS = derive(SECRET, 2)


@pytest.fixture
def ears() -> Receiver:
    found = Receiver("local")
    found.know(
        {
            "shed": Node(name="shed", generation=2, secret=SECRET),
            "barn": Node(name="barn", generation=1, secret=OTHER),
            "gone": Node(name="gone", generation=3, secret=None),
        }
    )
    return found


def test_a_genuine_message_is_heard(ears: Receiver) -> None:
    message = KEYS.up.seal(TOPIC, BODY)
    heard = ears.open(TOPIC, message)
    assert heard == receiver.Heard(node="shed", generation=2, said=SAMPLE, size=len(message))
    label = golden.LABELS["number"]
    topic = golden.TOPICS.label("shed")
    found = ears.open(topic, KEYS.up.seal(topic, encode_label(label)))
    assert found is not None
    assert found.said == label
    assert not ears.refused
    assert ears.active == ["shed", "barn"]


def test_a_malformed_body_is_heard_as_far_as_it_can_be_settled(ears: Receiver) -> None:
    for kind, body in (("sample", BODY[:-1]), ("label", BODY)):
        topic = getattr(golden.TOPICS, kind)("shed")
        message = KEYS.up.seal(topic, body)
        said = Malformed(golden.NONCE, SAMPLE.counter)
        assert ears.open(topic, message) == receiver.Heard(
            node="shed", generation=2, said=said, size=len(message)
        )
    assert not ears.refused  # it is counted with the commit that takes its counter


BARN = golden.TOPICS.sample("barn")
CASES = {
    "another node's topic": (BARN, KEYS.up.seal(TOPIC, BODY), ("barn", receiver.TAG)),
    "another node's secret": (TOPIC, derive(OTHER, 2).up.seal(TOPIC, BODY), ("shed", receiver.TAG)),
    "the secret before": (TOPIC, derive(SECRET, 1).up.seal(TOPIC, BODY), ("shed", receiver.TAG)),
    "an ack's key": (TOPIC, KEYS.down.seal(TOPIC, BODY), ("shed", receiver.TAG)),
    "a flipped bit": (TOPIC, b"\x84" + KEYS.up.seal(TOPIC, BODY)[1:], ("shed", receiver.TAG)),
    "cut": (TOPIC, KEYS.up.seal(TOPIC, BODY)[:-1], ("shed", receiver.TAG)),
    "empty": (TOPIC, b"", ("shed", receiver.LENGTH)),
    "oversized": (TOPIC, bytes(MAX_NODE_SAMPLE_BYTES + 1), ("shed", receiver.LENGTH)),
    "malformed from the start": (TOPIC, KEYS.up.seal(TOPIC, b"\x80"), ("shed", receiver.FORM)),
    "unknown": (golden.TOPICS.sample("nobody"), KEYS.up.seal(TOPIC, BODY), ("", receiver.UNKNOWN)),
    "revoked": (golden.TOPICS.sample("gone"), KEYS.up.seal(TOPIC, BODY), ("gone", receiver.REVOKED)),
    "an ack": (golden.TOPICS.ack("shed"), b"", ("", receiver.TOPIC)),
    "another federation": (TOPIC.replace("local", "farm"), KEYS.up.seal(TOPIC, BODY), ("", receiver.TOPIC)),
}


@pytest.mark.parametrize("case", CASES)
def test_anything_else_is_counted_under_why(ears: Receiver, case: str) -> None:
    topic, message, why = CASES[case]
    assert ears.open(topic, message) is None
    assert ears.refused == Counter({why: 1})


def test_names_that_are_invented_do_not_fill_the_memory(ears: Receiver) -> None:
    for number in range(1000):
        ears.open(golden.TOPICS.sample(f"x{number}"), b"")
    assert ears.refused == Counter({("", receiver.UNKNOWN): 1000})
