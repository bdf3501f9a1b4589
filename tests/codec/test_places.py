"""Orders, groups and positions: exact both ways, and strict about groups."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedclient.codec import places, symbols
from fedclient.codec.bits import BitReader, BitWriter
from fedclient.errors import CodecError
from fedclient.values import TensorSpec, parameters

HEAD = (TensorSpec(name="bias", shape=(8,)), TensorSpec(name="kernel", shape=(40, 8)))
SIZE = parameters(HEAD)


def write(indices, negative) -> tuple[BitWriter, np.ndarray, list[int]]:
    out = BitWriter()
    turn, counts = places.write(out, indices, negative, HEAD)
    return out, indices if turn is None else indices[turn], counts


@given(st.lists(st.floats(0, 1), min_size=8, max_size=8), st.floats(0, 1), st.integers(0, 99))
def test_round_trip_of_any_mix_of_classes(odds, lean, seed):
    rng = np.random.default_rng(seed)
    indices = np.flatnonzero(rng.random(SIZE) < np.tile(np.array(odds) ** 3, 41))
    if not indices.size:
        return
    negative = rng.random(indices.size) < np.where(indices % 8 < 4, lean, 1 - lean)
    out, order, counts = write(indices, negative)
    source = BitReader(out.to_bytes())
    found, held = places.read(source, indices.size, HEAD)
    source.end()
    assert found.tolist() == order.tolist()
    assert held == counts
    assert sorted(found) == indices.tolist()


def test_few_classes_take_fewer_bits():
    rng = np.random.default_rng(1)
    indices = np.flatnonzero((np.arange(SIZE) % 8 == 3) & (rng.random(SIZE) < 0.9))
    out, _, counts = write(indices, np.zeros(indices.size, np.bool_))
    assert len(counts) == 2
    assert out.size < 90


def grouped(labels, order=1, counts=(), more=bytes(40)) -> BitReader:
    out = BitWriter()
    out.number(order, 2)
    symbols.write(out, np.array(labels))
    for count, width in counts:
        out.number(count, width)
    return BitReader(out.to_bytes() + more)


@pytest.mark.parametrize(
    ("source", "match"),
    [
        (grouped([0] * 9), "no encoder makes"),  # one group is the whole
        (grouped([1] * 8 + [0]), "no encoder makes"),  # the most common is first
        (grouped([0] * 8 + [2]), "no encoder makes"),  # a group without segments
        (grouped([0] * 9, order=3), "order that it does not have"),
        (grouped([0] * 7 + [1] * 2, counts=[(3, 8)]), "group of 80 elements|declares"),
        (grouped([0] * 7 + [1] * 2, counts=[(255, 8)], more=b"\xff" * 40), "declares|beyond|position"),
    ],
)
def test_groups_that_no_encoder_makes_are_refused(source, match):
    with pytest.raises(CodecError, match=match):
        places.read(source, 100, HEAD)


def test_more_groups_than_an_encoder_makes_are_refused():
    out = BitWriter()
    for value, width in ((1, 2), (6, 5), (63, 7), (2, 2)):  # columns; 63 codes of 6 bits and 2 of 7
        out.number(value, width)
    with pytest.raises(CodecError, match="65 symbols where there are 64"):
        places.read(BitReader(out.to_bytes() + bytes(40)), 100, HEAD)


def test_an_order_that_the_head_does_not_have_is_refused():
    with pytest.raises(CodecError, match="order"):
        places.read(BitReader(b"\x40" + bytes(9)), 2, (TensorSpec(name="flat", shape=(9,)),))
