"""The canonical head: what deltas lead to, nothing lost, and close to what was wanted."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedclient import codec
from fedclient.gateway import canonical
from fedclient.values import MEAN, MEAN_SQUARE, TensorSpec, parameters

HEAD = (TensorSpec(name="bias", shape=(10,)), TensorSpec(name="kernel", shape=(64, 10)))
P = parameters(HEAD)
MIXED = (
    TensorSpec(name="bias", shape=(4,)),
    TensorSpec(name=MEAN, shape=(3,)),
    TensorSpec(name=MEAN_SQUARE, shape=(3,)),
    TensorSpec(name="personal/w", shape=(5,)),
)


def drawn(seed: int, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(P) * scale).astype(np.float32)


def sparse(seed: int, scale: float = 0.1, share: float = 0.1) -> np.ndarray:
    """A mean of updates: a few elements change."""
    rng = np.random.default_rng(seed)
    return rng.laplace(size=P) * scale * (rng.random(P) < share)


def test_a_published_head_is_near_what_was_given_and_costs_a_byte_for_each_value():
    tensors = (TensorSpec(name="bias", shape=(10,)), TensorSpec(name="kernel", shape=(1280, 10)))
    given_ = np.random.default_rng(1).standard_normal(12_810).astype(np.float32)
    found = canonical.begin(given_, tensors)
    assert np.linalg.norm(found.head - given_) <= 0.02 * np.linalg.norm(given_)
    assert np.abs(found.head - given_)[:10].max() <= 2**-12, "of few values each counts"
    assert 8_000 <= len(found.full) <= 12_000
    assert codec.head_from(found.full, tensors).tobytes() == found.head.tobytes()
    assert not found.remainder.any()


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-40, 1.7, -3e38, 2.0**-126])
def test_single_values(value):
    one = (TensorSpec(name="w", shape=(1,)),)
    found = canonical.begin(np.array([value], dtype=np.float32), one)
    assert codec.head_from(found.full, one).tobytes() == found.head.tobytes()
    assert found.head[0] == pytest.approx(value if abs(value) > 1e-39 else 0, rel=2**-12)
    assert not np.signbit(found.head[0]) or value < -1


def test_outliers_fit_the_grid():
    head = drawn(1)
    head[7] = 1e12
    assert canonical.begin(head, HEAD).head[7] == pytest.approx(1e12, rel=1e-3)


@settings(deadline=None, max_examples=20)
@given(
    st.lists(st.tuples(st.integers(0, 99), st.sampled_from([1e-6, 0.01, 1.0])), min_size=1, max_size=5),
    st.sampled_from([64, 150, 400, 10**6]),
)
def test_every_delta_leads_there_and_nothing_is_lost(rounds, budget):
    now = canonical.begin(drawn(5), HEAD)
    wanted = now.head.astype(np.float64)
    for seed, scale in rounds:
        change = sparse(seed, scale)
        wanted += change
        following, delta = canonical.advance(now, change, HEAD, budget)
        if delta is None:
            assert len(following.full) <= budget
        else:
            assert len(delta) <= budget
            assert codec.head_after(now.head, delta, HEAD).tobytes() == following.head.tobytes()
        assert codec.head_from(following.full, HEAD).tobytes() == following.head.tobytes()
        assert np.allclose(following.head + following.remainder, wanted, rtol=0, atol=1e-12)
        now = following


def test_what_waits_is_bounded_by_what_a_few_versions_bring():
    now, most = canonical.begin(drawn(5), HEAD), 0.0
    for seed in range(25):
        now, delta = canonical.advance(now, sparse(seed), HEAD, 64)
        assert delta is not None
        assert len(delta) <= 64
        most = max(most, float(np.linalg.norm(now.remainder)))
    one = float(np.linalg.norm(sparse(1)))
    print(f"a version changes {one:.2f}, at most {most:.2f} waits")
    assert most <= 8 * one


def test_a_wide_budget_leaves_nearly_nothing_and_is_not_spent():
    change = sparse(2)
    following, delta = canonical.advance(canonical.begin(drawn(5), HEAD), change, HEAD, 10**6)
    assert np.linalg.norm(following.remainder) <= 0.1 * np.linalg.norm(change)
    assert delta is not None
    assert len(delta) <= 160


def test_a_narrow_budget_is_spent_on_what_changes_most():
    change = sparse(2)
    now = canonical.begin(drawn(5), HEAD)
    following, delta = canonical.advance(now, change, HEAD, 64)
    assert delta is not None
    assert len(delta) > 50
    moved = following.head != now.head
    waits = np.abs(change[~moved & (change != 0)])
    assert np.abs(change[moved]).min() >= 0.5 * waits.max()


def test_a_tensor_of_small_changes_does_not_wait_for_the_others():
    change = sparse(2)
    change[:10] *= 1e-4
    change[0] = 3e-5
    now = canonical.begin(drawn(5) * np.float32(0), HEAD)
    following, _ = canonical.advance(now, change, HEAD, 10**6)
    assert following.head[0] == pytest.approx(3e-5, rel=0.2)


def test_no_change_is_a_delta_of_nothing():
    now = canonical.begin(drawn(5), HEAD)
    following, delta = canonical.advance(now, np.zeros(P), HEAD, 256)
    assert following.head.tobytes() == now.head.tobytes()
    assert delta == b"\0\0"


def test_the_first_change_of_a_head_of_zeros_is_the_head():
    following, delta = canonical.advance(canonical.begin(drawn(1) * 0, HEAD), sparse(2), HEAD, 10**6)
    assert delta is None, "the full head is no longer"
    assert following.head.any()


def test_values_that_outgrow_their_grid_get_a_new_one():
    now = canonical.begin(drawn(5, 1e-9), HEAD)
    change = sparse(2, 1e6)
    following, delta = canonical.advance(now, change, HEAD, 10**6)
    assert delta is None
    assert np.allclose(following.head + following.remainder, now.head + change, rtol=0, atol=1e-9)
    assert np.linalg.norm(following.remainder) <= 0.01 * np.linalg.norm(change)
    assert len(following.full) < 4 * P


def test_statistics_and_personal_layers_stay_as_they_are():
    given_ = np.array([1, 2, 3, 4, 0.1, 0.2, 0.3, 1, 1, 1, 5, 6, 7, 8, 9], dtype=np.float32)
    now = canonical.begin(given_, MIXED)
    assert now.head.tobytes() == given_.tobytes(), "statistics are exact"
    following, delta = canonical.advance(now, np.full(15, 0.5), MIXED, 256)
    assert (following.head[4:] == given_[4:]).all()
    assert (following.head[:4] == given_[:4] + 0.5).all()
    assert codec.head_after(now.head, delta, MIXED).tobytes() == following.head.tobytes()
    collected = following.head.copy()
    collected[4:10] = 0.7, -0.0, 1e-42, 0.7, 0.8, 0.9
    after = canonical.with_statistics(following, collected, MIXED)
    assert after.head[4:10].tobytes() == np.array([0.7, 0, 0, 0.7, 0.8, 0.9], dtype="<f4").tobytes()
    assert (after.remainder == following.remainder).all()


def test_a_version_of_a_large_head_fills_its_budget_and_has_the_same_bytes_each_time():
    tensors = (TensorSpec(name="bias", shape=(100,)), TensorSpec(name="kernel", shape=(999, 100)))
    rng = np.random.default_rng(1)
    now = canonical.begin(rng.standard_normal(100_000).astype(np.float32), tensors)
    change = rng.laplace(size=100_000) * (rng.random(100_000) < 0.1)
    (one, first), (other, second) = (canonical.advance(now, change, tensors, 4000) for _ in range(2))
    assert first == second
    assert one.remainder.tobytes() == other.remainder.tobytes()
    assert 3800 <= len(first) <= 4000
