"""Small numbers by a prefix code: exact both ways, near their entropy, and strict."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedclient.codec import symbols
from fedclient.codec.bits import BitReader, BitWriter
from fedclient.errors import CodecError
from tests.codec.reader import Reader

LISTS = st.sampled_from([3, 127]).flatmap(lambda top: st.lists(st.integers(0, top), min_size=1, max_size=80))


def written(numbers) -> BitWriter:
    out = BitWriter()
    symbols.write(out, np.array(numbers, dtype=np.int64))
    return out


@given(LISTS)
def test_round_trip_with_both_readers(numbers):
    out = written(numbers)
    source = BitReader(out.to_bytes())
    assert symbols.read(source, len(numbers), max(numbers) + 1).tolist() == numbers
    source.end()
    assert Reader(out.to_bytes()).symbols(len(numbers)) == numbers


def test_a_code_worked_out_by_hand():
    # 0 has one bit, 1 and 2 have two: a table of lengths 1 (one of two slots) and 2 (two of two)
    # heads 0 1 0 1 0, as they are; of the two that go on: 0 1
    assert written([0, 1, 0, 2, 0]).to_bytes() == bytes([0b00001_01_1, 0b0_0_01010_0, 0b01_000000])


def test_one_symbol_costs_a_table_and_nothing_more():
    assert written([0] * 1000).size == 6


@pytest.mark.parametrize(("share", "at_most"), [(0.03, 1.01), (0.1, 1.012), (0.3, 1.015), (0.7, 1.03)])
def test_size_is_near_the_entropy(share, at_most):
    numbers = np.random.default_rng(2).geometric(share, 10_000).clip(max=256) - 1
    shares = np.bincount(numbers)[np.unique(numbers)] / numbers.size
    assert written(numbers).size <= -at_most * numbers.size * (shares * np.log2(shares)).sum() + 200


def test_extreme_counts_have_short_enough_codes():
    fibonacci = [1, 1]
    while len(fibonacci) < 27:
        fibonacci.append(fibonacci[-1] + fibonacci[-2])
    ends = symbols._ends(fibonacci[::-1])
    assert len(ends) <= symbols._MAX_LENGTH + 1
    assert sum(end / 2**depth for depth, end in enumerate(ends)) == 1


@given(st.binary(max_size=40), st.integers(1, 60), st.integers(1, 128))
def test_any_bits_are_symbols_within_the_alphabet_or_an_error(data, count, alphabet):
    source = BitReader(data)
    try:
        found = symbols.read(source, count, alphabet)
    except CodecError:
        return
    assert found.size == count
    assert 0 <= found.min() <= found.max() < alphabet


@pytest.mark.parametrize(
    ("table", "match"),
    [
        ([(31, 5)], "too long"),
        ([(1, 5), (0, 2), (4, 3)], "no encoder"),  # shortest length 1, and no symbol has it
        ([(1, 5), (3, 2)], "no encoder"),  # three of two slots
        ([(2, 5), (1, 3), (6, 3)], "symbols where there are"),
        ([(0, 5), (0, 1)], "no encoder"),
        ([(1, 5), (1, 2), (0, 3), *[(0, 3 + i) for i in range(25)]], "too long"),
        ([(1, 5), (2, 2), (1, 1), (0, 3)], "last is not used"),
    ],
    ids=str,
)
def test_tables_that_no_encoder_writes_are_refused(table, match):
    out = BitWriter()
    for value, width in table:
        out.number(value, width)
    with pytest.raises(CodecError, match=match):
        symbols.read(BitReader(out.to_bytes() + bytes(20)), 5, 4)
