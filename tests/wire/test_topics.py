"""Topics: built and taken apart in one place (PROTOCOL 2)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedclient.errors import WireError
from fedclient.limits import MAX_BLOB_CHUNKS
from fedclient.values import MessageType
from fedclient.wire.topics import Topics, blob_name, check_device, check_federation

DEVICE = "abcdefgh234567ab"
TOPICS = Topics("farm-7")
UP = [MessageType.ENROL, MessageType.UPDATE, MessageType.STATUS]


def test_rule_2_the_topics_are_the_protocols() -> None:
    assert [TOPICS.up(DEVICE, kind) for kind in UP] == [
        f"fl/v1/farm-7/up/{DEVICE}/{name}" for name in ("enroll", "update", "status")
    ]
    assert TOPICS.receipt(DEVICE) == f"fl/v1/farm-7/down/{DEVICE}/receipt"
    assert TOPICS.manifest == "fl/v1/farm-7/all/manifest"
    assert TOPICS.blob(bytes(range(32)), 3) == "fl/v1/farm-7/all/blob/000102030405060708090a0b0c0d0e0f/3"
    assert TOPICS.command(DEVICE) == f"fl/v1/farm-7/down/{DEVICE}/command"
    assert TOPICS.online(DEVICE) == f"fl/v1/farm-7/up/{DEVICE}/online"
    assert TOPICS.messages_up == tuple(f"fl/v1/farm-7/up/+/{name}" for name in ("enroll", "update", "status"))


@pytest.mark.parametrize("kind", UP)
def test_a_topic_up_says_who_and_what(kind) -> None:
    assert TOPICS.parse_up(TOPICS.up(DEVICE, kind)) == (DEVICE, kind)


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "fl/v1/farm-7/up/",
        f"fl/v1/other/up/{DEVICE}/update",
        f"fl/v1/farm-77/up/{DEVICE}/update",
        f"fl/v2/farm-7/up/{DEVICE}/update",
        f"fl/v1/farm-7/down/{DEVICE}/receipt",
        f"fl/v1/farm-7/up/{DEVICE}/receipt",
        f"fl/v1/farm-7/up/{DEVICE}/online",
        f"fl/v1/farm-7/down/{DEVICE}/command",
        f"fl/v1/farm-7/up/{DEVICE}/update/",
        f"fl/v1/farm-7/up/{DEVICE}/update\n",
        f"fl/v1/farm-7/up/{DEVICE}x/update",
        f"fl/v1/farm-7/up/{DEVICE[1:]}/update",
        f"fl/v1/farm-7/up/{DEVICE.upper()}/update",
        "fl/v1/farm-7/up/+/update",
        "fl/v1/farm-7/all/manifest",
    ],
)
def test_rule_2_any_other_topic_is_refused(topic) -> None:
    with pytest.raises(WireError):
        TOPICS.parse_up(topic)


@given(st.text(max_size=40))
def test_any_text_is_a_topic_or_an_error(text) -> None:
    assert TOPICS.parse_blob(text) is None
    with pytest.raises(WireError):
        TOPICS.parse_up(text)


@pytest.mark.parametrize("number", [0, 1, MAX_BLOB_CHUNKS])
def test_a_blob_topic_says_which_chunk(number) -> None:
    blob_hash = bytes(range(32))
    assert TOPICS.parse_blob(TOPICS.blob(blob_hash, number)) == (blob_name(blob_hash), number)


@pytest.mark.parametrize(
    "tail", ["", "x", "-1", "1/2", "²", "٣", "12345", str(MAX_BLOB_CHUNKS + 1), "1 ", "+1"]
)
def test_no_chunk_number_is_no_blob_topic(tail) -> None:
    assert TOPICS.parse_blob(f"fl/v1/farm-7/all/blob/00/{tail}") is None


@pytest.mark.parametrize("name", ["a", "0", "farm-7", "a" * 12, "a_b"])
def test_rule_2_federations_have_1_to_12_characters(name) -> None:
    assert check_federation(name) == name


@pytest.mark.parametrize("name", ["", "a" * 13, "Farm", "-a", "_a", "a/b", "a+", "a#", "ä", "a\n", "a b"])
def test_rule_2_a_federation_never_widens_a_topic(name) -> None:
    with pytest.raises(WireError, match="federation"):
        Topics(name)


DEVICE_TOPICS = (
    TOPICS.receipt,
    TOPICS.command,
    TOPICS.online,
    lambda one: TOPICS.up(one, MessageType.UPDATE),
)


@pytest.mark.parametrize("name", ["", DEVICE[:-1], DEVICE + "a", DEVICE[:-1] + "1", DEVICE[:-1] + "+", "#"])
def test_rule_2_a_device_id_is_16_characters_of_base32(name) -> None:
    for build in (check_device, *DEVICE_TOPICS):
        with pytest.raises(WireError, match="device id"):
            build(name)
