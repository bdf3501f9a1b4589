"""Segments: columns and rows of every tensor, each element in exactly one."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedclient.codec.segments import Order, segments, survey
from fedclient.limits import MAX_SEGMENTS
from fedclient.values import TensorSpec, parameters

SHAPES = st.lists(
    st.sampled_from([(), (1,), (5,), (2, 3), (3, 1), (1, 4), (2, 1, 3), (2, 3, 4)]), min_size=1, max_size=5
)


def head(*shapes) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name=f"t{number}", shape=shape) for number, shape in enumerate(shapes))


@given(SHAPES)
def test_every_element_is_in_one_segment_and_is_found_there(shapes):
    tensors = head(*shapes)
    size = parameters(tensors)
    for cut in segments(tensors).values():
        assert cut.size.sum() == size
        segment, place = cut.locate(np.arange(size))
        assert np.array_equal(cut.base[segment] + place * cut.stride[segment], np.arange(size))
        assert (place < cut.size[segment]).all()
        assert len(set(zip(segment.tolist(), place.tolist(), strict=True))) == size


@given(SHAPES)
def test_a_survey_finds_what_each_order_finds(shapes):
    tensors = head(*shapes)
    looked, everywhere = survey(tensors), np.arange(parameters(tensors))
    assert (looked is None) == (not segments(tensors))
    if looked is None:
        return
    expected = [cut.locate(everywhere)[0] for cut in looked.cuts.values()]
    for one in (looked, replace(looked, table=None)):  # as in a small head, and as in a large one
        found = one.locate(everywhere) - looked.begins[:, np.newaxis]
        assert found.tolist() == np.stack(expected).tolist()
    assert looked.size.tolist() == [size for cut in looked.cuts.values() for size in cut.size.tolist()]


def test_columns_and_rows_of_a_kernel():
    cuts = segments(head((3,), (2, 3)))
    columns, rows = cuts[Order.COLUMNS], cuts[Order.ROWS]
    assert [a.tolist() for a in (columns.base, columns.stride, columns.size)] == [
        [0, 3, 4, 5], [1, 3, 3, 3], [3, 2, 2, 2]
    ]  # fmt: skip
    assert [a.tolist() for a in (rows.base, rows.stride, rows.size)] == [[0, 3, 6], [1, 1, 1], [3, 3, 3]]
    segment, place = columns.locate(np.array([2, 3, 7, 8]))
    assert (segment.tolist(), place.tolist()) == ([0, 1, 2, 3], [2, 0, 1, 1])


@pytest.mark.parametrize(
    ("shapes", "orders"),
    [
        ([(7,), ()], []),
        ([(7, 1)], [Order.ROWS]),
        ([(2, MAX_SEGMENTS + 1)], [Order.ROWS]),
        ([(MAX_SEGMENTS, 2)], [Order.COLUMNS, Order.ROWS]),
    ],
)
def test_an_order_without_segments_or_with_too_many_does_not_exist(shapes, orders):
    assert list(segments(head(*shapes))) == orders
