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


KINDS = ["laplace", "sorted", "few", "one large", "zeros but few", "striped", "every scale"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("size", "k"),
    [(30_000, 1), (30_000, 30), (30_000, 3000), (30_000, 29_999), (70_000, 700), (70_000, 9000)],
)
def test_a_sample_that_misleads_changes_nothing(kind, size, k):
    rng = np.random.default_rng(4)
    vector = rng.laplace(size=size).astype(np.float32)
    if kind == "sorted":
        vector = np.sort(vector)
    elif kind == "few":
        vector = np.sign(vector)
    elif kind == "one large":
        vector[:] = 1
        vector[17] = -2
    elif kind == "zeros but few":
        vector[np.arange(size) % 97 != 0] = 0
    elif kind == "striped":  # what the sample sees is larger than all else
        vector[::13] *= 1000
    elif kind == "every scale":
        vector = np.ldexp(vector, rng.integers(-149, 120, size)).astype(np.float32)
    order = np.lexsort((np.arange(size), -np.abs(vector)))[:k]
    assert top_k(vector, k).tolist() == sorted(order[vector[order] != 0].tolist())


@pytest.mark.parametrize("size", [30_000, 100_000])
def test_what_is_not_finite_is_chosen_first(size):
    vector = np.random.default_rng(4).laplace(size=size).astype(np.float32)
    vector[[5, 20_000]] = np.nan, -np.inf
    assert top_k(vector, 2).tolist() == [5, 20_000]
    vector[1::2] = np.nan
    assert top_k(vector, size // 4).tolist() == list(range(1, size // 2, 2))
