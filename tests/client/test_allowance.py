"""Whose bound on an update binds: the least, of one and of a day."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fedclient import codec
from fedclient.client import allowance
from fedclient.config import LimitSettings
from fedclient.errors import ConfigError
from fedclient.limits import UPDATE_OVERHEAD_BYTES
from fedclient.scheduler.schedule import Policy
from fedclient.values import MEAN, MEAN_SQUARE, Codec, CodecMode, Plan, TensorSpec, parameters
from tests.wire.golden import MANIFEST

FREE = LimitSettings()
TENSORS = (
    TensorSpec(name="b", shape=(10,)), TensorSpec(name=MEAN, shape=(64,)),
    TensorSpec(name=MEAN_SQUARE, shape=(64,)), TensorSpec(name="w", shape=(64, 10)),
)  # fmt: skip


def manifest(**plan: object):
    return replace(MANIFEST, tensors=TENSORS, plan=Plan(**plan))


@pytest.mark.parametrize(
    ("owners", "plans", "bound"),
    [(None, 0, None), (None, 400, 400), (300, 0, 300), (300, 400, 300), (500, 400, 400)],
)
def test_the_least_bound_binds(owners, plans, bound) -> None:
    one = replace(FREE, max_update_bytes=owners)
    assert allowance.per_update(one, Plan(max_update_bytes=plans)) == bound
    day = replace(FREE, max_update_bytes_per_day=owners)
    assert allowance.per_day(day, Plan(max_bytes_per_day=plans)) == bound
    assert (
        allowance.applied(Policy(), day, manifest(max_bytes_per_day=plans)).max_update_bytes_per_day == bound
    )
    assert allowance.applied(Policy(), day, None).max_update_bytes_per_day == owners


@pytest.mark.parametrize(
    ("spent", "bound"), [(0.0, 400), (500.0, 400), (700.0, 300), (1000.0, 0), (1500.0, 0)]
)
def test_an_update_gets_at_most_what_is_left_of_the_day(spent, bound) -> None:
    assert allowance.of_next(FREE, Plan(max_update_bytes=400, max_bytes_per_day=1000), spent) == bound
    assert allowance.of_next(FREE, Plan(), spent) is None


@pytest.mark.parametrize("mode", [CodecMode.DENSE_INT8, CodecMode.EXACT])
def test_what_cannot_shrink_needs_its_whole_size(mode) -> None:
    asked = manifest(codec=Codec(mode=CodecMode.DENSE_INT8), statistics=mode is CodecMode.EXACT)
    vector = np.ones(parameters(TENSORS), np.float32)
    body = codec.encode(vector, TENSORS, asked.plan.body_codec).body
    assert allowance.needed(asked) == len(body) + UPDATE_OVERHEAD_BYTES


def test_what_shrinks_needs_the_least_there_is() -> None:
    assert allowance.needed(None) == allowance.needed(manifest()) == 256


@pytest.mark.parametrize(
    ("limits", "plan", "words"),
    [
        ({"max_update_bytes": 500}, {}, "dense updates, which take up to 1003 bytes: [limits] max_update"),
        ({}, {"max_update_bytes": 1002}, "max_update_bytes allows 1002"),
        ({"max_update_bytes_per_day": 600}, {}, "per_day, or the plan's max_bytes_per_day, allows"),
        ({}, {"max_bytes_per_day": 600}, "allows 600"),
        ({"max_update_bytes": 500}, {"statistics": True}, "feature statistics, which take up to 721 bytes"),
    ],
)  # fmt: skip
def test_a_plan_that_cannot_fit_is_refused_in_a_sentence(limits, plan, words) -> None:
    asked = manifest(codec=Codec(mode=CodecMode.DENSE_INT8), **plan)
    with pytest.raises(ConfigError) as caught:
        allowance.check(replace(FREE, **limits), asked)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    allowance.check(replace(FREE, max_update_bytes=256, max_update_bytes_per_day=256), manifest())
    allowance.check(FREE, manifest(codec=Codec(mode=CodecMode.DENSE_INT8), max_update_bytes=1003))
