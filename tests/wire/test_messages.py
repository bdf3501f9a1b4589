"""Every payload: golden bytes, round trips, and no field out of its range."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedclient import limits
from fedclient.crypto import cose
from fedclient.downlink import DeviceDownlink
from fedclient.errors import WireError
from fedclient.uplink import GatewayUplink
from fedclient.values import (
    PLAN_CODECS,
    BlobRef,
    Codec,
    Command,
    CommandKind,
    EnrolmentRequest,
    HeadVersion,
    Phase,
    Plan,
    Reason,
    Receipt,
    ReceiptStatus,
    Schedule,
    Status,
    TensorSpec,
    Update,
    parameters,
)
from fedclient.wire import cbor, messages
from tests.wire import golden

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "messages.json").read_text())
DECODERS = {
    "update": (messages.decode_update, golden.UPDATE),
    "status": (messages.decode_status, golden.STATUS),
    "enrolment": (messages.decode_enrolment, golden.ENROLMENT),
    "receipt": (messages.decode_receipt, golden.RECEIPT),
    "command": (messages.decode_command, golden.COMMAND),
    "plan": (messages.decode_plan, golden.PLAN),
    "manifest": (messages.decode_manifest, golden.MANIFEST),
}
counters = st.integers(0, limits.COUNTER_MAX)
versions = st.builds(HeadVersion, counters, counters)
hashes = st.binary(min_size=32, max_size=32)


def test_we_write_the_golden_bytes() -> None:
    assert golden.vectors() == VECTORS


@pytest.mark.parametrize("name", DECODERS)
def test_we_read_the_golden_bytes(name) -> None:
    decode, value = DECODERS[name]
    assert decode(bytes.fromhex(VECTORS[name]["payload"])) == value


@pytest.mark.parametrize("name", ["update", "status", "enrolment"])
def test_rule_3_the_golden_signatures_verify(name) -> None:
    vector = {key: bytes.fromhex(text) for key, text in VECTORS[name].items()}
    assert cose.verify(golden.DEVICE.public, vector["sign1"], vector["aad"]) == vector["payload"]
    assert cose.peek(vector["sign1"]).kid is None  # alg alone in the header: the topic says who
    assert cose.expand(vector["signed"]) == vector["sign1"]


def test_rule_3_the_golden_envelopes_open() -> None:
    end = GatewayUplink(federation=golden.FEDERATION, key=golden.SEALING)
    sender = golden.DEVICE.device_id, golden.DEVICE.public
    update, status, enrolment = (
        bytes.fromhex(VECTORS[name]["envelope"]) for name in ("update", "status", "enrolment")
    )
    assert end.open_update(update, sender, {golden.BASE.head_version: golden.BASE}.get) == golden.UPDATE
    assert end.open_status(status, sender) == golden.STATUS
    assert end.open_enrolment(enrolment, sender[0]) == golden.ENROLMENT


def test_rule_3_the_golden_messages_down_verify() -> None:
    down = DeviceDownlink(federation=golden.FEDERATION, gateway_key=golden.GATEWAY.public)
    names = ("receipt", "manifest", "command")
    receipt, manifest, command = (bytes.fromhex(VECTORS[name]["sign1"]) for name in names)
    assert down.open_receipt(receipt, golden.DEVICE.device_id) == golden.RECEIPT
    assert down.open_manifest(manifest) == golden.MANIFEST
    assert down.open_command(command, golden.DEVICE.device_id) == golden.COMMAND
    assert cose.peek(receipt).kid == golden.GATEWAY.kid


# --- round trips ------------------------------------------------------------------------------------
@given(
    st.builds(
        Update,
        counter=st.integers(1, limits.COUNTER_MAX),
        head_version=versions,
        bucket=st.integers(0, 62),
        accuracy_percent=st.none() | st.integers(0, 100),
        body=st.binary(max_size=300),
    )
)
def test_updates_round_trip(update) -> None:
    assert messages.decode_update(messages.encode_update(update)) == update


names = st.text(alphabet="abcdefghij_-", min_size=1, max_size=32)


@given(
    st.builds(
        Status,
        start=counters,
        sequence=counters,
        phase=st.sampled_from(Phase),
        closed_gates=st.lists(names, max_size=32).map(tuple),
        floor=versions,
        software=names,
    )
)
def test_statuses_round_trip(status) -> None:
    assert messages.decode_status(messages.encode_status(status)) == status


@given(st.builds(EnrolmentRequest, public_key=hashes, token=st.binary(min_size=16, max_size=16)))
def test_enrolments_round_trip(request) -> None:
    assert messages.decode_enrolment(messages.encode_enrolment(request)) == request


@given(
    st.builds(
        Receipt,
        counter=counters,
        envelope_hash=hashes,
        status=st.sampled_from(ReceiptStatus),
        reason=st.sampled_from(Reason),
        current=versions,
        retry_window_s=st.tuples(*[st.integers(0, limits.MAX_RETRY_WINDOW_S)] * 2).map(
            lambda pair: tuple(sorted(pair))
        ),
        last_counter=counters,
    )
)
def test_rule_4_3_receipts_round_trip(receipt) -> None:
    assert messages.decode_receipt(messages.encode_receipt(receipt)) == receipt


@given(
    st.builds(
        Command,
        sequence=st.integers(1, limits.COUNTER_MAX),
        kind=st.just(CommandKind.PAUSE),
        seconds=st.integers(0, limits.MAX_PAUSE_S),
    )
    | st.builds(Command, sequence=st.integers(1, limits.COUNTER_MAX), kind=st.just(CommandKind.RESUME))
)
def test_commands_round_trip(command) -> None:
    assert messages.decode_command(messages.encode_command(command)) == command


def test_only_a_pause_has_a_length() -> None:
    for seconds in (1, limits.MAX_PAUSE_S):
        with pytest.raises(WireError, match="seconds"):
            messages.decode_command(cbor.encode([1, int(CommandKind.RESUME), seconds]))


plans = st.builds(
    Plan,
    epochs=st.integers(1, limits.MAX_EPOCHS),
    batch_size=st.integers(1, limits.MAX_BATCH),
    learning_rate=st.floats(1e-9, 1e3),
    codec=st.builds(
        Codec,
        mode=st.sampled_from(PLAN_CODECS),
        density=st.floats(1e-6, 1.0),
    ),
    norm_bound=st.floats(1e-9, 1e9),
    max_examples=st.integers(1, limits.MAX_EXAMPLES),
    max_staleness=st.integers(0, 1000),
    momentum=st.floats(0, 0.99),
    l2=st.floats(0, 1),
    mu=st.floats(0, 10),
    schedule=st.sampled_from(Schedule),
    balanced=st.booleans(),
    budget_s=st.floats(0, 3600),
    statistics=st.booleans(),
    max_update_bytes=st.integers(256, limits.MAX_UPDATE_BYTES),
    max_bytes_per_day=st.just(0) | st.integers(256, 10**12),
)
deltas = st.lists(
    st.builds(BlobRef, hash=st.binary(min_size=8, max_size=8), size=st.integers(1, 10**6)),
    max_size=limits.MAX_DELTAS,
).map(tuple)


@given(plans)
def test_plans_round_trip_to_the_same_bytes(plan) -> None:
    data = messages.encode_plan(plan)
    assert messages.decode_plan(data) == plan
    assert messages.encode_plan(messages.decode_plan(data)) == data


def test_a_plan_of_whole_numbers_keeps_its_hash() -> None:
    """The device stores a manifest decoded and encoded again; its plan's hash is in every signature."""
    whole = Plan(learning_rate=1, norm_bound=5, codec=Codec(density=1))
    data = messages.encode_plan(whole)
    assert messages.encode_plan(messages.decode_plan(data)) == data


tensors = st.lists(
    st.tuples(st.text("abc/ü", min_size=1, max_size=10), st.lists(st.integers(1, 9), max_size=4)),
    min_size=1,
    max_size=6,
    unique_by=lambda pair: pair[0],
).map(
    lambda pairs: tuple(
        TensorSpec(name=name, shape=tuple(shape))
        for name, shape in sorted(pairs, key=lambda pair: pair[0].encode())
    )
)


@given(
    version=versions,
    specs=tensors,
    labels=st.lists(names, max_size=5).map(tuple),
    plan=plans,
    blob=hashes,
    links=deltas,
)
def test_rule_6_manifests_round_trip(version, specs, labels, plan, blob, links) -> None:
    manifest = replace(
        golden.MANIFEST,
        head_version=version,
        head=BlobRef(hash=blob, size=4 * parameters(specs)),
        tensors=specs,
        labels=labels,
        plan=plan,
        plan_hash=hashlib.sha256(messages.encode_plan(plan)).digest(),
        deltas=links,
    )
    assert messages.decode_manifest(messages.encode_manifest(manifest)) == manifest


# --- what is refused --------------------------------------------------------------------------------
INT = [-1, 2**63, 1.0, True, "1", None, b"1", [1]]
HASH = [b"x" * 31, b"x" * 33, "x" * 32, 1, None, b""]
WORD = ["", "x" * 33, 1, None, b"idle"]
PLAN = cbor.decode(messages.encode_plan(golden.PLAN), max_bytes=1000)
BOUNDS: dict[str, dict[int, list[object]]] = {
    "update": {
        0: [*INT, 0],
        1: INT,
        2: INT,
        3: [*INT, 63],
        4: [
            *([], [1, 2, 3], 101, -1, True, 0.5, [5], "5", [None], [101, 1], [-1, 1], [True, 1], b"5"),
            *([1, 0], [1, None], [1, True], [None, limits.MAX_EPOCHS + 1]),
        ],
    },
    "status": {
        0: INT,
        1: INT,
        2: [*WORD, "sleeping", "IDLE"],
        3: [None, "power", [1], [""], ["x" * 33], ["g"] * 33],
        4: INT,
        5: INT,
        6: WORD,
        7: [[], [1, 2], [0, 1, 1], [4, 1, 1], [True, 1, 1], [1, -1, 1], [1, 1, 1.0], 1],
    },
    "enrolment": {0: HASH, 1: [b"t" * 15, b"t" * 17, "t" * 16, None]},
    "receipt": {
        0: INT,
        1: HASH,
        2: [0, 6, -1, 1.0, True, "1", None],
        3: [4, 9, 17, 22, -1, 1.0, True, None],
        4: INT,
        5: INT,
        6: [[], [1], [1, 2, 3], [2, 1], [-1, 1], [0, limits.MAX_RETRY_WINDOW_S + 1], [0, 1.5], None],
        7: INT,
    },
    "command": {
        0: [*INT, 0],
        1: [0, 3, -1, 1.0, True, "1", None],
        2: [*INT, limits.MAX_PAUSE_S + 1],
    },
    "plan": {
        1: [*INT, 0, limits.MAX_EPOCHS + 1],
        2: [*INT, 0, limits.MAX_BATCH + 1],
        3: [0.0, -0.1, 1, math.nan, math.inf, 1e4, "0.1", None],
        4: [
            [],
            [1],
            [0, 0.1],
            [4, 0.1],
            [1, 0.0],
            [1, 1.1],
            [1, 1],
            [True, 0.1],
            [1.0, 0.1],
            [1, math.nan],
            None,
        ],
        5: [0.0, -1.0, 3, math.nan, math.inf, 1e10, None],
        6: [*INT, 0, limits.MAX_EXAMPLES + 1],
        7: [*INT, 1001],
        8: [-0.1, 1.0, 1, math.nan, 0.9, None],  # 0.9 is the default: it has no bytes
        9: [-0.1, 0.0, -0.0, 1, 1e4, math.nan, None],
        10: [-0.1, 0.0, 1, 1e4, math.nan, None],
        11: [0, 3, -1, 1.0, True, None],
        12: [False, 1, None],
        13: [-1.0, 0.0, 60, 1e6, math.inf, None],
        14: [False, 1, None],
        15: [*INT, 0, 255, limits.MAX_UPDATE_BYTES + 1],
        16: [*INT, 0, 255, 2**41],
    },
    "manifest": {
        1: INT,
        2: INT,
        3: [[b"m" * 31, 1], [b"m" * 32, 0], [b"m" * 32, 2**40], [b"m" * 32], [b"m" * 32, 1.0], None],
        4: [
            [b"h" * 32, b"f" * 32, 0],
            [b"h" * 31, b"f" * 32, 30],
            [b"h" * 32, b"f" * 31, 30],
            [b"h" * 32, b"f" * 32],
            [b"h" * 32, 36],
            None,
        ],
        5: [
            [],
            None,
            [["a", [9]]] * 2,  # twice the same name, and another size
            [["b", [3]], ["a", [6]]],  # not in order
            [["a", [4]], ["a", [5]]],
            [["a", [0]], ["b", [9]]],
            [["a", [-9]]],
            [["a", [9.0]]],
            [["a", [True] * 2]],
            [["", [9]]],
            [["a" * 129, [9]]],
            [["a", [9], 1]],
            [["a", [1] * 6 + [9]]],
            [["a", [limits.MAX_HEAD_PARAMETERS + 1]]],
            [[f"{n:03}", [1]] for n in range(limits.MAX_TENSORS + 1)],
        ],
        6: [None, "walk", [1], [""], ["x" * 65]],
        7: [None, PLAN, b"", b"\xa0", cbor.encode({**PLAN, 17: 1}), cbor.encode({**PLAN, 1: 0})],
        8: [[], None, [[b"1" * 32, 9]], [[b"1" * 16, 0]], [[b"1" * 16]], [[b"1" * 16, 9]] * 9],
    },
}
CASES = [
    (name, place, bad) for name, places in BOUNDS.items() for place, bads in places.items() for bad in bads
]


def _fields(name: str) -> dict[int, object]:
    """All fields of a golden payload; an update's body is none of them."""
    payload = bytes.fromhex(VECTORS[name]["payload"])
    if name == "update":
        return dict(enumerate(cbor.decode_sequence(payload, 5, max_bytes=64)[0]))
    fields = cbor.decode(payload, max_bytes=5000)
    return fields if isinstance(fields, dict) else dict(enumerate(fields))


def _bytes(name: str, fields: dict[int, object]) -> bytes:
    if name == "update":
        return cbor.encode_sequence(fields.values()) + golden.UPDATE.body
    return cbor.encode(fields if name in {"plan", "manifest"} else list(fields.values()))


@pytest.mark.parametrize(("name", "place", "bad"), CASES)
def test_a_field_out_of_range_is_refused(name, place, bad) -> None:
    with pytest.raises(WireError):
        DECODERS[name][0](_bytes(name, _fields(name) | {place: bad}))


def test_every_field_has_its_cases() -> None:
    assert {name: set(places) for name, places in BOUNDS.items()} == {
        name: set(_fields(name)) for name in DECODERS
    }


@pytest.mark.parametrize("name", sorted(DECODERS.keys() - {"update"}))
def test_fields_too_few_or_too_many_are_refused(name) -> None:
    decode, fields = DECODERS[name][0], _fields(name)
    assert decode(_bytes(name, fields)) == DECODERS[name][1]
    last = 7 if name in {"plan", "manifest"} else max(fields)  # what follows may be left out
    extra = {max(fields) + 1: 1}
    for wrong in (fields | extra, {key: one for key, one in fields.items() if key != last}):
        with pytest.raises(WireError):
            decode(_bytes(name, wrong))


# --- an update: a sequence of five items, then the body ---------------------------------------------
def test_an_update_is_five_items_and_its_body() -> None:
    update = replace(golden.UPDATE, body=b"body")
    for accuracy, epochs, metrics in (
        (None, None, "f6"),
        (5, None, "05"),
        (87, None, "1857"),
        (87, 2, "82185702"),
        (None, 2, "82f602"),
    ):
        one = replace(update, accuracy_percent=accuracy, epochs=epochs)
        assert messages.encode_update(one).hex() == "07" + "03" + "182a" + "09" + metrics + b"body".hex()
        assert messages.decode_update(messages.encode_update(one)) == one


@pytest.mark.parametrize("at", range(4))
def test_an_update_without_one_of_its_fields_is_refused(at) -> None:
    fields = _fields("update")
    del fields[at]
    with pytest.raises(WireError):
        messages.decode_update(_bytes("update", fields))


def test_without_metrics_the_body_stands_in_their_place() -> None:
    fields = list(_fields("update").values())[:4]
    for body in (b"", b"\x20", b"\x43abc", b"\x80", b"\xa0", b"\xff"):
        with pytest.raises(WireError):
            messages.decode_update(cbor.encode_sequence(fields) + body)


def test_an_update_cut_within_its_fields_is_refused_and_all_else_is_body() -> None:
    payload = messages.encode_update(golden.UPDATE)
    fields = len(payload) - len(golden.UPDATE.body)
    for size in range(fields):
        with pytest.raises(WireError, match=r"ends too early|announces"):
            messages.decode_update(payload[:size])
    for size in range(fields, len(payload)):
        assert messages.decode_update(payload[:size]).body == payload[fields:size]
    assert messages.decode_update(payload + b"\xff\x00") == replace(
        golden.UPDATE, body=golden.UPDATE.body + b"\xff\x00"
    )


@pytest.mark.parametrize("at", range(4))
def test_an_update_has_no_second_form(at) -> None:
    """The same number in a longer head would be the same update in other bytes."""
    items = [cbor.encode(field) for field in _fields("update").values()]
    value = _fields("update")[at]
    for head, size in ((0x18, 1), (0x19, 2), (0x1A, 4), (0x1B, 8)):
        longer = bytes((head,)) + value.to_bytes(size, "big")
        if longer != items[at]:
            with pytest.raises(WireError, match="deterministic"):
                messages.decode_update(b"".join((*items[:at], longer, *items[at + 1 :])) + b"body")


def test_the_fields_of_an_update_keep_to_their_bound() -> None:
    largest = Update(
        counter=limits.COUNTER_MAX,
        head_version=HeadVersion(limits.COUNTER_MAX, limits.COUNTER_MAX),
        bucket=limits.MAX_BUCKET,
        accuracy_percent=100,
        epochs=limits.MAX_EPOCHS,
        body=b"",
    )
    assert len(messages.encode_update(largest)) == 34 <= limits.MAX_UPDATE_FIELDS_BYTES
    assert messages.decode_update(messages.encode_update(largest)) == largest


@given(st.binary(max_size=80) | st.binary(max_size=40).map(lambda tail: b"\x01\x02\x03\x04" + tail))
def test_any_bytes_are_refused_or_an_update_in_its_one_form(data) -> None:
    try:
        update = messages.decode_update(data)
    except WireError:
        return
    assert messages.encode_update(update) == data


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats()
    | st.binary(max_size=40)
    | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.integers(0, 9), inner, max_size=8),
    max_leaves=20,
)


@given(value=values, name=st.sampled_from(sorted(DECODERS)))
def test_arbitrary_cbor_raises_nothing_but_wire_errors(value, name) -> None:
    with pytest.raises(WireError):
        DECODERS[name][0](cbor.encode(value))


@given(place=st.integers(0, 8), value=values, name=st.sampled_from(sorted(DECODERS)))
def test_one_arbitrary_field_is_taken_or_a_wire_error(place, value, name) -> None:
    fields = _fields(name)
    try:
        decoded = DECODERS[name][0](_bytes(name, fields | ({place: value} if place in fields else {})))
    except WireError:
        return
    assert type(decoded) is type(DECODERS[name][1])


@given(data=st.binary(max_size=80), name=st.sampled_from(sorted(DECODERS.keys() - {"update"})))
def test_arbitrary_bytes_raise_nothing_but_wire_errors(data, name) -> None:
    with pytest.raises(WireError):
        DECODERS[name][0](data)


@pytest.mark.parametrize(
    ("name", "bound"),
    [
        ("update", limits.MAX_UPDATE_BYTES),
        ("status", limits.MAX_STATUS_BYTES),
        ("receipt", limits.MAX_RECEIPT_BYTES),
        ("command", limits.MAX_COMMAND_BYTES),
        ("enrolment", limits.MAX_ENROL_BYTES),
        ("manifest", limits.MAX_MANIFEST_BYTES),
    ],
)
def test_rule_6_size_is_bounded_before_anything_is_read(name, bound) -> None:
    with pytest.raises(WireError, match="at most"):
        DECODERS[name][0](bytes(bound + 1))
