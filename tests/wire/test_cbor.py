"""Strict CBOR: what we write is deterministic, and nothing else is read."""

import math
import struct
import tracemalloc
from enum import IntEnum

import cbor2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fedclient import limits
from fedclient.errors import WireError
from fedclient.wire import cbor

MAX_BYTES = 1 << 20

leaves = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**64), 2**64 - 1), st.floats(), st.binary(), st.text(max_size=40)
)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.dictionaries(st.integers(-(2**64), 2**64 - 1), inner, max_size=5),
        st.builds(cbor.Tagged, st.sampled_from([18, 85]), inner),
    ),
    max_leaves=12,
).filter(lambda value: depth(value) <= limits.MAX_CBOR_DEPTH)


def depth(value: object) -> int:
    if isinstance(value, cbor.Tagged):
        return 1 + depth(value.value)
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


def same(left: object, right: object) -> bool:
    """Equal in type and value; NaN equals NaN, and 0.0 is not -0.0."""
    return repr(left) == repr(right)


def decode(data: bytes) -> object:
    return cbor.decode(data, max_bytes=MAX_BYTES)


def sort_maps(value: object) -> object:
    """Put maps into the order they have on the wire, as a decoder returns them."""
    if isinstance(value, cbor.Tagged):
        return cbor.Tagged(value.tag, sort_maps(value.value))
    if isinstance(value, list):
        return [sort_maps(item) for item in value]
    if isinstance(value, dict):
        ordered = sorted(value, key=lambda key: (key < 0, abs(key)))
        return {key: sort_maps(value[key]) for key in ordered}
    return value


@given(values)
def test_what_is_written_is_read_back(value: object) -> None:
    assert same(decode(cbor.encode(value)), sort_maps(value))


@given(st.binary(max_size=64))
@example(bytes.fromhex("d2d2d2d2d2d2d2d2d200"))
def test_any_bytes_are_refused_or_deterministic(data: bytes) -> None:
    check_refused_or_deterministic(data)


def check_refused_or_deterministic(data: bytes) -> None:
    try:
        value = decode(data)
    except WireError:
        return
    assert cbor.encode(value) == data


@given(values, st.data())
def test_a_changed_byte_is_refused_or_deterministic(value: object, data: st.DataObject) -> None:
    encoded = bytearray(cbor.encode(value))
    encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    check_refused_or_deterministic(bytes(encoded))


@given(values)
def test_no_prefix_and_no_extension_is_read(value: object) -> None:
    encoded = cbor.encode(value)
    for size in range(len(encoded)):
        with pytest.raises(WireError):
            decode(encoded[:size])
    with pytest.raises(WireError):
        decode(encoded + b"\x00")


@given(values)
def test_cbor2_writes_the_same_lengths(value: object) -> None:
    theirs = cbor2.dumps(
        value,
        default=lambda encoder, tagged: encoder.encode(cbor2.CBORTag(tagged.tag, tagged.value)),
        canonical=True,
    )
    assert sorted(theirs) == sorted(cbor.encode(value))  # the same bytes but for the order of map keys


def test_map_keys_are_sorted_as_bytes_not_by_length() -> None:
    # RFC 8949 4.2.1: 10, 100, -1; the older rule of RFC 7049 puts -1 before 100.
    assert cbor.encode({-1: 0, 100: 0, 10: 0}) == bytes.fromhex("a30a001864002000")
    with pytest.raises(WireError, match="deterministic"):
        decode(bytes.fromhex("a30a002000186400"))


class Colour(IntEnum):
    RED = 1


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (Colour.RED, "01"),
        ((1, 2), "820102"),
        (2**64 - 1, "1bffffffffffffffff"),
        (-(2**64), "3bffffffffffffffff"),
        (-0.0, "f98000"),
        (math.nan, "f97e00"),
        (math.inf, "f97c00"),
        (2.0**-24, "f90001"),
        (65536.0, "fa47800000"),
        (0.1, "fb3fb999999999999a"),
        (cbor.Tagged(18, [b"", {}]), "d28240a0"),
        (cbor.Tagged(85, struct.pack("<f", 1.0)), "d855440000803f"),
    ],
    ids=repr,
)
def test_golden_bytes(value: object, encoded: str) -> None:
    assert cbor.encode(value).hex() == encoded


REFUSED = {  # by which rule, so that no rule hides behind another
    "ends too early": {
        "nothing": "", "second item": "82626100", "head": "821900",
        "argument cut": "19", "argument cut later": "1900", "string cut": "41", "text cut": "6261",
    },
    "CBOR has .* bytes, its item": {"trailing": "0000"},
    "announces": {
        "array": "81", "tag": "d2", "two in one byte": "8200", "map of one": "a1", "no value": "a101",
        "map of two in three": "a2010203",
    },
    "not deterministic": {
        "long head": "1817", "longer head": "190017", "long negative": "3800", "long string head": "580161",
        "long array head": "980100", "long map head": "b8010000", "long tag head": "d81280",
        "wide float": "fb3ff0000000000000", "NaN with payload": "f97e01", "negative NaN": "f9fe00",
        "keys out of order": "a202000100",
    },
    "not deterministic|key twice": {"key twice": "a201000100"},  # who notices depends on cbor2's version
    "indefinite length or reserved": {
        "bytes": "5f4100ff", "text": "7f6161ff", "array": "9f00ff", "map": "bf0000ff", "break": "ff",
        "28": "1c", "29": "5d", "30": "9e", "simple 30": "fe",
    },
    "key before byte .* not an integer": {
        "text": "a1616100", "bytes": "a1416100", "float": "a1f93c0000", "bool": "a1f500",
        "null": "a1f600", "array": "a18000", "map": "a1a000", "tagged": "a1d20000",
        "second": "a20100616100", "deeper": "81a101a1616100",
        "after a map": "a201a10101616100",
    },
    "simple value": {
        "undefined": "f7", "simple 0": "e0", "simple 16": "f0", "simple 24": "f818",
        "false in two bytes": "f814", "simple 255": "f8ff",
    },
    "tag .* is not allowed": {
        "bignum": "c249010000000000000000", "small bignum": "c24101", "date": "c11a514b67b0",
        "shared": "d81c80", "reference": "d81d00", "string reference": "d9010080",
        "self-described": "d9d9f700", "set": "d9010280", "float64": "d85640", "COSE_Sign": "d86280",
    },
    "text that is not UTF-8": {"byte": "61ff", "surrogate": "63eda080", "overlong": "62c080", "cut": "61c3"},
}  # fmt: skip
CASES = [(rule, name) for rule, group in REFUSED.items() for name in group]


@pytest.mark.parametrize(("rule", "name"), CASES)
def test_refused(rule: str, name: str) -> None:
    with pytest.raises(WireError, match=rule):
        decode(bytes.fromhex(REFUSED[rule][name]))


# --- sequences (RFC 8742) ---------------------------------------------------------------------------
def sequence(data: bytes, count: int, max_bytes: int = MAX_BYTES) -> tuple[list[object], bytes]:
    return cbor.decode_sequence(data, count, max_bytes=max_bytes)


@given(st.lists(values.filter(lambda value: depth(value) < limits.MAX_CBOR_DEPTH), max_size=4), st.binary())
def test_a_sequence_is_read_back_and_what_follows_is_left_alone(items: list[object], after: bytes) -> None:
    encoded = cbor.encode_sequence(items)
    assert encoded == cbor.encode(items)[1:]
    found, rest = sequence(encoded + after, len(items))
    assert same(found, sort_maps(items))
    assert rest == after
    for size in range(len(encoded)):
        with pytest.raises(WireError):
            sequence(encoded[:size], len(items))


@given(st.binary(max_size=64), st.integers(0, 5))
def test_any_bytes_are_refused_or_a_deterministic_sequence(data: bytes, count: int) -> None:
    try:
        found, rest = sequence(data, count)
    except WireError:
        return
    assert len(found) == count
    assert cbor.encode_sequence(found) + rest == data


@pytest.mark.parametrize(("rule", "name"), [case for case in CASES if case[1] not in ("nothing", "trailing")])
def test_every_rule_of_items_holds_in_a_sequence(rule: str, name: str) -> None:
    bad = bytes.fromhex(REFUSED[rule][name])
    for before in ([], [7]):
        with pytest.raises(WireError, match=rule):
            sequence(cbor.encode_sequence(before) + bad, len(before) + 1)


def test_a_sequence_is_looked_for_within_its_bound_alone() -> None:
    body = bytes(range(256)) * 8
    assert sequence(b"\x01\x02" + body, 2, max_bytes=2) == ([1, 2], body)
    for data in (
        b"\x01\x18\x20" + body,
        b"\x01\x42ab",
        b"\x01\x82\x00\x00",
        b"\x01\x9a\x00\x00\x04\x00" + body,
    ):
        with pytest.raises(WireError):
            sequence(data, 2, max_bytes=2)


@pytest.mark.parametrize(
    "value",
    [
        2**64, -(2**64) - 1, "\ud800", {"a": 1}, {True: 1}, {1.0: 1}, {b"a": 1}, {2**64: 1}, ..., {1},
        bytearray(1), cbor.Tagged(2, b"\x01"), cbor2.CBORTag(18, []), cbor2.undefined,
    ],
    ids=repr,
)  # fmt: skip
def test_a_value_that_cannot_be_read_cannot_be_written(value: object) -> None:
    with pytest.raises(WireError):
        cbor.encode(value)


@pytest.mark.parametrize("head", ["81", "a100", "d2"])
def test_depth_is_bounded_alike_on_both_ends(head: str) -> None:
    deepest = bytes.fromhex(head * limits.MAX_CBOR_DEPTH + "00")
    value = decode(deepest)
    assert cbor.encode(value) == deepest
    with pytest.raises(WireError, match="deep"):
        decode(bytes.fromhex(head) + deepest)
    with pytest.raises(WireError, match="deep"):
        cbor.encode([value])


def test_a_value_inside_itself_ends() -> None:
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(WireError, match="deep"):
        cbor.encode(endless)


def test_items_and_bytes_are_bounded() -> None:
    most = limits.MAX_CBOR_ITEMS - 1  # the array is an item too
    assert decode(cbor.encode([0] * most)) == [0] * most
    with pytest.raises(WireError, match="many"):
        decode(cbor.encode([0] * (most + 1)))
    assert cbor.decode(b"\x82\x00\x00", max_bytes=3) == [0, 0]
    with pytest.raises(WireError, match="at most 2"):
        cbor.decode(b"\x82\x00\x00", max_bytes=2)


def test_tags_come_back_as_ours_with_plain_lists_and_maps_inside() -> None:
    value = [{1: cbor.Tagged(18, [b"", {1: [2]}, cbor.Tagged(85, b"")])}, [3]]
    assert same(decode(cbor.encode(value)), value)
    assert type(decode(cbor.encode(value))[0][1].value[1]) is dict


def test_long_text_of_wide_characters() -> None:
    text = "x" + "\N{SMILING FACE WITH SUNGLASSES}" * 50_000  # no buffer of a power of two ends between two
    assert decode(cbor.encode(text)) == text


BOMBS = [
    "9bffffffffffffffff", "9b00000000ffffffff", "9a7fffffff", "5bffffffffffffffff", "5b7fffffffffffffff",
    "7bffffffffffffffff", "5a7fffffff00", "bbffffffffffffffff", "bb7fffffffffffffff", "ba7fffffff",
    "81" * 100_000, "a100" * 100_000, "d2" * 100_000, "9f" * 100_000, "5f" * 100_000,
    "81" * 7 + "9bffffffffffffffff", "8e" * 8, "99ffff" + "00" * 65_534, "9a000186a0" + "00" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS, ids=lambda bomb: f"{bomb[:20]}.{len(bomb) // 2}")
def test_a_bomb_is_refused_without_allocating(bomb: str) -> None:
    data = bytes.fromhex(bomb)
    tracemalloc.start()
    try:
        with pytest.raises(WireError):
            decode(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 * 1024
