"""The reference itself, against finite differences: it must not lean on what it is to prove."""

from __future__ import annotations

import numpy as np
import pytest

from fedclient.model.reference import Reference, gradient


@pytest.mark.parametrize("hidden", [None, 1, 5])
def test_the_step_goes_down_the_slope_of_the_loss(hidden):
    rng = np.random.default_rng(1)
    width = hidden or 4
    weights = {"output/kernel": rng.normal(size=(3, width)), "output/bias": rng.normal(size=3)}
    if hidden:
        weights |= {"hidden/kernel": rng.normal(size=(hidden, 4)), "hidden/bias": rng.normal(size=hidden)}
    x, y = rng.normal(size=(9, 4)), rng.integers(0, 3, 9)
    reference = Reference(weights)
    reference.step(x, y, {"learning_rate": 1.0})
    after = reference.weights
    for name, value in weights.items():
        for index in np.ndindex(value.shape):
            losses = []
            for nudge in (1e-6, -1e-6):
                moved = value.copy()
                moved[index] += nudge
                losses.append(gradient(weights | {name: moved}, x, y)[0])
            slope = (losses[0] - losses[1]) / 2e-6
            assert value[index] - after[name][index] == pytest.approx(slope, abs=1e-6)


def test_the_loss_is_the_mean_of_minus_log_p():
    weights = {"output/kernel": np.zeros((4, 2)), "output/bias": np.array([0.0, 0, 0, 1e4])}
    loss, _ = gradient(weights, np.zeros((2, 2)), np.array([3, 0]))
    assert loss == pytest.approx(5e3)
