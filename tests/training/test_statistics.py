"""Mean and mean of squares, in the tensors of a head that standardises by them."""

from __future__ import annotations

import numpy as np
import pytest

from fedclient import runtime
from fedclient.errors import ModelError
from fedclient.model.head import HeadOptions, write_head
from fedclient.training.statistics import has_statistics, statistics, with_statistics
from fedclient.values import MEAN, MEAN_SQUARE, TensorSpec


def test_they_are_those_of_all_rows_exactly_rounded() -> None:
    x = np.random.default_rng(1).normal(3, 2, (1000, 5)).astype(np.float32)
    found = statistics(x)
    wide = x.astype(np.float64)
    assert found[MEAN].tobytes() == wide.mean(axis=0).astype(np.float32).tobytes()
    np.testing.assert_allclose(found[MEAN_SQUARE], (wide**2).mean(axis=0), rtol=1e-7)


def test_those_of_two_devices_weighted_by_rows_are_those_of_all() -> None:
    x = np.random.default_rng(1).normal(3, 2, (300, 5)).astype(np.float32)
    one, other, whole = statistics(x[:100]), statistics(x[100:]), statistics(x)
    for name in (MEAN, MEAN_SQUARE):
        np.testing.assert_allclose((one[name] + 2 * other[name]) / 3, whole[name], rtol=1e-6)


def test_a_head_sees_rows_of_mean_0_and_variance_1_and_nothing_else_changes() -> None:
    model = runtime.load(write_head(5, 3, options=HeadOptions(normalize=True)))
    x = np.random.default_rng(1).normal(3, 2, (1000, 5)).astype(np.float32)
    before = np.arange(len(model.get_weights()), dtype=np.float32)
    after = with_statistics(before, model.tensors, x)
    at = 0
    for tensor in model.tensors:
        same = np.array_equal(after[at : at + tensor.size], before[at : at + tensor.size])
        assert same is not tensor.is_statistic, tensor.name
        if tensor.name == "output/kernel":
            after[at : at + tensor.size] = np.eye(3, 5, dtype=np.float32).ravel()
        elif tensor.name == "output/bias":
            after[at : at + tensor.size] = 0
        at += tensor.size
    model.set_weights(after)
    logits = model.infer(x)
    np.testing.assert_allclose(logits.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(logits.std(axis=0), 1, atol=1e-3)


def test_a_head_without_them_has_none() -> None:
    plain = runtime.load(write_head(5, 3))
    assert not has_statistics(plain.tensors)
    assert has_statistics(runtime.load(write_head(5, 3, options=HeadOptions(normalize=True))).tensors)
    weights = plain.get_weights()
    assert with_statistics(weights, plain.tensors, np.ones((2, 5), np.float32)).tolist() == weights.tolist()


@pytest.mark.parametrize("shape", [(), (1,), (3,), (5, 5)])
def test_tensors_that_are_no_statistics_of_these_features_are_refused(shape) -> None:
    tensors = tuple(TensorSpec(name=name, shape=shape) for name in (MEAN, MEAN_SQUARE))
    weights = np.zeros(2 * tensors[0].size, np.float32)
    with pytest.raises(ModelError, match=f"mean has {tensors[0].size} elements, there are 5"):
        with_statistics(weights, tensors, np.ones((2, 5), np.float32))
