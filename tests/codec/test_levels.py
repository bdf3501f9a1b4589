"""Levels of a tail: the nearest point, near the best quantiser, within float32 at its edges."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedclient.codec import levels
from fedclient.codec.bits import BitReader, BitWriter
from fedclient.errors import CodecError

LARGEST = float(np.finfo(np.float32).max)
MAGNITUDES = hnp.arrays(
    np.float32,
    st.integers(1, 40),
    elements=st.one_of(
        st.floats(0, LARGEST, width=32),
        st.sampled_from([1.0, 2.0, 2.0**-149, levels.TINY, 4 * levels.TINY, LARGEST]),
    ),
).filter(lambda values: values.max() >= levels.TINY)


@given(MAGNITUDES, st.integers(2, 8))
def test_each_value_has_the_nearest_point_and_the_codebook_reads_back(values, bits):
    found, book = levels.quantise(values, bits)
    assert found.max() < 1 << (bits - 1)
    single = not found.any()
    out = BitWriter()
    levels.write(out, book, single=single)
    source = BitReader(out.to_bytes())
    points = levels.read(source, single=single).points(int(found.max()) + 1)
    source.end()
    assert np.isfinite(points).all()
    assert (points >= levels.TINY).all()
    if book.gap:
        every = book.points(min(1 << (bits - 1), 16)).astype(np.float64)
        midpoints = (every[1:] + every[:-1]) / 2
        assert found.tolist() == midpoints.searchsorted(values, side="right").tolist()


def tail(kind: str, count: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    values = np.abs(rng.laplace(size=1_000_000) if kind == "laplace" else rng.standard_t(3, size=1_000_000))
    return np.partition(values, values.size - count)[-count:].astype(np.float32)


def lloyd_max(values: np.ndarray, count: int) -> float:
    """The squared error of the best `count` points, by iteration from quantiles."""
    values = np.sort(values.astype(np.float64))
    points = np.quantile(values, (np.arange(count) + 0.5) / count)
    sums = np.concatenate(([0], values.cumsum()))
    for _ in range(200):
        cuts = np.concatenate(([0], values.searchsorted((points[1:] + points[:-1]) / 2), [values.size]))
        points = np.diff(sums[cuts]) / np.maximum(np.diff(cuts), 1)
    nearest = points[((points[1:] + points[:-1]) / 2).searchsorted(values)]
    return float(np.square(values - nearest).sum())


@pytest.mark.parametrize("kind", ["laplace", "student"])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_the_error_is_near_that_of_the_best_quantiser(kind, bits):
    values = tail(kind, 10_000)
    found, book = levels.quantise(values, bits)
    points = book.points(1 << (bits - 1)).astype(np.float64)
    error = np.square(values - points[found]).sum()
    best = lloyd_max(values, 1 << (bits - 1))
    print(f"{kind}, {bits} bits: {error / best:.2f} of the least error")
    assert error <= 1.7 * best


@pytest.mark.parametrize("kind", ["laplace", "student"])
def test_heavy_tails_do_not_swamp_the_rest(kind):
    values = tail(kind, 10_000)
    found, book = levels.quantise(values, 8)
    error = values - book.points(128)[found]
    assert np.square(error).sum() < 1e-4 * np.square(values).sum()
    assert len(np.unique(found)) > 90


def test_few_values_get_few_levels():
    values = tail("laplace", 128)
    assert levels.quantise(values, 8)[0].max() < 16
    assert levels.quantise(values, 4)[0].max() < 8
    assert levels.quantise(tail("laplace", 1024), 8)[0].max() > 100


def test_equal_values_have_one_point():
    found, book = levels.quantise(np.full(5, 0.75, np.float32), 8)
    assert (found.any(), book.first, book.gap) == (False, 0.75, 0.0)


@pytest.mark.parametrize("bits", [12, 15, 23])
@given(value=st.floats(levels.TINY, LARGEST, width=32))
def test_a_float_is_cut_and_never_rounded_up(bits, value):
    cut = levels.cut(value, bits)
    assert value * (1 - 2.0 ** (8 - bits)) < cut <= value
    out = BitWriter()
    levels.write_float(out, cut, bits)
    assert out.size == bits
    assert levels.read_float(BitReader(out.to_bytes()), bits) == cut


@pytest.mark.parametrize("number", [0, 1, 0x7F, 0x7F80, 0x7FFF, 0x7FC0])
def test_a_scale_that_is_no_normal_number_is_refused(number):
    out = BitWriter()
    out.number(number, 15)
    with pytest.raises(CodecError, match="normal"):
        levels.read_float(BitReader(out.to_bytes()), 15)


def test_points_beyond_float32_are_refused():
    with pytest.raises(CodecError, match="beyond"):
        levels.Codebook(first=1.0, gap=1.0, growth=63).points(128)
