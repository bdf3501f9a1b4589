"""Predictions of heads with each option, as NumPy computes them; the slopes are proved in test_compared."""

from __future__ import annotations

import numpy as np
import pytest

from fedclient.model.head import HeadOptions, write_head
from fedclient.model.options import VARIANCE_FLOOR
from fedclient.runtime import load
from fedclient.runtime.tensors import flatten, unflatten

X = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)


def with_weights(data, **changed):
    model = load(data)
    flat = np.random.default_rng(1).normal(size=model.get_weights().shape).astype(np.float32)
    weights = unflatten(flat, model.tensors) | changed
    model.set_weights(flatten(weights, model.tensors))
    return model, weights


@pytest.mark.parametrize("hidden", [None, 6])
def test_the_personal_layer_is_added_to_the_output_layer(hidden):
    model, w = with_weights(write_head(4, 3, hidden, options=HeadOptions(personal=True)))
    h = np.maximum(X @ w["hidden/kernel"].T + w["hidden/bias"], 0) if hidden else X
    wanted = h @ (w["output/kernel"] + w["personal/kernel"]).T + w["output/bias"] + w["personal/bias"]
    assert np.allclose(model.infer(X), wanted, atol=1e-5)


def test_the_input_is_standardised_by_the_statistics():
    rows = np.random.default_rng(2).normal(3, 2, (1000, 4)).astype(np.float32)
    statistics = {"normalize/mean": rows.mean(axis=0), "normalize/mean_square": (rows**2).mean(axis=0)}
    model, w = with_weights(write_head(4, 3, options=HeadOptions(normalize=True)), **statistics)
    scaled = (X - rows.mean(axis=0)) / rows.std(axis=0)
    assert np.allclose(model.infer(X), scaled @ w["output/kernel"].T + w["output/bias"], atol=1e-4)


def test_a_feature_without_variance_does_not_explode():
    constant = {
        "normalize/mean": np.full(4, 2, np.float32),
        "normalize/mean_square": np.full(4, 3, np.float32),
    }
    model, w = with_weights(write_head(4, 3, options=HeadOptions(normalize=True)), **constant)
    wanted = (X - 2) / np.sqrt(VARIANCE_FLOOR) @ w["output/kernel"].T + w["output/bias"]
    assert np.allclose(model.infer(X), wanted, rtol=1e-4)


def test_a_head_begins_with_its_input_as_it_is():
    plain, options = write_head(4, 3, 6), HeadOptions(normalize=True, personal=True)
    assert np.array_equal(load(plain).infer(X), load(write_head(4, 3, 6, options=options)).infer(X))
