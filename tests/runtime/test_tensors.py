from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedclient.errors import ModelError
from fedclient.runtime.tensors import flatten, specs, unflatten

shapes = st.dictionaries(
    st.text(min_size=1, max_size=4),
    st.lists(st.integers(1, 4), max_size=3).map(tuple),
    min_size=1,
    max_size=4,
)


@given(shapes)
def test_flat_and_back_is_exact_and_copies(shapes):
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    order = specs(arrays)
    flat = flatten(arrays, order)
    back = unflatten(flat, order)
    assert back.keys() == arrays.keys()
    assert all(np.array_equal(back[name], arrays[name]) for name in arrays)
    flat[:] = 7
    assert all(np.array_equal(back[name], arrays[name]) for name in arrays)


def test_the_order_is_that_of_utf_8_names_and_of_c():
    high, low = "\U00010000", "\uffff"  # UTF-16 would order them the other way round
    arrays = {
        high: np.array([5], np.float32),
        low: np.array([4], np.float32),
        "b": np.asfortranarray(np.array([[0, 1], [2, 3]], np.float32)),
    }
    assert flatten(arrays, specs(arrays)).tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "flat",
    [
        np.zeros(5, np.float32),
        np.zeros(6),
        np.zeros((2, 3), np.float32),
        np.array([0, 0, 0, 0, 0, np.nan], np.float32),
        np.array([np.inf, 0, 0, 0, 0, 0], np.float32),
    ],
)
def test_a_vector_that_is_no_head_is_refused(flat):
    order = specs({"w": np.zeros((2, 2), np.float32), "b": np.zeros(2, np.float32)})
    with pytest.raises(ModelError):
        unflatten(flat, order)


@pytest.mark.parametrize(
    "arrays",
    [
        {"w": np.zeros((2, 2), np.float32)},
        {"w": np.zeros((2, 2), np.float32), "b": np.zeros(2, np.float32), "c": np.zeros(1, np.float32)},
        {"w": np.zeros(4, np.float32), "b": np.zeros(2, np.float32)},
        {"w": np.zeros((2, 2)), "b": np.zeros(2, np.float32)},
        {"w": np.full((2, 2), np.nan, np.float32), "b": np.zeros(2, np.float32)},
    ],
)
def test_tensors_that_are_not_the_models_are_refused(arrays):
    order = specs({"w": np.zeros((2, 2), np.float32), "b": np.zeros(2, np.float32)})
    with pytest.raises(ModelError):
        flatten(arrays, order)
