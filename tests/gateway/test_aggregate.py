from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedclient import codec
from fedclient.gateway import aggregate
from fedclient.values import BlobRef, Codec, CodecMode, HeadVersion, Manifest, Plan, Reason
from tests.gateway.harness import PLAN, TENSORS, P, body, delta

MANIFEST = Manifest(
    head_version=HeadVersion(1, 1),
    model=BlobRef(hash=bytes(32), size=1),
    head=BlobRef(hash=bytes(32), size=4 * P),
    tensors=TENSORS,
    labels=(),
    plan=PLAN,
    plan_hash=bytes(32),
)


def manifest(**over: object) -> Manifest:
    return replace(MANIFEST, plan=replace(PLAN, **over))


def test_weights_are_powers_of_two_up_to_the_cap():
    assert [aggregate.sample_weight(bucket, 3) for bucket in (0, 2, 3, 4, 62)] == [1, 4, 8, 8, 8]


@pytest.mark.parametrize(("most", "bucket"), [(1, 0), (31, 4), (32, 5), (10_000, 13)])
def test_a_bucket_above_the_plans_examples_is_impossible(most, bucket):
    plan = replace(PLAN, max_examples=most)
    assert aggregate.bucket_is_possible(bucket, plan)
    assert not aggregate.bucket_is_possible(bucket + 1, plan)


def test_the_norm_bound_has_one_percent_of_tolerance():
    bound = codec.decode(body(1), TENSORS, PLAN.codec).norm()
    assert isinstance(aggregate.inspect(body(1), manifest(norm_bound=bound / 1.009)), codec.Decoded)
    assert aggregate.inspect(body(1), manifest(norm_bound=bound / 1.011)) is Reason.NORM


@pytest.mark.parametrize("wrong", [b"", b"\x01", body(1)[:-1], body(1) + b"\0", b"\xff" * 400])
def test_a_body_that_does_not_decode_has_no_shape(wrong):
    assert aggregate.inspect(wrong, MANIFEST) is Reason.SHAPE


def test_a_body_of_another_mode_has_no_shape():
    dense = codec.encode(delta(1), TENSORS, Codec(mode=CodecMode.DENSE_INT8)).body
    assert aggregate.inspect(dense, MANIFEST) is Reason.SHAPE


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_refused_whatever_the_codec_lets_through(bad):
    decoded = codec.Decoded(indices=None, values=np.array([0, bad], dtype=np.float32))
    assert aggregate.check(decoded, 1e9) is Reason.NONFINITE


@given(seeds=st.lists(st.integers(0, 99), min_size=1, max_size=8), rate=st.floats(0.1, 2))
def test_the_mean_is_the_weighted_one(seeds, rate):
    running, weights = aggregate.RunningSum(MANIFEST), [2.0 ** (seed % 5) for seed in seeds]
    dense = []
    for seed, weight in zip(seeds, weights, strict=True):
        encoded = codec.encode(delta(seed), TENSORS, PLAN.codec)
        running.add(codec.decode(encoded.body, TENSORS, PLAN.codec), weight)
        dense.append(encoded.decoded.astype(np.float64))
    head = np.linspace(-1, 1, P, dtype=np.float32)
    expected = head + rate * np.average(dense, axis=0, weights=weights)
    assert np.allclose(running.finish(head, rate), expected, rtol=1e-6, atol=1e-7)
    assert running.finish(head, rate).dtype == np.float32
    assert (head == np.linspace(-1, 1, P, dtype=np.float32)).all(), "the old head is not touched"


def test_rule_4_4_the_aggregate_rebuilt_in_row_order_is_bit_identical():
    def total() -> bytes:
        running = aggregate.RunningSum(MANIFEST)
        for seed in range(50):
            running.add(codec.decode(body(seed), TENSORS, PLAN.codec), 1 / (1 + seed))
        return running.finish(np.zeros(P, dtype=np.float32), 1.0).tobytes()

    assert total() == total()


def test_no_updates_leave_the_head_as_it_is():
    head = np.ones(P, dtype=np.float32)
    assert (aggregate.RunningSum(MANIFEST).finish(head, 1.0) == head).all()


def test_memory_is_that_of_the_model_not_of_the_devices():
    running = aggregate.RunningSum(MANIFEST)
    for seed in range(100):
        running.add(codec.decode(body(seed), TENSORS, PLAN.codec), 1.0)
    assert [value.shape for value in vars(running).values() if isinstance(value, np.ndarray)] == [(P,)]


def test_plan_defaults_are_possible():
    assert aggregate.bucket_is_possible(0, Plan())
