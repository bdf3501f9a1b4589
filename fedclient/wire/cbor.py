"""Strict deterministic CBOR (RFC 8949 section 4.2.1), and the only home of cbor2.

Allowed: integers of 64 bits, floats, byte and text strings, false, true, null, arrays, maps with
integer keys, and four tags: 18 (COSE_Sign1) and three typed arrays of RFC 8746: 72 (int8), 77 (int16) and
85 (float32), little-endian.

Reading takes three steps, and each rule lives in exactly one of them (docs/adr/0003-strict-cbor.md):

1. `_scan` walks the heads without building anything.  It refuses whatever could make a decoder
   work, allocate or recurse beyond the message's own size, and every type not listed above.
2. cbor2 builds the value, and refuses text that is not UTF-8 (6.0 refuses keys that come twice, too).
3. The value is encoded again.  Any difference (a long head, a wide float, keys out of order or
   twice) means that the sender did not write the one deterministic form.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import cast

import cbor2

from fedclient import limits
from fedclient.errors import WireError

TAG_COSE_SIGN1 = 18
TAG_INT8 = 72  # the next two: of nodes
TAG_INT16_LE = 77
TAG_FLOAT32_LE = 85
_TAGS = (TAG_COSE_SIGN1, TAG_INT8, TAG_INT16_LE, TAG_FLOAT32_LE)
_SIMPLE = frozenset((0xF4, 0xF5, 0xF6, 0xF9, 0xFA, 0xFB))  # false, true, null, floats of 2, 4, 8 bytes
_BYTE = tuple(bytes((value,)) for value in range(256))
_CONSTANTS = {False: b"\xf4", True: b"\xf5", None: b"\xf6"}
_LEAVES = frozenset((bytes, int, str, float, bool, type(None)))
_NAN = b"\xf9\x7e\x00"
_FLOATS = tuple((head, struct.Struct(code)) for head, code in ((b"\xf9", ">e"), (b"\xfa", ">f")))


@dataclass(frozen=True, slots=True)
class Tagged:
    """A value under one of the allowed tags; what may stand inside is for its reader to check."""

    tag: int
    value: object


def encode(value: object) -> bytes:
    """Write `value` in its one deterministic form.

    Raises:
        WireError: a type, a number, a tag or a depth that `decode` would refuse.
    """
    out: list[bytes] = []
    _put(out, value, 0)
    return b"".join(out)


def encode_sequence(values: Iterable[object]) -> bytes:
    """Write values one after the other (RFC 8742): an array without its head.  Raises as `encode`."""
    return b"".join(map(encode, values))


def decode(data: bytes, *, max_bytes: int) -> object:
    """Read one item: int, float, bytes, str, bool, None, list, dict or `Tagged`, nested.

    Work and memory stay in proportion to `len(data)`, whatever lengths it claims.

    Raises:
        WireError: anything but the deterministic form of an allowed value, or more than `max_bytes`.
    """
    if len(data) > max_bytes:
        raise WireError(f"CBOR item has {len(data)} bytes, at most {max_bytes} are allowed here")
    end, foreign = _scan(data)
    if end != len(data):
        raise WireError(f"CBOR has {len(data)} bytes, its item {end}")
    return _value(data, foreign)


def decode_sequence(data: bytes, count: int, *, max_bytes: int) -> tuple[list[object], bytes]:
    """Read the first `count` items of a sequence (RFC 8742); return them, and the bytes behind them.

    Nothing beyond `max_bytes` is looked at, so what follows may be long and of any kind.

    Raises:
        WireError: other forms of items than `decode` takes, fewer items, or more than `max_bytes` of them.
    """
    head = _head(0x80, count)
    array = head + data[:max_bytes]  # with a head before it, a sequence is read by the rules of an array
    end, foreign = _scan(array)
    return cast("list[object]", _value(array[:end], foreign)), data[end - len(head) :]


def _value(data: bytes, foreign: bool) -> object:
    """Build the item that is all of `data`, after `_scan`; refuse it unless it is in its one form."""
    try:
        value = cbor2.loads(data)
    except (cbor2.CBORDecodeError, ValueError) as error:
        raise WireError("CBOR has text that is not UTF-8, or a map key twice") from error
    if foreign:
        value = _plain(value)
    if encode(value) != data:
        raise WireError("CBOR is not deterministic: its value has another, canonical encoding")
    return value


def _scan(data: bytes) -> tuple[int, bool]:
    """Check the first item's form and bounds (after RFC 8949 appendix C).

    Returns where the item ends, and whether there are maps or tags in it.
    `left` counts the items still to come in the innermost container, `above` has the same of those
    around it.  In a map keys and values take turns, so that a key comes when `left` is even.
    A string that claims more than there is moves `at` beyond the end, where the next check sees it.
    """
    at, end, total, foreign = 0, len(data), 1, False
    left, in_map = 1, False
    above: list[tuple[int, bool]] = []
    while left or above:
        if not left:
            left, in_map = above.pop()
            continue
        if at >= end:
            raise WireError(f"CBOR ends too early, after {end} bytes")
        initial = data[at]
        major = initial >> 5
        argument, at = _argument(data, at)
        if in_map and not left & 1 and major > 1:
            raise WireError(f"CBOR map key before byte {at} is not an integer")
        left -= 1
        if major in (2, 3):
            at += argument
        elif major == 7 and initial not in _SIMPLE:
            raise WireError(f"CBOR simple value before byte {at} is none of false, true, null and floats")
        elif 4 <= major <= 6:
            above.append((left, in_map))
            left, in_map = _children(major, argument, end - at), major == 5
            foreign = foreign or major != 4
            total += left
            if total > limits.MAX_CBOR_ITEMS or len(above) > limits.MAX_CBOR_DEPTH:
                raise WireError(f"CBOR before byte {at} nests too deep or has too many items")
    if at > end:
        raise WireError(f"CBOR ends too early, after {end} bytes")
    return at, foreign


def _argument(data: bytes, at: int) -> tuple[int, int]:
    """Read the head at `at`; return its argument and where the head ends (maybe beyond the end)."""
    low = data[at] & 31
    at += 1
    if low < 24:
        return low, at
    if low > 27:
        raise WireError(f"CBOR head before byte {at} is of indefinite length or reserved")
    after = at + (1 << low - 24)
    return int.from_bytes(data[at:after], "big"), after


def _children(major: int, argument: int, room: int) -> int:
    """Return how many items an array, map or tag announces; each needs at least a byte of `room`."""
    if major == 6 and argument not in _TAGS:
        raise WireError(f"CBOR tag {argument} is not allowed")
    count = 1 if major == 6 else argument << (major == 5)
    if count > room:
        raise WireError(f"CBOR announces {count} items where {max(room, 0)} bytes are left")
    return count


def _plain(value: object) -> object:
    """Replace cbor2's own types: its tags, and the tuples and frozen maps that only cbor2 6 has.

    Which values become frozen (inside tags, in 6.0 inside maps too) changed between its releases.
    """
    if isinstance(value, (bytes, int, str, float, type(None))):
        return value
    if isinstance(value, (list, tuple)):
        return [item if type(item) in _LEAVES else _plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, cbor2.CBORTag):
        return Tagged(value.tag, _plain(value.value))
    raise WireError(f"CBOR decoder made a {type(value).__name__}")


def _put(out: list[bytes], value: object, depth: int) -> None:
    """Append the encoding of `value`, which stands inside `depth` containers."""
    if value is None or value is True or value is False:
        out.append(_CONSTANTS[value])
    elif isinstance(value, int):
        out.append(_integer(value))
    elif isinstance(value, bytes):
        out += (_head(0x40, len(value)), value)
    elif isinstance(value, str):
        out.append(_text(value))
    elif isinstance(value, float):
        out.append(_float(value))
    else:
        _put_container(out, value, depth + 1)


def _put_container(out: list[bytes], value: object, depth: int) -> None:
    if depth > limits.MAX_CBOR_DEPTH:
        raise WireError(f"value nests deeper than {limits.MAX_CBOR_DEPTH} levels")
    if isinstance(value, (list, tuple)):
        out.append(_head(0x80, len(value)))
        for item in value:
            _put(out, item, depth)
    elif isinstance(value, dict):
        out.append(_head(0xA0, len(value)))
        # Sorted as bytes: cbor2's canonical option sorts shorter keys first, as RFC 7049 did.
        for key, item in sorted(zip(map(_key, value), value.values(), strict=True), key=_first):
            out.append(key)
            _put(out, item, depth)
    elif isinstance(value, Tagged) and value.tag in _TAGS:
        out.append(_head(0xC0, value.tag))
        _put(out, value.value, depth)
    else:
        raise WireError(f"a {type(value).__name__} cannot be written as CBOR of ours")


def _first(entry: tuple[bytes, object]) -> bytes:
    return entry[0]


def _key(key: object) -> bytes:
    if not isinstance(key, int) or isinstance(key, bool):
        raise WireError(f"CBOR map key {key!r} is not an integer")
    return _integer(key)


def _integer(value: int) -> bytes:
    return _head(0, value) if value >= 0 else _head(0x20, -1 - value)


def _head(major: int, argument: int) -> bytes:
    """Write the shortest head; `major` is the major type in the upper three bits."""
    if argument < 24:
        return _BYTE[major | argument]
    if argument < 0x100:
        return _BYTE[major | 24] + _BYTE[argument]
    for low, size in ((25, 2), (26, 4), (27, 8)):
        if argument < 1 << 8 * size:
            return _BYTE[major | low] + argument.to_bytes(size, "big")
    raise WireError("an integer of more than 64 bits cannot be written as CBOR of ours")


def _text(value: str) -> bytes:
    try:
        data = value.encode()
    except UnicodeEncodeError as error:
        raise WireError("text with a lone surrogate cannot be written as UTF-8") from error
    return _head(0x60, len(data)) + data


def _float(value: float) -> bytes:
    """Write the shortest float that has exactly this value."""
    if value != value:  # noqa: PLR0124 - true of NaN alone, and cheaper than math.isnan
        return _NAN
    for head, form in _FLOATS:
        try:
            data = form.pack(value)
        except OverflowError:
            continue
        if form.unpack(data)[0] == value:
            return head + data
    return struct.pack(">Bd", 0xFB, value)
