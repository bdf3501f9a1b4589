"""The order of an epoch: reproducible, complete, and balanced when asked."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedclient.training.sampling import order

SKEWED = np.array([0] * 70 + [3] * 25 + [7] * 5, np.int32)


@pytest.mark.parametrize("balanced", [False, True])
def test_rule_5_1_it_is_a_function_of_seed_and_epoch(balanced) -> None:
    found = order(SKEWED, 1, 2, balanced=balanced).tolist()
    assert found == order(SKEWED.copy(), 1, 2, balanced=balanced).tolist()
    assert found != order(SKEWED, 1, 3, balanced=balanced).tolist()
    assert found != order(SKEWED, 2, 2, balanced=balanced).tolist()


def test_plain_takes_every_row_once_and_as_it_always_did() -> None:
    found = order(SKEWED, 1, 2, balanced=False)
    assert sorted(found.tolist()) == list(range(100))
    assert found.tolist() == np.random.Generator(np.random.PCG64([1, 2])).permutation(100).tolist()


@given(
    labels=st.lists(st.integers(0, 5), min_size=1, max_size=60),
    seed=st.integers(0, 2**62),
    epoch=st.integers(0, 99),
)
def test_balanced_draws_every_class_equally_often_and_its_rows_evenly(labels, seed, epoch) -> None:
    y = np.array(labels, np.int32)
    rows = order(y, seed, epoch, balanced=True)
    assert len(rows) == len(y)
    _, drawn = np.unique(y[rows], return_counts=True)
    classes = len(set(labels))
    assert drawn.max() - (drawn.min() if len(drawn) == classes else 0) <= 1
    for one in set(labels):
        times = np.bincount(rows[y[rows] == one], minlength=len(y))[y == one]
        assert times.max() - times.min() <= 1


def test_balanced_sees_other_rows_of_a_large_class_in_each_epoch() -> None:
    epochs = [set(order(SKEWED, 1, epoch, balanced=True)) & set(range(70)) for epoch in range(12)]
    assert {len(one) for one in epochs} <= {33, 34}
    assert set.union(*epochs) == set(range(70))


def test_balanced_gives_the_odd_row_to_another_class_in_each_epoch() -> None:
    drawn = [np.bincount(SKEWED[order(SKEWED, 1, epoch, balanced=True)]) for epoch in range(20)]
    assert {tuple(one[[0, 3, 7]]) for one in drawn} == {(34, 33, 33), (33, 34, 33), (33, 33, 34)}


def test_balanced_rows_of_one_class_do_not_come_in_a_block() -> None:
    labels = SKEWED[order(SKEWED, 1, 0, balanced=True)]
    assert np.count_nonzero(np.diff(labels)) > 40  # 66 changes are expected of a shuffle, 2 of blocks
