"""Bit strings: what is written is read, and nothing else is there."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedclient.codec.bits import BitReader, BitWriter
from fedclient.errors import CodecError
from tests.codec.memory import peak_of_refusal

NUMBERS = st.integers(0, 60).flatmap(lambda width: st.tuples(st.integers(0, 2**width - 1), st.just(width)))
PLANES = st.integers(0, 32).flatmap(
    lambda width: st.tuples(st.lists(st.integers(0, 2**width - 1), max_size=20), st.just(width))
)
BITS = st.lists(st.integers(0, 1), max_size=30)


@given(st.lists(st.one_of(NUMBERS, PLANES, BITS), max_size=12))
def test_parts_are_read_in_the_order_in_which_they_were_written(parts):
    out = BitWriter()
    for part in parts:
        if isinstance(part, list):
            out.bits(np.array(part, np.uint8))
        elif isinstance(part[0], list):
            out.planes(np.array(part[0], np.int64), part[1])
        else:
            out.number(*part)
    data = out.to_bytes()
    assert len(data) == (out.size + 7) // 8
    source = BitReader(data)
    for part in parts:
        if isinstance(part, list):
            assert source.bits(len(part)).tolist() == part
        elif isinstance(part[0], list):
            assert source.planes(len(part[0]), part[1]).tolist() == part[0]
        else:
            assert source.number(part[1]) == part[0]
    source.end()


def test_the_bits_worked_out_by_hand():
    out, more = BitWriter(), BitWriter()
    out.number(5, 4)
    more.planes(np.array([1, 2, 3]), 2)  # 0 1 1, then 1 0 1
    out.append(more)
    out.bits(np.array([1], np.uint8))
    assert (out.size, out.to_bytes()) == (11, bytes([0b0101_0111, 0b01_1_00000]))


@pytest.mark.parametrize("read", [lambda s: s.number(9), lambda s: s.bits(9), lambda s: s.planes(3, 3)])
def test_missing_bits_are_an_error(read):
    with pytest.raises(CodecError, match="ends where"):
        read(BitReader(b"\xff"))


def test_looking_ahead_takes_nothing_and_what_there_is():
    source = BitReader(b"\xf0")
    assert source.ahead(3).tolist() == [1, 1, 1]
    assert source.ahead(99).size == source.left == 8


@pytest.mark.parametrize("data", [b"\x01", b"\x80\x00", b"\x80\x00\x00"])
def test_what_is_left_must_be_zero_and_less_than_a_byte(data):
    source = BitReader(data)
    source.bits(1)
    with pytest.raises(CodecError, match="goes on"):
        source.end()


def test_seven_zero_bits_are_padding():
    source = BitReader(b"\x80")
    source.bits(1)
    source.end()


def test_declared_numbers_take_no_memory():
    source = BitReader(bytes(100))
    assert peak_of_refusal(lambda: source.planes(4_000_000, 8)) < 8 * 1024
