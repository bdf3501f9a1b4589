"""Magnitudes by octaves: exact both ways, one code each, near the entropy."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedclient.codec import octaves
from fedclient.codec.bits import BitReader, BitWriter
from fedclient.errors import CodecError
from tests.codec.reader import Reader

LISTS = st.sampled_from([1, 3, 200, 2**24 - 1]).flatmap(
    lambda top: st.lists(st.integers(1, top), min_size=1, max_size=60)
)


def written(magnitudes) -> BitWriter:
    out = BitWriter()
    octaves.write(out, np.array(magnitudes, dtype=np.int64))
    return out


@given(LISTS)
def test_round_trip_with_both_readers(magnitudes):
    data = written(magnitudes).to_bytes()
    source = BitReader(data)
    assert octaves.read(source, len(magnitudes)).tolist() == magnitudes
    source.end()
    assert Reader(data).octaves(len(magnitudes)) == magnitudes


def test_a_code_worked_out_by_hand():
    # longest 3; beyond 1 bit: 0 1 1 1; of 2, 3, 5 beyond 2 bits: 0 0 1
    # second bits: of 2, 3: 0 1; of 5: 0; the rest of 5: 1
    assert written([1, 2, 3, 5]).to_bytes() == bytes([0b00011_0_01, 0b11_0_001_0_0, 0b1_0_0_1_0000])


def test_ones_cost_nothing_but_their_number():
    assert written([1] * 1000).size == 5


@pytest.mark.parametrize("spread", [2, 12, 24, 100])
@pytest.mark.parametrize("kind", ["normal", "laplace", "student"])
def test_size_is_near_the_entropy(kind, spread):
    rng = np.random.default_rng(1)
    draw = {"normal": rng.standard_normal, "laplace": rng.laplace, "student": partial(rng.standard_t, 3)}
    drawn = np.rint(np.abs(draw[kind](size=30_000)) * spread).astype(np.int64)
    magnitudes = drawn[drawn > 0]
    shares = np.unique(magnitudes, return_counts=True)[1] / magnitudes.size
    assert written(magnitudes).size <= -1.04 * magnitudes.size * (shares * np.log2(shares)).sum()


@given(st.binary(max_size=40), st.integers(1, 60))
def test_any_bits_are_magnitudes_of_exactly_these_bits_or_an_error(data, count):
    source = BitReader(data)
    try:
        found = octaves.read(source, count)
    except CodecError:
        return
    assert found.size == count
    assert 1 <= found.min() <= found.max() < 2**24
    used = 8 * len(data) - source.left
    assert written(found).size == used
    assert BitReader(written(found).to_bytes()).number(used) == BitReader(data).number(used)


@pytest.mark.parametrize(
    ("parts", "match"),
    [
        ([(0, 5)], "of 0 bits"),
        ([(25, 5)], "of 25 bits"),
        ([(2, 5), (1, 1), (0, 3)], "no integer of the 2 bits"),
        ([(2, 5), (0, 1)], "ends"),
    ],
    ids=str,
)
def test_lengths_that_no_encoder_writes_are_refused(parts, match):
    out = BitWriter()
    for value, width in parts:
        out.number(value, width)
    with pytest.raises(CodecError, match=match):
        octaves.read(BitReader(out.to_bytes()), 4)
