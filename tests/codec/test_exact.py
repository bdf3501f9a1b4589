"""Feature statistics: what a device measured comes back, and a stranger's numbers stay within bounds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedclient import codec
from fedclient.codec import exact
from fedclient.errors import CodecError, DataError
from fedclient.limits import MAX_FEATURE
from fedclient.values import MEAN, MEAN_SQUARE, Codec, CodecMode, TensorSpec, parameters

D = 4
TENSORS = (
    TensorSpec(name="bias", shape=(3,)),
    TensorSpec(name=MEAN, shape=(D,)),
    TensorSpec(name="normalize/mean_more", shape=(2,)),  # between the two, in the order of names
    TensorSpec(name=MEAN_SQUARE, shape=(D,)),
)
EXACT = Codec(mode=CodecMode.EXACT)


def flat(mean, square) -> np.ndarray:
    vector = np.full(parameters(TENSORS), 7, np.float32)
    vector[exact.positions(TENSORS)] = np.stack([mean, square]).astype(np.float32)
    return vector


def test_where_the_statistics_lie():
    assert codec.statistics_of(TENSORS).tolist() == [[3, 4, 5, 6], [9, 10, 11, 12]]


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.floats(-18, 7.6), st.floats(-4, 3))
def test_the_statistics_of_any_real_samples_travel_as_they_are(seed, rows, scale, offset):
    """Samples of any magnitude and any offset, constant ones too: rounding is never taken for a lie."""
    x = np.random.default_rng(seed).normal(offset, 1, (rows, D)).astype(np.float32)
    x = np.clip(x * np.float32(10.0**scale), -MAX_FEATURE, MAX_FEATURE).astype(np.float64)
    vector = flat(x.mean(axis=0), np.square(x).mean(axis=0))
    encoded = codec.encode(vector, TENSORS, EXACT)
    assert len(encoded.body) == 1 + 8 * D
    decoded = codec.decode(encoded.body, TENSORS, EXACT)
    total = np.zeros(parameters(TENSORS))
    decoded.add_to(total, 1.0)
    assert total.astype(np.float32).tobytes() == encoded.decoded.tobytes()
    at = exact.positions(TENSORS)
    tiny = np.finfo(np.float32).tiny
    assert (encoded.decoded[at] == np.where(np.abs(vector[at]) < tiny, 0, vector[at])).all()
    assert not np.delete(encoded.decoded, at.ravel()).any(), "nothing else leaves the device"


@given(st.binary(min_size=8 * D, max_size=8 * D))
def test_any_bytes_are_refused_or_within_bounds_and_the_only_ones_of_their_content(junk):
    try:
        decoded = codec.decode(b"\x04" + junk, TENSORS, EXACT)
    except CodecError:
        return
    mean, square = decoded.values.reshape(2, D).astype(float)
    assert (np.abs(mean) <= MAX_FEATURE).all()
    assert ((square >= 0) & (square <= MAX_FEATURE**2)).all()
    assert codec.encode(flat(mean, square), TENSORS, EXACT).body == b"\x04" + junk


def test_every_flipped_bit_is_refused_or_another_content():
    body = codec.encode(flat([1.5, -3, 0, 1e-3], [9, 10, 0, 2e-6]), TENSORS, EXACT).body
    seen = {codec.decode(body, TENSORS, EXACT).values.tobytes()}
    refused = 0
    for bit in range(8 * len(body)):
        flipped = bytearray(body)
        flipped[bit // 8] ^= 0x80 >> bit % 8
        try:
            values = codec.decode(bytes(flipped), TENSORS, EXACT).values
        except CodecError:
            refused += 1
            continue
        assert values.tobytes() not in seen
        assert np.isfinite(values).all()
        seen.add(values.tobytes())
    print(f"{len(body)} bytes: {refused} of {8 * len(body)} flips are refused")
    assert refused > 8 * 5


@pytest.mark.parametrize(("mean", "square"), [(2e8, 4e16), (0, 2e16), (3, 8.9), (0, -1), (-1e-3, 0)], ids=str)
def test_impossible_statistics_are_neither_sent_nor_taken(mean, square):
    vector = flat([0, mean, 0, 0], [0, square, 0, 0])
    with pytest.raises(DataError, match="scale the features"):
        codec.encode(vector, TENSORS, EXACT)
    body = b"\x04" + exact.write(vector[exact.positions(TENSORS)])
    with pytest.raises(CodecError, match="impossible"):
        codec.decode(body, TENSORS, EXACT)


def test_a_head_without_statistics():
    for tensors in (TENSORS[:1], TENSORS[:2], (TENSORS[1], TensorSpec(name=MEAN_SQUARE, shape=(D + 1,)))):
        with pytest.raises(CodecError, match="no feature statistics"):
            codec.encode(np.zeros(parameters(tensors), np.float32), tensors, EXACT)
