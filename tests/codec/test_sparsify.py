"""Exact top-k against sorting."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedclient.codec.sparsify import top_k

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
FEW = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, 2**-149, -(2**-149)])  # many ties, subnormals, both zeros


def by_sorting(vector: np.ndarray, k: int) -> list[int]:
    order = sorted(range(vector.size), key=lambda i: (-abs(float(vector[i])), i))
    return sorted(i for i in order[:k] if vector[i] != 0)


@given(
    hnp.arrays(np.float32, st.integers(1, 60), elements=st.one_of(FEW, FINITE)),
    st.integers(1, 70),
)
def test_the_choice_is_the_one_sorting_makes(vector, k):
    chosen = top_k(vector, k)
    assert chosen.dtype == np.int64
    assert chosen.tolist() == by_sorting(vector, k)


@pytest.mark.parametrize("k", [1, 2, 500, 999, 1000])
def test_equal_values_are_taken_from_the_front(k):
    assert top_k(np.full(1000, -0.5, np.float32), k).tolist() == list(range(k))


def test_zeros_are_never_sent():
    assert top_k(np.zeros(9, np.float32), 3).size == 0
    assert top_k(np.array([0, -0.0, 3, 0], np.float32), 3).tolist() == [2]


def test_the_input_is_left_alone():
    vector = np.arange(-5, 5, dtype=np.float32)
    before = vector.copy()
    top_k(vector, 3)
    assert np.array_equal(vector, before)
