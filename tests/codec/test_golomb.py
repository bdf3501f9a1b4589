"""Golomb-coded positions: every set has one code, and no other bits decode to it."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedclient.codec import golomb
from fedclient.codec.bits import BitReader, BitWriter
from fedclient.errors import CodecError
from tests.codec.memory import peak_of_refusal
from tests.codec.reader import Reader

SETS = st.one_of(
    st.integers(1, 60).flatmap(lambda size: st.tuples(st.sets(st.integers(0, size - 1)), st.just(size))),
    st.tuples(st.sets(st.integers(0, 4_000_000 - 1), max_size=80), st.just(4_000_000)),
)


def written(positions, size: int) -> BitWriter:
    out = BitWriter()
    golomb.write(out, np.array(sorted(positions), dtype=np.int64), size)
    return out


@given(SETS)
def test_round_trip_with_both_readers(case):
    positions, size = case
    if size > 60 and 2 * len(positions) > size:
        return
    out = written(positions, size)
    source = BitReader(out.to_bytes())
    found = golomb.read(source, len(positions), size)
    source.end()
    assert found.dtype == np.int64
    assert found.tolist() == sorted(positions)
    assert Reader(out.to_bytes()).positions(len(positions), size) == sorted(positions)


def test_a_code_worked_out_by_hand():
    # M = 7: u = 1.  Gaps 0, 8, 6: remainders 0, 1, 6; heads 00, (1+1)>>1 = 01, (6+1)>>1 = 11; tails 0 and 1
    assert golomb.divisor(3, 30) == 7
    assert written([0, 9, 16], 30).to_bytes() == bytes([0b001_011_01, 0b1_01_1_0000])


@pytest.mark.parametrize("share", [0.0001, 0.001, 0.01, 0.03, 0.1, 0.2, 0.3, 0.38, 0.4, 0.5])
def test_the_divisor_is_the_best_for_random_positions(share):
    best = max(1, math.ceil(-math.log(2 - share) / math.log(1 - share)))
    assert abs(golomb.divisor(round(share * 1_000_000), 1_000_000) - best) <= 1


def test_all_or_none_cost_nothing():
    assert written([], 9).size == 0
    assert written(range(9), 9).size == 0
    assert golomb.read(BitReader(b""), 9, 9).tolist() == list(range(9))


@given(st.binary(max_size=40), st.integers(0, 60), st.integers(1, 4000))
def test_any_bits_are_a_set_with_exactly_these_bits_or_an_error(data, count, size):
    source = BitReader(data)
    try:
        found = golomb.read(source, min(count, size), size)
    except CodecError:
        return
    assert found.size == min(count, size)
    assert (np.diff(found) > 0).all()
    assert not found.size or (found[0] >= 0 and found[-1] < size)
    used = 8 * len(data) - source.left
    out = written(found.tolist(), size)
    assert out.size == used
    assert np.unpackbits(np.frombuffer(out.to_bytes(), np.uint8))[:used].tolist() == (
        np.unpackbits(np.frombuffer(data, np.uint8))[:used].tolist()
    )


def test_a_position_that_there_is_not_is_refused():
    assert golomb.read(BitReader(written([0, 9, 29], 30).to_bytes()), 3, 30)[-1] == 29
    with pytest.raises(CodecError, match="position 30 of 30"):
        golomb.read(BitReader(written([0, 9, 30], 30).to_bytes()), 3, 30)


@pytest.mark.parametrize("fill", [b"\x00", b"\xff"])
def test_declared_counts_take_no_memory(fill):
    source = BitReader(fill * 100)
    assert peak_of_refusal(lambda: golomb.read(source, 1_900_000, 4_000_000)) < 16 * 1024


@pytest.mark.parametrize(("density", "at_most"), [(0.001, 1.005), (0.01, 1.005), (0.1, 1.009), (0.4, 1.04)])
def test_size_is_near_the_entropy(density, at_most):
    size = 1_000_000
    count = round(size * density)
    positions = np.sort(np.random.default_rng(7).choice(size, count, replace=False))
    ideal = (math.lgamma(size + 1) - math.lgamma(count + 1) - math.lgamma(size - count + 1)) / math.log(2)
    assert written(positions.tolist(), size).size <= at_most * ideal
