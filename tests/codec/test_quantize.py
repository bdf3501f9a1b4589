"""int8 quantisation at the edges of float32."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedclient.codec import quantize
from fedclient.errors import CodecError

LARGEST = float(np.finfo(np.float32).max)
TINY = float(np.finfo(np.float32).tiny)
FINITE = st.one_of(
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.sampled_from([0.0, LARGEST, -LARGEST, TINY, -TINY, 2**-149, 127 * TINY]),
)
VALUES = hnp.arrays(np.float32, st.integers(1, 30), elements=FINITE)


def counts(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.intp)


@given(VALUES, VALUES)
def test_int8_is_within_half_a_scale_and_reads_back(first, second):
    values, per_tensor = np.concatenate([first, second]), counts(first.size, second.size)
    quantized, scales = quantize.to_int8(values, per_tensor)
    read = quantize.read_int8_scales(quantize.write_scales(scales), quantized, per_tensor)
    assert np.array_equal(read, scales)
    back = quantize.from_int8(quantized, per_tensor, scales)
    assert np.isfinite(back).all()
    assert back.dtype == np.float32
    step = np.maximum(np.repeat(scales, per_tensor).astype(np.float64), 127 * TINY * 2)
    assert (np.abs(values.astype(np.float64) - back) <= step * (0.5 + 2e-5)).all()


def test_int8_rounds_half_to_even():
    quantized, scales = quantize.to_int8(np.array([127, 0.5, 1.5, -2.5, 0.51], np.float32), counts(5))
    assert scales.tolist() == [1.0]
    assert quantized.tolist() == [127, 0, 2, -2, 1]


def test_the_smallest_scales_count_as_zero_and_the_largest_stay_finite():
    values = np.array([100 * TINY, 128 * TINY, -LARGEST], np.float32)
    quantized, scales = quantize.to_int8(values, counts(1, 1, 1))
    assert quantized.tolist() == [0, 127, -127]
    assert scales[0] == 0
    assert np.isfinite(quantize.from_int8(quantized, counts(1, 1, 1), scales)).all()
    assert np.isfinite(np.float32(quantize.SCALE_MAX) * np.float32(quantize.PEAK))
    assert len(quantize.write_scales(scales)) == 8


@pytest.mark.parametrize("peak", [-128, 126, -126, 1])
def test_a_tensor_that_does_not_peak_at_127_is_refused(peak):
    quantized = np.array([127, 3, peak, 0], np.int8)
    with pytest.raises(CodecError, match="peak"):
        quantize.read_int8_scales(struct.pack("<ff", 1, 1), quantized, counts(2, 2))


def test_a_minus_128_beside_a_127_is_refused():
    with pytest.raises(CodecError, match="peak"):
        quantize.read_int8_scales(struct.pack("<f", 1), np.array([127, -128], np.int8), counts(2))


@pytest.mark.parametrize(
    "scale",
    [
        0.0,
        -0.0,
        -1.0,
        float("nan"),
        float("inf"),
        -float("inf"),
        TINY / 2,
        2**-149,
        quantize.SCALE_MAX * 1.001,
    ],
)
def test_a_scale_that_is_no_positive_normal_number_is_refused(scale):
    with pytest.raises(CodecError, match="positive normal"):
        quantize.read_scales(struct.pack("<f", scale), 1)


def test_the_extreme_scales_are_accepted():
    assert quantize.read_scales(struct.pack("<ff", TINY, quantize.SCALE_MAX), 2).size == 2


@pytest.mark.parametrize("size", [0, 3, 5, 8])
def test_another_number_of_scales_is_refused(size):
    with pytest.raises(CodecError, match="bytes"):
        quantize.read_scales(b"\x3f" * size, 1)
