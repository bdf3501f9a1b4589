"""Sparse bodies: their size against the bounds and on the wire, every size of head, and what is refused."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedclient.codec import sparse
from fedclient.errors import CodecError, DataError
from fedclient.values import Codec, CodecMode, TensorSpec, parameters

SIGN = Codec(mode=CodecMode.TOPK_SIGN)
ENVELOPE = 162  # bytes of a first message that are not its body: docs/wire-format.md, section 4


def head(features: int, classes: int) -> tuple[TensorSpec, ...]:
    return (TensorSpec(name="bias", shape=(classes,)), TensorSpec(name="kernel", shape=(features, classes)))


def binomial_bytes(size: int, count: int) -> float:
    return (math.lgamma(size + 1) - math.lgamma(count + 1) - math.lgamma(size - count + 1)) / math.log(2) / 8


def value_bytes(values: np.ndarray) -> float:
    shares = np.unique(values, return_counts=True)[1] / values.size
    return float(-(shares * np.log2(shares)).sum() * values.size / 8)


def draw(kind: str, size: int, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.laplace(size=size) if kind == "laplace" else rng.standard_t(3, size=size)).astype(np.float32)


@pytest.mark.parametrize("kind", ["laplace", "student"])
@pytest.mark.parametrize(
    ("codec", "at_most"),
    [(Codec(), 1.01), (Codec(bits=4), 1.02), (SIGN, 1.02)]
    + [(Codec(density=density, bits=bits), 1.02) for density in (0.001, 0.1) for bits in (8, 4)]
    + [(Codec(mode=CodecMode.TOPK_SIGN, density=density), 1.02) for density in (0.001, 0.1)],
    ids=str,
)
def test_size_is_near_the_bound(kind, codec, at_most):
    tensors = head(999, 1000)
    body, sent = sparse.write(draw(kind, 1_000_000), tensors, codec)
    bound = binomial_bytes(1_000_000, sent.indices.size) + value_bytes(sent.values)
    print(f"{len(body)} bytes, {len(body) / bound:.4f} of the bound")
    assert len(body) <= at_most * bound


@pytest.mark.parametrize(
    ("features", "classes", "held"), [(99_999, 10, 3), (9_999, 100, 20), (999, 1000, 100)]
)
@pytest.mark.parametrize("codec", [Codec(), SIGN], ids=["levels", "signs"])
def test_a_device_of_few_classes_is_near_the_bound_of_each_class(features, classes, held, codec):
    scale = np.random.default_rng(2).permutation(np.where(np.arange(classes) < held, 1, 0.1))
    vector = (draw("laplace", 1_000_000) * np.tile(scale, features + 1)).astype(np.float32)
    body, sent = sparse.write(vector, head(features, classes), codec)
    counts = np.bincount(sent.indices % classes, minlength=classes)
    bound = sum(binomial_bytes(features + 1, int(count)) for count in counts) + value_bytes(sent.values)
    print(f"{len(body)} bytes, {len(body) / bound:.4f} of the bound")
    assert len(body) <= 1.03 * bound


def test_a_message_of_a_small_head_fits_its_budget():
    tensors = head(1280, 10)
    two = np.tile(np.array([1, 1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]), 1281)
    sizes, skewed = [], []
    for seed in range(50):
        vector = draw("laplace", 12_810, seed)
        sizes.append(ENVELOPE + len(sparse.write(vector, tensors, SIGN)[0]))
        skewed.append(ENVELOPE + len(sparse.write((vector * two).astype(np.float32), tensors, SIGN)[0]))
    print(f"{min(sizes)} to {max(sizes)} bytes, with two classes of ten {min(skewed)} to {max(skewed)}")
    assert max(sizes) <= 320
    assert max(skewed) <= 280


@pytest.mark.parametrize("codec", [Codec(), Codec(bits=2), SIGN, Codec(density=1.0)], ids=str)
@pytest.mark.parametrize("size", [1, 2, 7, 100, 2047, 2049, 70_000, 2_000_000])
def test_every_size_of_head_comes_back_bit_for_bit(size, codec):
    tensors = (TensorSpec(name="w", shape=(size,)),)
    body, sent = sparse.write(draw("student", size), tensors, codec)
    found = sparse.read(body, tensors, codec)
    assert found.indices.tobytes() == sent.indices.tobytes()
    assert found.values.tobytes() == sent.values.tobytes()


@settings(deadline=None)  # the first example fills caches
@given(
    st.lists(st.floats(0, 1), min_size=6, max_size=6),
    st.floats(0.01, 1),
    st.integers(2, 8),
    st.sampled_from([CodecMode.TOPK_INT8, CodecMode.TOPK_SIGN]),
    st.integers(0, 99),
)
def test_mixes_of_classes_come_back_bit_for_bit(scales, density, bits, mode, seed):
    tensors = head(30, 6)
    vector = draw("laplace", parameters(tensors), seed) * np.tile(np.array(scales) ** 4, 31).astype(
        np.float32
    )
    codec = Codec(mode=mode, density=density, bits=bits)
    body, sent = sparse.write(vector, tensors, codec)
    found = sparse.read(body, tensors, codec)
    assert found.indices.tobytes() == sent.indices.tobytes()
    assert found.values.tobytes() == sent.values.tobytes()
    assert (np.sign(found.values) == np.sign(vector[found.indices])).all()
    mutated = bytearray(body)
    mutated[seed % len(body)] ^= 1 << seed % 8
    try:
        other = sparse.read(bytes(mutated), tensors, codec)
    except CodecError:
        return
    assert len(set(other.indices.tolist())) == other.indices.size <= max(1, round(density * vector.size))
    assert np.isfinite(other.values).all()
    assert other.values.all()


@pytest.mark.parametrize("codec", [Codec(density=0.1), Codec(mode=CodecMode.TOPK_SIGN, density=0.1)])
@pytest.mark.parametrize(("share", "count"), [(1.0, 1281), (0.5, 640), (0.25, 320), (1e-9, 1)])
def test_a_share_of_the_plans_elements_is_read_with_the_plan_alone(codec, share, count):
    tensors = head(1280, 10)
    body, sent = sparse.write(draw("laplace", 12_810), tensors, codec, share)
    assert sent.indices.size == count
    assert sparse.read(body, tensors, codec).indices.tolist() == sent.indices.tolist()


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_found_wherever_it_is(bad):
    for size, place in ((5, 4), (50_000, 33_333)):
        vector = draw("laplace", size)
        vector[place] = bad
        with pytest.raises(DataError, match="NaN or infinite"):
            sparse.write(vector, (TensorSpec(name="w", shape=(size,)),), Codec(density=0.0001))


@pytest.mark.parametrize("bits", [-1, 0, 1, 9, 64])
def test_values_of_too_few_or_too_many_bits_are_refused(bits):
    with pytest.raises(CodecError, match="2 to 8"):
        sparse.write(draw("laplace", 2), head(1, 1), Codec(bits=bits))
    with pytest.raises(CodecError, match="2 to 8"):
        sparse.read(b"\x30", head(1, 1), Codec(bits=bits))
