"""Sequences of bits: one code each, never more than a bit longer than they are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedclient.codec import binary, golomb
from fedclient.codec.bits import BitReader, BitWriter
from fedclient.errors import CodecError
from tests.codec.reader import Reader

SEQUENCES = st.one_of(
    st.lists(st.integers(0, 1), max_size=200),
    st.integers(0, 200).flatmap(
        lambda n: st.tuples(st.sets(st.integers(0, max(0, n - 1)), max_size=4), st.booleans()).map(
            lambda of: [int((i in of[0]) != of[1]) for i in range(n)]
        )
    ),
)


def written(bits) -> BitWriter:
    out = BitWriter()
    binary.write(out, np.array(bits, dtype=np.uint8))
    return out


@given(SEQUENCES)
def test_round_trip_with_both_readers(bits):
    out = written(bits)
    source = BitReader(out.to_bytes())
    assert binary.read(source, len(bits)).tolist() == bits
    source.end()
    assert out.size <= len(bits) + 1
    assert Reader(out.to_bytes()).binary(len(bits)) == bits


@given(st.binary(max_size=30), st.integers(0, 200))
def test_any_bits_are_a_sequence_with_exactly_these_bits_or_an_error(data, count):
    source = BitReader(data)
    try:
        found = binary.read(source, count)
    except CodecError:
        return
    used = 8 * len(data) - source.left
    out = written(found.tolist())
    assert out.size == used
    assert np.unpackbits(np.frombuffer(out.to_bytes(), np.uint8))[:used].tolist() == (
        np.unpackbits(np.frombuffer(data, np.uint8))[:used].tolist()
    )


def test_a_rare_one_costs_its_position():
    bits = np.zeros(1000, np.uint8)
    bits[500] = 1
    assert written(bits).size == 1 + 10 + 11
    assert written(1 - bits).size == 1 + 10 + 11


def test_positions_where_plain_bits_are_as_short_are_refused():
    out = BitWriter()
    out.number(1, 1)
    out.number(2, 3)
    golomb.write(out, np.array([1, 3]), 4)
    with pytest.raises(CodecError, match=r"lean|plain bits"):
        binary.read(BitReader(out.to_bytes()), 4)


def test_plain_bits_where_a_position_is_shorter_are_refused():
    with pytest.raises(CodecError, match="shorter"):
        binary.read(BitReader(bytes(9)), 64)


def test_positions_of_bits_that_do_not_lean_are_refused():
    out = BitWriter()
    out.number(1, 1)
    out.number(10, 5)
    with pytest.raises(CodecError, match="lean"):
        binary.read(BitReader(out.to_bytes() + bytes(9)), 22)


def test_more_ones_than_bits_are_refused():
    out = BitWriter()
    out.number(1, 1)
    out.number(7, 3)
    with pytest.raises(CodecError, match="7 ones among 5"):
        binary.read(BitReader(out.to_bytes() + bytes(3)), 5)
