from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedclient.errors import DataError, ModelError
from fedclient.runtime import batches
from fedclient.runtime.interpreter import Port

FREE = Port(name="x", shape=(-1, 2), dtype=np.dtype(np.float32))


@given(st.integers(0, 600), st.sampled_from([None, 1, 4, 7]))
def test_every_row_comes_back_once_and_in_order(rows, batch):
    seen = []

    def double(inputs):
        seen.append(len(inputs["x"]))
        return {"out": inputs["x"] * 2}

    x = np.arange(rows * 2, dtype=np.float32).reshape(rows, 2)
    found = batches.in_chunks(double, FREE, "out", x, batch)
    assert len(found) == rows
    assert np.array_equal(found.reshape(-1, 2), x * 2)
    assert (
        all(size == batch for size in seen) if batch else all(size <= batches.MAX_CHUNK_ROWS for size in seen)
    )


def test_large_rows_go_in_small_chunks():
    sizes = []

    def count(inputs):
        sizes.append(len(inputs["x"]))
        return {"out": inputs["x"][:, :1]}

    wide = Port(name="x", shape=(-1, 100_000), dtype=np.dtype(np.float32))
    batches.in_chunks(count, wide, "out", np.zeros((5, 100_000), np.float32), None)
    assert sizes == [2, 2, 1]


@pytest.mark.parametrize(
    "x",
    [
        np.zeros((3, 3), np.float32),
        np.zeros((3, 2)),
        np.zeros(2, np.float32),
        np.zeros((1, 3, 2), np.float32),
        np.full((3, 2), np.nan, np.float32),
        np.full((3, 2), np.inf, np.float32),
    ],
)
def test_rows_that_do_not_fit_are_refused(x):
    with pytest.raises(DataError):
        batches.checked(x, FREE)


def test_results_are_checked_too():
    batches.checked_result(np.zeros((2, 3), np.float32), 2, 3, "logits")
    for wrong in (np.zeros((1, 3), np.float32), np.zeros((2, 3)), np.full((2, 3), np.nan, np.float32)):
        with pytest.raises(ModelError):
            batches.checked_result(wrong, 2, 3, "logits")


def test_a_fixed_batch_is_told_from_a_dynamic_one():
    assert batches.fixed_batch(FREE) is None
    assert batches.fixed_batch(Port(name="x", shape=(8, 2), dtype=np.dtype(np.float32))) == 8


def test_the_class_of_a_row_is_that_of_its_largest_logit_or_of_a_single_ones_sign():
    assert batches.class_numbers(np.array([[0, 2, 1], [3, 2, 1]], np.float32)).tolist() == [1, 0]
    assert batches.class_numbers(np.array([[-0.5], [0.5], [0]], np.float32)).tolist() == [0, 1, 0]
    assert batches.class_numbers(np.zeros((0, 3), np.float32)).tolist() == []
