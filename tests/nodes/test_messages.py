"""Bodies of nodes: golden bytes, round trips, and nothing that the page does not allow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedclient import limits
from fedclient.errors import CryptoError, FedClientError, WireError
from fedclient.nodes import messages
from fedclient.nodes.messages import NodeSample
from tests.nodes import golden

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "nodes.json").read_text())
DECODE = {
    "sample": (messages.decode_sample, limits.MAX_NODE_SAMPLE_BYTES),
    "label": (messages.decode_label, limits.MAX_NODE_LABEL_BYTES),
    "ack": (messages.decode_ack, limits.MAX_NODE_ACK_BYTES),
    "head": (messages.decode_head, limits.MAX_NODE_HEAD_BYTES),
}
ENCODE: dict[str, Any] = {kind: getattr(messages, f"encode_{kind}") for kind in DECODE}


def opened(kind: str, message: bytes) -> Any:
    decode, most = DECODE[kind]
    key = golden.KEYS.up if kind in {"sample", "label"} else golden.KEYS.down
    return decode(key.open(golden.TOPIC_OF[kind], message, most))


def named(group: str) -> list[Any]:
    return [pytest.param(one, id=f"{one['kind']}: {one['name']}") for one in VECTORS[group]]


def test_the_vectors_are_those_of_this_code() -> None:
    assert json.loads(json.dumps(golden.vectors())) == VECTORS


@pytest.mark.parametrize("one", named("good"))
def test_golden_messages_decode_and_encode_to_the_same_bytes(one: dict[str, Any]) -> None:
    value = opened(one["kind"], bytes.fromhex(one["message"]))
    assert value == getattr(golden, one["kind"].upper() + "S")[one["name"]]
    assert ENCODE[one["kind"]](value).hex() == one["body"]


@pytest.mark.parametrize("one", named("bad"))
def test_a_body_that_the_page_does_not_allow_is_refused(one: dict[str, Any]) -> None:
    with pytest.raises(WireError):
        opened(one["kind"], bytes.fromhex(one["message"]))


@pytest.mark.parametrize("one", [one for one in named("bad") if "settles" in one.values[0]])
def test_a_counter_that_can_be_read_is_settled_all_the_same(one: dict[str, Any]) -> None:
    topic, most = golden.TOPIC_OF[one["kind"]], DECODE[one["kind"]][1]
    body = golden.KEYS.up.open(topic, bytes.fromhex(one["message"]), most)
    if one["settles"] is None:
        with pytest.raises(WireError):
            messages.decode_malformed(body)
    else:
        assert messages.decode_malformed(body) == messages.Malformed(golden.NONCE, one["settles"])


@pytest.mark.parametrize("one", named("forged"))
def test_a_tag_of_anything_else_is_refused(one: dict[str, Any]) -> None:
    with pytest.raises((CryptoError, WireError)):
        opened(one["kind"], bytes.fromhex(one["message"]))


@pytest.mark.parametrize("kind", DECODE)
def test_no_flipped_bit_and_no_cut_gets_through(kind: str) -> None:
    group = getattr(golden, kind.upper() + "S")
    message = golden.seal(kind, ENCODE[kind](next(iter(group.values()))))
    for at in range(8 * len(message)):
        flipped = bytearray(message)
        flipped[at // 8] ^= 1 << at % 8
        with pytest.raises(CryptoError):
            opened(kind, bytes(flipped))
    for size in range(len(message)):
        with pytest.raises(FedClientError):
            opened(kind, message[:size])


@pytest.mark.parametrize("kind", DECODE)
def test_a_flipped_bit_in_a_body_with_a_right_tag_raises_nothing_but_ours(kind: str) -> None:
    body = ENCODE[kind](next(iter(getattr(golden, kind.upper() + "S").values())))
    for at in range(8 * len(body)):
        flipped = bytearray(body)
        flipped[at // 8] ^= 1 << at % 8
        try:
            value = opened(kind, golden.seal(kind, bytes(flipped)))
        except WireError:
            continue
        assert ENCODE[kind](value) == bytes(flipped)


def test_the_largest_ack_fits_its_bound() -> None:
    body = messages.encode_ack(golden.ACKS["most"])
    assert limits.MAX_NODE_ACK_BYTES - 256 < len(golden.seal("ack", body)) <= limits.MAX_NODE_ACK_BYTES


def test_a_message_above_its_bound_is_not_even_hashed() -> None:
    sample = golden.sample(1, "int8", bytes(limits.MAX_NODE_SAMPLE_BYTES), 1.0)
    with pytest.raises(WireError, match="allowed are"):
        opened("sample", golden.seal("sample", messages.encode_sample(sample)))


def test_values_are_integers_times_their_scale_in_float32() -> None:
    sample: NodeSample = golden.SAMPLES["int16"]
    assert list(sample.values()) == [-32.0, 0.0, 32767 / 1024]
    assert list(golden.SAMPLES["float32"].values()) == [-1.5, 0.0, 3.25]
    assert list(golden.SAMPLES["int8"].raw()) == [0, 1, 127, -128, -1]
