"""What each optimiser is, by hand, on a head that is one weight in effect."""

from __future__ import annotations

import numpy as np
import pytest

from fedclient.model.head import HeadOptions, Optimizer, write_head
from fedclient.runtime import load
from fedclient.runtime.tensors import unflatten

X, Y = np.ones((1, 1), np.float32), np.array([0])
RATE = 0.25


def head(optimizer=Optimizer.SGD, *, personal=False):
    return load(write_head(1, 2, options=HeadOptions(optimizer=optimizer, personal=personal)))


def bias(model, name="output/bias"):
    return unflatten(model.get_weights(), model.tensors)[name][0]


def test_sgd_goes_down_the_slope():
    model = head()
    model.train_step(X, Y, {"learning_rate": RATE})
    assert bias(model) == pytest.approx(RATE * 0.5)


def test_momentum_remembers_the_slopes():
    model = head(Optimizer.MOMENTUM)
    model.train_step(X, Y, {"learning_rate": RATE, "momentum": 0.5})
    before = bias(model)
    model.train_step(X, Y, {"learning_rate": RATE, "momentum": 1.0})
    p = 1 / (1 + np.exp(-4 * before))  # weight and bias of both classes have moved by as much
    assert bias(model) - before == pytest.approx(RATE * (0.5 + 1 - p), rel=1e-5)


def test_adams_first_step_is_the_learning_rate_whatever_the_slope():
    for scale in (1.0, 1e-3):
        model = head(Optimizer.ADAM)
        model.train_step(X * np.float32(scale), Y, {"learning_rate": RATE})
        kernel = unflatten(model.get_weights(), model.tensors)["output/kernel"][0, 0]
        assert kernel == pytest.approx(RATE, rel=1e-3)


def test_l2_shrinks_kernels_and_leaves_biases():
    model = head()
    model.set_weights(np.array([8, -8, 8, -8], np.float32))
    model.train_step(X, Y, {"learning_rate": RATE, "l2": 0.5})
    assert model.get_weights() == pytest.approx([8, -8, 7, -7], abs=1e-5)


def test_fedprox_pulls_what_is_sent_towards_what_was_set():
    model = head(personal=True)
    model.set_weights(np.zeros(8, np.float32))
    state = model.get_state()
    far = np.array([8, -8, 8, -8, 8, -8, 8, -8], np.float32)
    model.set_weights(far)
    assert all(not np.array_equal(value, state[name]) for name, value in model.get_state().items())
    model.set_state(state)
    model.train_step(X, Y, {"learning_rate": RATE, "mu": 0.5})
    assert model.get_weights() == pytest.approx([7, -7, 7, -7, 8, -8, 8, -8], abs=1e-5)
