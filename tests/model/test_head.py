from __future__ import annotations

import numpy as np
import pytest

from fedclient import limits
from fedclient.errors import UsageError
from fedclient.model.head import write_head
from fedclient.runtime import load
from fedclient.runtime.tensors import unflatten
from fedclient.values import TensorSpec


def weights(data):
    model = load(data)
    return unflatten(model.get_weights(), model.tensors)


@pytest.mark.parametrize(
    "args", [(4, 3), (4, 3, 1), (4, 3, 7), (64, 10, 128), (1, 2), (1, 2, 1), (1280, 10), (7, 300)]
)
def test_heads_of_any_size_predict_for_any_batch(args):
    features, classes = args[:2]
    model = load(write_head(*args))
    for rows in (1, 33, 2):
        assert model.infer(np.ones((rows, features), np.float32)).shape == (rows, classes)


def test_names_and_shapes_are_those_documented():
    assert load(write_head(4, 3, 5)).tensors == (
        TensorSpec(name="hidden/bias", shape=(5,)),
        TensorSpec(name="hidden/kernel", shape=(5, 4)),
        TensorSpec(name="output/bias", shape=(3,)),
        TensorSpec(name="output/kernel", shape=(3, 5)),
    )


def test_a_linear_head_starts_at_zero_and_costs_no_bytes_for_it():
    assert not any(array.any() for array in weights(write_head(4, 3)).values())
    wide, narrow = len(write_head(100_000, 10)), len(write_head(4, 3))
    assert max(wide, narrow) < 16384
    assert abs(wide - narrow) <= 64  # equal vectors are written once: some numbers meet by chance


def test_a_hidden_head_starts_at_seeded_noise_of_the_right_size():
    one = weights(write_head(64, 10, 128, seed=1))
    he, glorot = np.sqrt(6 / 64), np.sqrt(6 / 138)
    for name, bound in (("hidden/kernel", he), ("output/kernel", glorot)):
        assert 0.98 * bound < np.abs(one[name]).max() <= bound
        assert abs(one[name].std() - bound / np.sqrt(3)) < 0.05 * bound
        assert abs(one[name].mean()) < 0.05 * bound
    assert not one["hidden/bias"].any()
    assert not one["output/bias"].any()
    assert not np.array_equal(weights(write_head(64, 10, 128, seed=2))["hidden/kernel"], one["hidden/kernel"])


def test_the_first_weights_are_the_same_on_every_numpy():
    # Taken from PCG64's raw stream: the numbers themselves, not the file's bytes, are the promise.
    found = weights(write_head(2, 2, 1, seed=7))
    assert found["hidden/kernel"].tolist() == [[0.4333432614803314, 1.3759888410568237]]


def test_equal_arguments_give_equal_bytes():
    assert write_head(4, 3, 5, seed=9) == write_head(4, 3, 5, seed=9)
    assert write_head(4, 3, 5, seed=9) != write_head(4, 3, 5, seed=8)


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ((0, 3), "features must be between 1 and"),
        ((4, 1), "classes must be between 2 and"),
        ((4, limits.MAX_LABELS + 1), "classes must be between 2 and"),
        ((4, 3, 0), "hidden must be between 1 and"),
        ((4, 3, 5, -1), "seed must be between 0 and"),
        ((4, 3, 5, 2**63), "seed must be between 0 and"),
        ((limits.MAX_HEAD_PARAMETERS, 3), "above the bound of 4000000"),
        ((2000, 3, 2000), "above the bound of 4000000"),
    ],
)
def test_numbers_out_of_bounds_are_one_sentence(args, sentence):
    with pytest.raises(UsageError, match=sentence) as caught:
        write_head(*args)
    assert "\n" not in str(caught.value)


def test_training_learns_what_a_linear_head_cannot():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (256, 2)).astype(np.float32)
    y = (x[:, 0] * x[:, 1] > 0).astype(np.int32)
    accuracy = []
    for hidden in (None, 16):
        model = load(write_head(2, 2, hidden))
        for _ in range(1500):
            model.train_step(x, y, {"learning_rate": 0.5})
        accuracy.append((model.infer(x).argmax(1) == y).mean())
    assert accuracy[0] < 0.7
    assert accuracy[1] > 0.95
