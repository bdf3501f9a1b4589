"""Bodies of a byte budget: within it and near it, whatever the head, and better than any fixed choice."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedclient.codec import decode, encode, fitted
from fedclient.codec.bits import BitReader, BitWriter
from fedclient.errors import CodecError, DataError
from fedclient.values import Codec, CodecMode, TensorSpec, parameters

FITTED = Codec(mode=CodecMode.FITTED, density=1.0)
SMALL = (
    TensorSpec(name="b", shape=(3,)),
    TensorSpec(name="w", shape=(5, 4)),
    TensorSpec(name="x", shape=(9,)),
)


def head(features: int, classes: int) -> tuple[TensorSpec, ...]:
    return (TensorSpec(name="bias", shape=(classes,)), TensorSpec(name="kernel", shape=(features, classes)))


HEAD = head(1280, 10)


def draw(kind: str, tensors: tuple[TensorSpec, ...], seed: int = 1) -> np.ndarray:
    rng, size = np.random.default_rng(seed), parameters(tensors)
    values = rng.laplace(size=size) if kind == "laplace" else rng.standard_t(3, size=size)
    if kind == "skewed":
        classes = tensors[0].size
        values *= np.tile(np.where(np.arange(classes) < classes / 5, 1, 0.1), size // classes)
    return values.astype(np.float32)


def left(vector: np.ndarray, decoded: np.ndarray) -> float:
    exact = vector.astype(np.float64)
    return float(np.square(exact - decoded).sum() / np.square(exact).sum())


@pytest.mark.parametrize("kind", ["laplace", "student", "skewed"])
@pytest.mark.parametrize("room", [40, 65, 150, 400, 1000, 4000])
def test_the_room_is_used_and_never_more(kind, room):
    vector = draw(kind, HEAD)
    encoded = encode(vector, HEAD, FITTED, max_bytes=room)
    assert 0.97 * room <= len(encoded.body) <= room
    found = decode(encoded.body, HEAD, FITTED)
    assert found.values.tobytes() == encoded.content.values.tobytes()
    assert found.indices.tobytes() == encoded.content.indices.tobytes()
    assert encode(vector, HEAD, FITTED, max_bytes=room).body == encoded.body


@pytest.mark.parametrize("room", [500, 10_000])
def test_a_head_of_a_million(room):
    tensors = head(999, 1000)
    vector = draw("skewed", tensors)
    encoded = encode(vector, tensors, FITTED, max_bytes=room)
    assert 0.97 * room <= len(encoded.body) <= room
    assert np.array_equal(decode(encoded.body, tensors, FITTED).values, encoded.content.values)


@pytest.mark.parametrize("kind", ["laplace", "student", "skewed"])
@pytest.mark.parametrize("room", [100, 400, 3000])
def test_no_number_of_bits_leaves_less(kind, room):
    vector = draw(kind, HEAD)
    ours = left(vector, encode(vector, HEAD, FITTED, max_bytes=room).decoded)
    fixed = {
        bits: left(vector, encode(vector, HEAD, codec(bits), max_bytes=room).decoded) for bits in (1, 2, 4, 8)
    }
    print(f"{kind} {room}: {ours:.4f}, with fixed bits {fixed}")
    assert ours <= 1.01 * min(fixed.values())


def codec(bits: int) -> Codec:
    mode = CodecMode.TOPK_SIGN if bits == 1 else CodecMode.TOPK_INT8
    return Codec(mode=mode, density=1.0, bits=max(2, bits))


@settings(deadline=None)  # the first example fills caches
@given(
    hnp.arrays(
        np.float32,
        parameters(SMALL),
        elements=st.one_of(
            st.sampled_from([0.0, 1.0, -1.0, 2.0**-140, 2.0**127]),
            st.floats(width=32, allow_nan=False, allow_infinity=False),
        ),
    ),
    st.integers(1, 200),
    st.sampled_from([CodecMode.FITTED, CodecMode.TOPK_INT8, CodecMode.TOPK_SIGN]),
)
def test_any_delta_fits_any_room_or_is_refused_with_what_it_takes(vector, room, mode):
    plan = Codec(mode=mode, density=1.0)
    try:
        encoded = encode(vector, SMALL, plan, max_bytes=room)
    except CodecError as error:
        least = int(str(error).rsplit(" ", 1)[1])
        assert room < least
        assert len(encode(vector, SMALL, plan, max_bytes=least).body) == least
        return
    assert len(encoded.body) <= room
    again = decode(encoded.body, SMALL, plan)
    assert again.values.tobytes() == encoded.content.values.tobytes()
    assert np.abs(encoded.decoded).max() <= np.abs(vector).max()


def test_one_value_for_all_is_cut_by_count():
    tensors = head(999, 10)
    vector = np.ones(10_000, np.float32)
    vector[::2] = -1
    for room in (20, 100, 1200, 1300):  # the first are next to each other: unusual places
        encoded = encode(vector, tensors, FITTED, max_bytes=room)
        assert 0.9 * room <= len(encoded.body) <= room or not (vector - encoded.decoded).any()


def test_nothing_to_send_is_a_byte():
    nothing = np.zeros(12_810, np.float32)
    assert encode(nothing, HEAD, FITTED, max_bytes=1).body == bytes([5 << 5])


def test_the_plans_density_bounds_what_is_sent():
    plan = Codec(mode=CodecMode.FITTED, density=0.001)
    encoded = encode(draw("student", HEAD), HEAD, plan, max_bytes=4000)
    assert encoded.content.values.size == 13
    body = encode(draw("student", HEAD), HEAD, FITTED, max_bytes=4000).body
    with pytest.raises(CodecError):
        decode(body, HEAD, plan)


def test_dense_and_exact_bodies_have_one_size():
    dense = Codec(mode=CodecMode.DENSE_INT8)
    size = len(encode(draw("laplace", SMALL), SMALL, dense).body)
    assert len(encode(draw("laplace", SMALL), SMALL, dense, max_bytes=size).body) == size
    with pytest.raises(CodecError, match=rf"{size - 1} bytes, and takes at least {size}$"):
        encode(draw("laplace", SMALL), SMALL, dense, max_bytes=size - 1)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_found(bad):
    vector = draw("laplace", HEAD)
    vector[777] = bad
    with pytest.raises(DataError, match="NaN or infinite"):
        encode(vector, HEAD, FITTED, max_bytes=60)


@given(st.integers(1, 4_000_000), st.data())
def test_counts_read_back(most, data):
    count = data.draw(st.integers(0, most))
    out = BitWriter()
    fitted._write_count(out, count, most)
    assert out.size <= 5 + max(0, count.bit_length() - 1)
    source = BitReader(out.to_bytes())
    assert fitted._read_count(source, most) == count
    source.end()


@pytest.mark.parametrize(("length", "rest", "most"), [(3, 2, 5), (15, 0, 12_810), (14, 8191, 12_810)])
def test_a_count_beyond_the_plan_is_refused(length, rest, most):
    out = BitWriter()
    out.number(length, most.bit_length().bit_length())
    out.number(rest, length - 1)
    with pytest.raises(CodecError, match="plan"):
        fitted._read_count(BitReader(out.to_bytes() + bytes(4)), most)


def test_no_room_for_nothing_is_said_in_one_line():
    with pytest.raises(CodecError, match=r"may have 0 bytes, and takes at least 1$"):
        encode(np.zeros(32, np.float32), SMALL, FITTED, max_bytes=0)
