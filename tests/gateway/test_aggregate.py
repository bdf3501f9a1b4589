from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedclient import codec
from fedclient.gateway import aggregate
from fedclient.values import (
    MEAN,
    MEAN_SQUARE,
    BlobRef,
    Codec,
    CodecMode,
    HeadVersion,
    Manifest,
    Plan,
    Reason,
    TensorSpec,
    Update,
)
from tests.gateway.harness import PLAN, TENSORS, P, body, delta

MANIFEST = Manifest(
    head_version=HeadVersion(1, 1),
    model=BlobRef(hash=bytes(32), size=1),
    head=BlobRef(hash=bytes(32), size=4 * P),
    full=BlobRef(hash=bytes(32), size=4 * P),
    tensors=TENSORS,
    labels=(),
    plan=PLAN,
    plan_hash=bytes(32),
)


def manifest(**over: object) -> Manifest:
    return replace(MANIFEST, plan=replace(PLAN, **over))


def test_weights_are_powers_of_two_up_to_the_cap():
    assert [aggregate.sample_weight(bucket, 3) for bucket in (0, 2, 3, 4, 62)] == [1, 4, 8, 8, 8]


def update(bucket: int = 0, epochs: int | None = None) -> Update:
    fields = {"counter": 1, "head_version": HeadVersion(1, 1), "accuracy_percent": None, "body": b""}
    return Update(bucket=bucket, epochs=epochs, **fields)


@pytest.mark.parametrize(("most", "bucket"), [(1, 0), (31, 4), (32, 5), (10_000, 13)])
def test_a_bucket_above_the_plans_examples_is_impossible(most, bucket):
    plan = replace(PLAN, max_examples=most)
    assert aggregate.claims_are_possible(update(bucket), plan)
    assert not aggregate.claims_are_possible(update(bucket + 1), plan)


def test_more_epochs_than_the_plans_are_impossible():
    plan = replace(PLAN, epochs=5)
    assert all(aggregate.claims_are_possible(update(epochs=epochs), plan) for epochs in (None, 1, 5))
    assert not aggregate.claims_are_possible(update(epochs=6), plan)
    assert not aggregate.claims_are_possible(update(epochs=1), replace(plan, statistics=True))


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


@pytest.mark.parametrize("mode", [CodecMode.FITTED, CodecMode.TOPK_INT8])
def test_a_body_beyond_the_plans_bytes_is_refused(mode):
    wide = (TensorSpec(name="kernel", shape=(500, 10)),)
    kind = Codec(mode=mode, density=1.0)
    long = codec.encode(np.linspace(-1, 1, 5000, dtype=np.float32), wide, kind).body
    for bound, taken in ((0, True), (len(long), True), (len(long) - 1, False)):
        told = replace(
            MANIFEST, tensors=wide, plan=replace(PLAN, codec=kind, max_update_bytes=bound, norm_bound=1e3)
        )
        found = aggregate.inspect(long, told)
        assert isinstance(found, codec.Decoded) if taken else found is Reason.SHAPE


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
    expected = rate * np.average(dense, axis=0, weights=weights)
    assert np.allclose(running.change(rate), expected, rtol=1e-6, atol=1e-9)
    assert running.change(rate).dtype == np.float64


def test_rule_4_4_the_aggregate_rebuilt_in_row_order_is_bit_identical():
    def total() -> bytes:
        running = aggregate.RunningSum(MANIFEST)
        for seed in range(50):
            running.add(codec.decode(body(seed), TENSORS, PLAN.codec), 1 / (1 + seed))
        return running.change(1.0).tobytes()

    assert total() == total()


def test_no_updates_leave_the_head_as_it_is():
    assert not aggregate.RunningSum(MANIFEST).change(1.0).any()


def test_memory_is_that_of_the_model_not_of_the_devices():
    running = aggregate.RunningSum(MANIFEST)
    for seed in range(100):
        running.add(codec.decode(body(seed), TENSORS, PLAN.codec), 1.0)
    assert [value.shape for value in vars(running).values() if isinstance(value, np.ndarray)] == [(P,)]


def test_plan_defaults_are_possible():
    assert aggregate.claims_are_possible(update(), Plan())


# --- devices that did fewer epochs (Wang et al. 2020) --------------------------------------------------
def dense(*vectors: np.ndarray) -> list[codec.Decoded]:
    return [codec.Decoded(indices=None, values=vector.astype(np.float32)) for vector in vectors]


def moved(*rows: tuple[codec.Decoded, float, int], rate: float = 1.0) -> np.ndarray:
    """By how much a head of zeros moves."""
    running = aggregate.RunningSum(MANIFEST)
    for decoded, weight, epochs in rows:
        running.add(decoded, weight, epochs)
    return running.change(rate)


ROWS = st.lists(
    st.tuples(st.integers(0, 99), st.sampled_from([1.0, 2.0, 64.0, 8 / 3**0.5]), st.integers(1, 9)),
    min_size=1,
    max_size=8,
)


@given(rows=ROWS, rate=st.floats(0.1, 2))
def test_the_head_moves_by_the_formula_of_fednova(rows, rate):
    vectors = [delta(seed) for seed, _, _ in rows]
    w, e = np.array([row[1] for row in rows]), np.array([row[2] for row in rows])
    expected = rate * ((w * e).sum() / w.sum()) * ((w / e) @ np.array(vectors, dtype=float)) / w.sum()
    sent = [(one, weight, epochs) for one, (_, weight, epochs) in zip(dense(*vectors), rows, strict=True)]
    assert np.allclose(moved(*sent, rate=rate), expected, rtol=1e-6, atol=1e-8)


@given(rows=ROWS, order=st.randoms(use_true_random=False))
def test_the_order_of_updates_makes_no_difference_beyond_rounding(rows, order):
    sent = [(dense(delta(seed))[0], weight, epochs) for seed, weight, epochs in rows]
    shuffled = order.sample(sent, len(sent))
    assert np.allclose(moved(*sent), moved(*shuffled), rtol=1e-6, atol=1e-8)


@given(rows=ROWS, epochs=st.integers(1, 100), rate=st.floats(0.1, 2))
def test_equal_epochs_are_the_weighted_mean_bit_for_bit(rows, epochs, rate):
    """What this gateway made before it knew of epochs."""
    total, weights = np.zeros(P), 0.0
    for seed, weight, _ in rows:
        dense(delta(seed))[0].add_to(total, weight)
        weights += weight
    before = rate * (total / weights)
    sent = [(dense(delta(seed))[0], weight, epochs) for seed, weight, _ in rows]
    assert moved(*sent, rate=rate).tobytes() == before.tobytes()


@given(slow=st.integers(1, 4), times=st.integers(2, 25), seed=st.integers(0, 999))
def test_a_device_of_many_times_the_speed_does_not_pull_harder(slow, times, seed):
    """Each epoch moves a device by the same: the fast one goes further, and counts as much as the other."""
    left, right = np.eye(2, P) * (1 + seed / 1000)
    fast = slow * times
    step = moved((*dense(slow * left), 8.0, slow), (*dense(fast * right), 8.0, fast))
    assert step[0] == pytest.approx(step[1], rel=1e-6)
    assert step[0] == pytest.approx((slow + fast) / 2 * left[0] / 2, rel=1e-6), "and none of the way is lost"
    plain = moved((*dense(slow * left), 8.0, 1), (*dense(fast * right), 8.0, 1))
    assert plain[1] == pytest.approx(times * plain[0], rel=1e-6), "as it would be without"


@given(claimed=st.integers(1, 10), seed=st.integers(0, 999), share=st.floats(0.01, 1.2))
def test_to_claim_few_epochs_buys_no_stronger_pull(claimed, seed, share):
    """Whatever one update says, the head moves by no more than its weight's share of the norm bound."""
    strict = manifest(epochs=10, codec=Codec(mode=CodecMode.DENSE_INT8))
    sent = codec.encode(delta(seed, share * PLAN.norm_bound), TENSORS, strict.plan.codec)
    found = aggregate.inspect(sent.body, strict, claimed)
    honest = (*dense(np.zeros(P)), 32.0, 10)
    if isinstance(found, Reason):
        assert found is Reason.NORM
        norm = codec.decode(sent.body, TENSORS, strict.plan.codec).norm()
        assert norm > aggregate.norm_bound(strict.plan, claimed) * aggregate.NORM_TOLERANCE
        return
    pulled = np.linalg.norm(moved(honest, honest, honest, (found, 32.0, claimed)).astype(float))
    assert pulled <= PLAN.norm_bound * aggregate.NORM_TOLERANCE / 4


def test_fewer_epochs_have_as_much_less_of_the_norm_bound():
    bound = codec.decode(body(1), TENSORS, PLAN.codec).norm()
    plan = replace(PLAN, epochs=4, norm_bound=bound * 4 / 3)
    assert [aggregate.norm_bound(plan, epochs) / bound for epochs in (2, 3, 4)] == pytest.approx(
        [2 / 3, 1, 4 / 3]
    )
    found = [aggregate.inspect(body(1), replace(MANIFEST, plan=plan), epochs) for epochs in (None, 4, 3, 2)]
    assert [one is Reason.NORM for one in found] == [False, False, False, True]


# --- what is not trained, and statistics ---------------------------------------------------------------
NORMALIZED = (
    TensorSpec(name=MEAN, shape=(4,)),
    TensorSpec(name=MEAN_SQUARE, shape=(4,)),
    TensorSpec(name="output/bias", shape=(2,)),
    TensorSpec(name="personal/bias", shape=(2,)),
)
START = np.array([0, 0, 0, 0, 1, 1, 1, 1, 5, 6, 7, 8], dtype=np.float32)


def statistics(*samples: np.ndarray) -> np.ndarray:
    """Return the head after each device sent the statistics of its samples [N, 4]."""
    plan = replace(PLAN, statistics=True)
    collecting = replace(MANIFEST, tensors=NORMALIZED, plan=plan)
    running = aggregate.RunningSum(collecting)
    for x in samples:
        vector = np.concatenate([x.mean(axis=0), np.square(x).mean(axis=0), np.full(4, 99)])
        sent = codec.encode(vector.astype(np.float32), NORMALIZED, plan.body_codec).body
        found = aggregate.inspect(sent, collecting)
        running.add(found, float(len(x)))
    return running.statistics(START)


def test_pooled_statistics_are_those_of_all_samples_together():
    rng = np.random.default_rng(1)
    scales, offsets = np.array([1e-4, 1.0, 50.0, 1e5]), np.array([0.0, -3.0, 1000.0, 2e5])
    parts = [rng.normal(size=(rows, 4)) * scales + offsets for rows in (64, 256, 128)]
    head = statistics(*parts)
    everything = np.concatenate(parts).astype(np.float64)
    assert np.allclose(head[:4], everything.mean(axis=0), rtol=1e-6, atol=1e-10)
    deviation = np.sqrt(head[4:8].astype(float) - np.square(head[:4].astype(float)))
    assert np.allclose(deviation, everything.std(axis=0), rtol=1e-3), "at any scale and offset"
    assert head[8:].tolist() == START[8:].tolist(), "nothing else has changed"


def test_a_feature_that_does_not_vary_is_divided_by_nothing_small():
    x = np.tile(np.array([0.0, 3.0, 1e7, 1e-5]), (32, 1))
    x[:, 2] += np.linspace(0, 1, 32)  # a variance that float32 cannot tell from 0 beside 1e14
    head = statistics(x, x).astype(float)
    deviation = np.sqrt(head[4:8] - np.square(head[:4]))
    assert deviation == pytest.approx([1, 3, 1e7, 1e-5], rel=1e-6)


def test_statistics_and_personal_layers_are_moved_by_no_update():
    training = replace(MANIFEST, tensors=NORMALIZED)
    running = aggregate.RunningSum(training)
    (found,) = dense(np.full(12, 0.5))
    running.add(found, 1.0)
    assert running.change(1.0).tolist() == [0] * 8 + [0.5, 0.5, 0, 0]


def test_statistics_have_no_norm_bound_but_their_own_limits():
    collecting = replace(MANIFEST, tensors=NORMALIZED, plan=replace(PLAN, statistics=True, norm_bound=1e-6))
    vector = np.array([3e4] * 4 + [1e9] * 4 + [0] * 4, dtype=np.float32)
    sent = codec.encode(vector, NORMALIZED, collecting.plan.body_codec).body
    assert isinstance(aggregate.inspect(sent, collecting), codec.Decoded)
    assert aggregate.inspect(sent[:-4] + b"\0\0\0\0", collecting) is Reason.SHAPE, "a negative variance"
    assert aggregate.inspect(sent, replace(MANIFEST, tensors=NORMALIZED)) is Reason.SHAPE
