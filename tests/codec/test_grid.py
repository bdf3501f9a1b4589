"""Heads whole and as changes: bit for bit the same by every route, and strict."""

import json
import tracemalloc
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedclient.codec import delta_blob, grid, head_after, head_blob, head_from
from fedclient.errors import CodecError
from fedclient.values import MEAN, MEAN_SQUARE, TensorSpec, parameters
from tests.codec.reader import read_delta, read_full

HEAD = (
    TensorSpec(name="bias", shape=(6,)),
    TensorSpec(name="kernel", shape=(20, 6)),
    TensorSpec(name=MEAN, shape=(20,)),
    TensorSpec(name=MEAN_SQUARE, shape=(20,)),
    TensorSpec(name="personal/w", shape=(3,)),
)
SIZE = parameters(HEAD)
KERNEL, STATISTICS, PERSONAL = slice(6, 126), slice(126, 166), slice(166, 169)


VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "heads.json").read_text())


def named(kind: str) -> list[Any]:
    return [pytest.param(vector, id=vector["name"]) for vector in VECTORS[kind]]


def tensors_of(vector: dict[str, Any]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name=name, shape=tuple(shape)) for name, shape in vector["tensors"])


def floats(text: str) -> np.ndarray:
    return np.frombuffer(bytes.fromhex(text), "<f4").astype(np.float32)


@pytest.mark.parametrize("vector", named("full"))
def test_golden_heads(vector):
    tensors, blob = tensors_of(vector), bytes.fromhex(vector["blob"])
    assert head_from(blob, tensors).astype("<f4").tobytes().hex() == vector["head"]
    assert read_full(blob, tensors) == floats(vector["head"]).tolist()
    assert len(head_blob(floats(vector["head"]), tensors)) <= len(blob)


@pytest.mark.parametrize("vector", named("delta"))
def test_golden_deltas(vector):
    tensors, blob = tensors_of(vector), bytes.fromhex(vector["blob"])
    before, after = floats(vector["before"]), floats(vector["after"])
    assert head_after(before, blob, tensors).tobytes() == after.tobytes()
    assert read_delta(before.tolist(), blob, tensors) == after.tolist()
    assert len(delta_blob(before, after, tensors)) <= len(blob)


@pytest.mark.parametrize("vector", named("invalid"))
def test_golden_blobs_that_are_none(vector):
    tensors, blob = tensors_of(vector), bytes.fromhex(vector["blob"])
    read = head_from if vector["kind"] == "full" else partial(head_after, floats(vector.get("before", "")))
    with pytest.raises(CodecError):
        read(blob, tensors)


def head(seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    found = (rng.integers(-99, 100, SIZE) * 2.0**-9).astype(np.float32)
    found[STATISTICS] = rng.random(40)  # on no grid
    found[PERSONAL] = 2.0**-30, -1.0 * 2.0**-40, 0
    return found


def moved(before: np.ndarray, seed: int, step: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    change = rng.integers(-3, 4, SIZE) * (rng.random(SIZE) < 0.3) * step
    change[126:] = 0
    return (before + change).astype(np.float32)


def test_a_head_comes_back_bit_for_bit_with_both_readers():
    full = head_blob(head(), HEAD)
    assert head_from(full, HEAD).tobytes() == head().tobytes()
    assert read_full(full, HEAD) == head().tolist()


@given(st.lists(st.sampled_from([2.0**-9, 2.0**-12, 0.25, 8.0]), min_size=1, max_size=6), st.integers(0, 99))
def test_all_routes_lead_to_one_head(steps, seed):
    route = [head(seed)]
    for step in steps:
        after = moved(route[-1], seed, step)
        delta = delta_blob(route[-1], after, HEAD)
        assert head_after(route[-1], delta, HEAD).tobytes() == after.tobytes()
        assert read_delta(route[-1].tolist(), delta, HEAD) == after.tolist()
        route.append(after)
    assert head_from(head_blob(route[-1], HEAD), HEAD).tobytes() == route[-1].tobytes()


def test_no_change_is_a_byte():
    assert delta_blob(head(), head(), HEAD) == b"\0"
    assert head_after(head(), b"\0", HEAD).tobytes() == head().tobytes()


@pytest.mark.parametrize("size", [1, 2, 100, 70_000, 2_000_000])
def test_every_size_of_head(size):
    tensors = (TensorSpec(name="w", shape=(size,)),)
    rng = np.random.default_rng(size)
    before = np.rint(rng.standard_normal(size) * 20).astype(np.float32) + np.float32(0)
    after = (before + (rng.random(size) < 0.05)).astype(np.float32)
    assert head_from(head_blob(before, tensors), tensors).tobytes() == before.tobytes()
    assert head_after(before, delta_blob(before, after, tensors), tensors).tobytes() == after.tobytes()


def test_a_delta_takes_little_memory_beside_the_head():
    tensors = (TensorSpec(name="w", shape=(300_000,)),)
    before = np.ones(300_000, dtype=np.float32)
    after = before.copy()
    after[::100] += 1
    delta = delta_blob(before, after, tensors)
    head_after(before, delta, tensors)  # what is laid out once and kept
    tracemalloc.start()
    try:
        head_after(before, delta, tensors)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 3 * before.nbytes, "the new head itself, and the part of it that deltas move"


@pytest.mark.parametrize("place", [STATISTICS, PERSONAL])
def test_no_delta_leads_to_other_statistics_or_personal_layers(place):
    after = head()
    after[place] *= 2
    with pytest.raises(CodecError, match="no delta moves"):
        delta_blob(head(), after, HEAD)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -0.0, 1e-40])
@pytest.mark.parametrize("place", [0, 130])
def test_what_is_no_plain_number_is_refused_both_ways(bad, place):
    broken = head()
    broken[place] = bad
    with pytest.raises(CodecError, match="normal number"):
        head_blob(broken, HEAD)
    with pytest.raises(CodecError, match="normal number"):
        delta_blob(head(), broken, HEAD)
    if place == 130:
        full = bytearray(head_blob(head(), HEAD))
        full[16:20] = np.float32(bad).tobytes()
        with pytest.raises(CodecError, match="normal number"):
            head_from(bytes(full), HEAD)


def test_a_head_on_no_grid_is_refused():
    with pytest.raises(CodecError, match="24 bits"):
        head_blob(np.random.default_rng(1).standard_normal(SIZE).astype(np.float32), HEAD)


def single(value: float) -> np.ndarray:
    return np.array([value], dtype=np.float32)


WHOLE = (TensorSpec(name="w", shape=(1,)),)


@pytest.mark.parametrize(
    ("before", "change", "match"),
    [
        (2.0**24, 1.0, "float32"),  # 2^24 + 1 has 25 bits
        (2.0**60, 1.0, "rounding"),
        (1.0, 2.0**60, "rounding"),
        (2.0**127, 2.0**127, "rounding"),  # beyond float32
        (1e-45, 1.0, "rounding|float32"),  # not ours: before is no canonical head
        (1.5 * 2.0**-126, -(2.0**-126), "normal number"),  # exact, and too small
    ],
)
def test_sums_that_are_not_exact_are_refused(before, change, match):
    delta = delta_blob(single(0), single(change), WHOLE)
    with pytest.raises(CodecError, match=match):
        head_after(single(before), delta, WHOLE)


def test_heads_too_far_apart_have_no_delta():
    with pytest.raises(CodecError, match="24 bits"):
        delta_blob(single(2.0**24), single(2.0**-24), WHOLE)
    with pytest.raises(CodecError, match="too far apart"):
        delta_blob(single(2.0**60), single(1.0), WHOLE)


def test_a_value_beyond_float32_is_refused():
    full = bytearray(head_blob(single(2.0**127), WHOLE))
    assert head_from(bytes(full), WHOLE)[0] == 2.0**127
    bits = int.from_bytes(full, "big") + (1 << 5)  # the exponent one more
    with pytest.raises(CodecError, match="normal number"):
        head_from(bits.to_bytes(len(full), "big"), WHOLE)


def test_too_short_for_its_statistics():
    with pytest.raises(CodecError, match="statistics take 160"):
        head_from(bytes(159), HEAD)


@given(st.binary(max_size=80))
def test_any_bytes_are_a_head_or_an_error(data):
    for read in (lambda: head_from(bytes(160) + data, HEAD), lambda: head_after(head(), data, HEAD)):
        try:
            found = read()
        except CodecError:
            continue
        assert np.isfinite(found).all()
        assert ((np.abs(found) >= grid._TINY) | (found.view(np.uint32) == 0)).all()
