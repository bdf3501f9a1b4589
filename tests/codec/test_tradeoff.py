"""The choice of elements and cells: near the best of a full search, and what it predicts comes true."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedclient.codec import levels, tradeoff
from fedclient.codec.tradeoff import LEVELS, Cells, Tail, binomial_bits, choose, quantise

SIZE = 12_810


def draw(kind: str) -> np.ndarray:
    rng = np.random.default_rng(1)
    values = rng.laplace(size=SIZE) if kind == "laplace" else rng.standard_t(3, size=SIZE)
    return np.abs(values).astype(np.float32)


def sent(magnitudes: np.ndarray, choice) -> tuple[float, float]:
    """Return bits of a perfect entropy coder, and the share of the squared error that is left."""
    ordered = np.sort(magnitudes)[::-1]
    chosen = ordered[: choice.count]
    if choice.cells is None:
        points, entropy = np.full(chosen.size, chosen.mean()), 0.0
    else:
        found, book = quantise(chosen, choice.cells)
        points = book.points(int(found.max()) + 1)[found]
        shares = np.bincount(found) / found.size
        entropy = -float((shares[shares > 0] * np.log2(shares[shares > 0])).sum()) * found.size
    bits = float(binomial_bits(np.array([float(chosen.size)]), SIZE)[0]) + chosen.size + entropy
    left = np.square(chosen - points, dtype=np.float64).sum() + np.square(ordered[choice.count :]).sum()
    return bits, float(left / np.square(magnitudes, dtype=np.float64).sum())


@pytest.mark.parametrize(
    ("kind", "nbytes", "at_most"),
    [
        ("laplace", 60, 0.935),
        ("laplace", 1000, 0.44),
        ("laplace", 3000, 0.098),
        ("laplace", 8000, 0.0015),
        ("student", 60, 0.805),
        ("student", 400, 0.55),
        ("student", 1000, 0.35),
        ("student", 3000, 0.080),
    ],
)  # the best of fixed bits are 0.926, 0.433, 0.111, 0.0023; 0.799, 0.545, 0.346 and 0.095
def test_the_error_that_is_left_is_near_the_least_and_the_bits_are_as_predicted(kind, nbytes, at_most):
    magnitudes = draw(kind)
    choice = choose(Tail(magnitudes, SIZE), 8.0 * nbytes)
    bits, left = sent(magnitudes, choice)
    print(f"{kind} {nbytes}: {choice.count} elements, {choice.cells}, {left:.4f} left, {bits / 8:.0f} bytes")
    assert choice.bits <= 8 * nbytes
    assert left <= at_most
    overhead = 12 if choice.cells is None else 44
    assert choice.bits == pytest.approx(bits + overhead, rel=0.04, abs=40)


def test_without_a_bound_next_to_nothing_is_left():
    magnitudes = draw("laplace")
    choice = choose(Tail(magnitudes, SIZE), math.inf)
    assert choice.count > 0.95 * SIZE
    assert sent(magnitudes, choice)[1] < 2e-4


def test_where_places_are_cheap_more_elements_are_sent():
    tail = Tail(draw("student"), SIZE)
    assert choose(tail, 4000.0, ratio=0.5).count > 1.2 * choose(tail, 4000.0).count


@pytest.mark.parametrize("limit", [-50.0, 0.0, 1.0])
def test_a_bound_that_nothing_fits_means_one_element(limit):
    assert choose(Tail(draw("laplace"), SIZE), limit).count == 1


@given(
    magnitudes=st.lists(st.floats(2.0**-149, 2.0**127, width=32), min_size=1, max_size=40).filter(
        lambda found: max(found) >= levels.TINY
    ),
    start=st.floats(0, 2),
    share=st.floats(2.0**-24, 1),
    growth=st.integers(0, 63),
)
def test_no_point_is_beyond_the_largest_and_every_level_has_one(magnitudes, start, share, growth):
    values = np.array(magnitudes, dtype=np.float32)
    width = float(levels.cut_gaps(np.array([float(values.max()) * share]))[0])
    found, book = quantise(values, Cells(start=start * width, width=width, growth=growth))
    assert found.max() < LEVELS
    points = book.points(int(found.max()) + 1)
    assert float(points[-1]) <= float(values.max())
    assert float(points[0]) >= levels.TINY
    ordered = found[np.argsort(values, kind="stable")]
    assert (np.diff(ordered) >= 0).all()


@given(st.integers(1, 60), st.integers(1, 60))
def test_bits_of_places_are_those_of_the_binomial(count, more):
    size = count + more
    exact = math.log2(math.comb(size, count))
    assert float(binomial_bits(np.array([float(count)]), size)[0]) == pytest.approx(exact, abs=0.5)


def test_the_search_is_the_same_every_time():
    first = choose(Tail(draw("student"), SIZE), 3200.0)
    tradeoff.levels.steps.cache_clear()
    assert choose(Tail(draw("student"), SIZE), 3200.0) == first
