from __future__ import annotations

import numpy as np
import pytest

from fedclient.errors import UsageError
from fedclient.model.layers import head_of
from fedclient.model.options import HeadOptions, Optimizer

EVERYTHING = HeadOptions(optimizer=Optimizer.ADAM, normalize=True, personal=True)


def test_the_tensors_of_a_head_with_everything():
    head = head_of(4, 3, 5, 0, EVERYTHING)
    assert head.tensors == {
        "hidden/bias": (5,),
        "hidden/kernel": (5, 4),
        "normalize/mean": (4,),
        "normalize/mean_square": (4,),
        "output/bias": (3,),
        "output/kernel": (3, 5),
        "personal/bias": (3,),
        "personal/kernel": (3, 5),
    }
    assert {name: head.first(name) for name in head.tensors if not name.endswith("/kernel")} == {
        "hidden/bias": 0.0,
        "normalize/mean": 0.0,
        "normalize/mean_square": 1.0,
        "output/bias": 0.0,
        "personal/bias": 0.0,
    }
    assert head.first("personal/kernel") == 0.0
    assert np.shape(head.first("hidden/kernel")) == (5, 4)


def test_what_is_trained_has_slots_and_what_is_sent_has_an_anchor():
    head = head_of(4, 3, None, 0, EVERYTHING)
    trained = {"output/bias", "output/kernel", "personal/bias", "personal/kernel"}
    assert head.trained.keys() == trained
    assert head.anchored.keys() == {"output/bias", "output/kernel"}
    assert head.slots.keys() == {f"{kind}/{name}" for kind in ("first", "second") for name in trained} | {
        "first",
        "second",
    }
    assert head.state.keys() - head.slots.keys() == {"anchor/output/bias", "anchor/output/kernel"}
    assert not head_of(4, 3, None, 0, HeadOptions()).slots


def test_the_personal_layer_counts_towards_the_bound():
    head_of(1_000_000, 3, None, 0, HeadOptions())
    with pytest.raises(UsageError, match="a head of 6000006 parameters is above the bound"):
        head_of(1_000_000, 3, None, 0, HeadOptions(personal=True))


def test_a_head_starts_with_what_it_is_given_and_else_as_ever():
    kernel = np.arange(12, dtype=np.float32).reshape(3, 4)
    head = head_of(4, 3, None, 0, HeadOptions()).starting_with({"output/kernel": kernel})
    assert head.first("output/kernel") is kernel
    assert head.first("output/bias") == 0.0
    hidden = head_of(4, 3, 5, 0, HeadOptions()).starting_with({"output/bias": kernel[:, 0].copy()})
    assert np.array_equal(
        hidden.first("hidden/kernel"), head_of(4, 3, 5, 0, HeadOptions()).first("hidden/kernel")
    )
    assert np.array_equal(hidden.first("output/bias"), [0, 4, 8])


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("output/kernel", np.zeros((4, 3), np.float32), r"float32 \[4, 3\] cannot be .* 'output/kernel'"),
        ("output/kernel", np.zeros((3, 4)), r"float64 \[3, 4\] cannot be"),
        ("hidden/bias", np.zeros(5, np.float32), "'hidden/bias'"),
        ("output/bias", np.full(3, np.nan, np.float32), "'output/bias' holds NaN"),
    ],
)
def test_a_first_value_that_does_not_fit_is_refused(name, value, said):
    with pytest.raises(UsageError, match=said):
        head_of(4, 3, None, 0, HeadOptions()).starting_with({name: value})
