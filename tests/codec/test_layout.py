"""Tensors in the flat vector, and the plan's budget of elements."""

import numpy as np
import pytest

from fedclient.codec.layout import layout
from fedclient.errors import CodecError
from fedclient.limits import MAX_HEAD_PARAMETERS, MAX_TENSORS
from fedclient.values import TensorSpec


def spec(*shape: int) -> TensorSpec:
    return TensorSpec(name="t", shape=shape)


def test_indices_are_counted_per_tensor_that_has_any():
    plan = layout((spec(3), spec(2, 2), spec(), spec(5)))
    assert plan.parameters == 13
    assert plan.bounds.tolist() == [0, 3, 7, 8, 13]
    assert plan.counts(np.array([0, 2, 7, 8, 12])).tolist() == [2, 1, 2]
    assert plan.counts(np.array([3])).tolist() == [1]


@pytest.mark.parametrize(
    ("density", "k"), [(0.01, 1), (1e-300, 1), (0.5, 2), (0.625, 2), (0.875, 4), (1.0, 4), (1, 4)]
)
def test_the_budget_is_at_least_one_and_rounds_half_to_even(density, k):
    assert layout((spec(4),)).budget(density) == k


@pytest.mark.parametrize("density", [0.0, -0.1, 1.0001, float("nan"), float("inf")])
def test_a_density_out_of_range_is_refused(density):
    with pytest.raises(CodecError, match="density"):
        layout((spec(4),)).budget(density)


@pytest.mark.parametrize(
    "tensors",
    [
        (),
        (spec(1),) * (MAX_TENSORS + 1),
        (spec(0),),
        (spec(4), spec(3, 0)),
        (spec(-2, -2),),
        (spec(MAX_HEAD_PARAMETERS), spec(1)),
        (spec(2**40, 2**40),),
    ],
)
def test_what_is_no_head_is_refused(tensors):
    with pytest.raises(CodecError):
        layout(tensors)


def test_the_cached_layout_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        layout((spec(4),)).bounds[0] = 1
