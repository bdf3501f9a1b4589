"""Groups: found where they save bits, and only there."""

import numpy as np
import pytest

from fedclient.codec import grouping
from fedclient.codec.segments import Order, segments
from fedclient.values import TensorSpec

HEAD = (TensorSpec(name="bias", shape=(10,)), TensorSpec(name="kernel", shape=(1280, 10)))
SIZE = 12_810


def draw(odds: np.ndarray, count: int = 128, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.sort(rng.choice(SIZE, count, replace=False, p=odds / odds.sum()))


def by_class(odds_of_class) -> np.ndarray:
    return np.tile(np.array(odds_of_class, dtype=float), 1281)


@pytest.mark.parametrize("seed", range(20))
def test_a_device_that_sees_all_classes_has_no_groups(seed):
    indices = draw(np.ones(SIZE), seed=seed)
    negative = np.random.default_rng(seed).random(128) < 0.5
    assert grouping.choose(indices, negative, HEAD, SIZE) is None


def test_a_device_that_sees_two_classes_has_two_groups_of_columns():
    indices = draw(by_class([0, 0, 1, 0, 0, 0, 0, 1, 0, 0]))
    found = grouping.choose(indices, np.arange(128) % 2 == 0, HEAD, SIZE)
    assert found.order is Order.COLUMNS
    assert np.flatnonzero(found.labels).tolist() == [3, 8]  # after the bias
    assert found.sizes == [10 + 8 * 1280, 2 * 1280]


def test_dead_features_make_groups_of_rows():
    odds = np.concatenate((np.ones(10), np.repeat(np.arange(1280) % 32 == 0, 10)))
    found = grouping.choose(draw(odds, 300), np.arange(300) % 2 == 0, HEAD, SIZE)
    assert found.order is Order.ROWS


def test_signs_that_lean_make_groups_where_densities_are_alike():
    indices = draw(np.ones(SIZE), 1000)
    negative = indices % 10 < 5
    found = grouping.choose(indices, negative, HEAD, SIZE)
    assert found.order is Order.COLUMNS
    assert len(set(found.labels[[1 + c for c in (0, 1, 2, 3, 4)]])) <= 2
    kernel = found.labels[1:]
    assert not set(kernel[:3]) & set(kernel[7:])


def test_a_group_follows_the_other_and_the_most_common_is_first():
    cut = segments(HEAD)[Order.COLUMNS]
    labels = np.array([1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 2])
    found = grouping.arrange(cut, Order.COLUMNS, labels)
    assert found.sizes == [8 * 1280, 10 + 1280, 1280]
    assert found.sequence.tolist() == [1, 2, 4, 5, 6, 7, 8, 9, 0, 3, 10]
    assert found.starts[[1, 9, 0, 3, 10]].tolist() == [0, 7 * 1280, 10_240, 10_250, 11_530]
