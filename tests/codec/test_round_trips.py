"""What a decoder reads is what the encoder said, bit for bit: every mode, size, budget and kind of value."""

import numpy as np
import pytest

from fedclient.codec import decode, encode
from fedclient.errors import CodecError, DataError
from fedclient.limits import MAX_HEAD_PARAMETERS, MAX_TENSORS
from fedclient.values import MEAN, MEAN_SQUARE, Codec, CodecMode, TensorSpec

LARGEST = np.finfo(np.float32).max
PLANS = [Codec(bits=bits) for bits in range(2, 9)]
PLANS += [Codec(mode=mode) for mode in (CodecMode.TOPK_SIGN, CodecMode.DENSE_INT8, CodecMode.FITTED)]
EACH = pytest.mark.parametrize("plan", PLANS, ids=lambda plan: f"{plan.mode.name}-{plan.bits}")
SIZES = [1, 2, 3, 7, 8, 9, 64, 127, 129, 2047, 2049, 13_311, 32_769, 65_537]
SHARES = [1e-9, 0.01, 0.3, 0.51, 1.0]  # k = 1 to k = P
KINDS = {
    "zeros": lambda _, size: np.zeros(size),
    "negative zeros": lambda _, size: np.full(size, -0.0),
    "one value": lambda _, size: np.where(np.arange(size) == size // 3, -3.7, 0),
    "equal values": lambda _, size: np.full(size, 0.3),
    "two values": lambda rng, size: signs(rng, size) * rng.choice([1, 1 + 2.0**-23], size),
    "subnormal": lambda rng, size: signs(rng, size) * 2.0**-149 * rng.integers(1, 1 << 20, size),
    "near subnormal": lambda rng, size: signs(rng, size) * 2.0**-126 * rng.uniform(0.5, 3, size),
    "the largest": lambda rng, size: signs(rng, size) * LARGEST * rng.choice([1, 0.999, 0.5, 1e-3], size),
    "every scale": lambda rng, size: signs(rng, size) * np.exp2(rng.uniform(-149, 127.9, size)),
    "laplace": lambda rng, size: rng.laplace(size=size),
    "cauchy": lambda rng, size: rng.standard_t(1, size=size),
    "few classes": lambda rng, size: rng.laplace(size=size) * np.resize([1, 0.05, 0.05, 0.05, 0.05], size),
    "sorted": lambda rng, size: np.sort(rng.laplace(size=size)),
}


def signs(rng: np.random.Generator, size: int) -> np.ndarray:
    return np.where(rng.random(size) < 0.5, -1.0, 1.0)


def draw(kind: str, size: int) -> np.ndarray:
    return KINDS[kind](np.random.default_rng(1), size).astype(np.float32)


def head(size: int, shape: int) -> tuple[TensorSpec, ...]:
    """Return a head of `size` elements: flat, a kernel with a bias, or tensors of one element."""
    if shape == 1 and size % 5 == 0 and size > 5:
        return TensorSpec(name="b", shape=(5,)), TensorSpec(name="w", shape=(size // 5 - 1, 5))
    if shape == 2 and 1 < size <= MAX_TENSORS:
        return tuple(TensorSpec(name=f"t{number:02}", shape=(1,)) for number in range(size))
    return (TensorSpec(name="w", shape=(size,)),)


def check(vector: np.ndarray, tensors: tuple[TensorSpec, ...], codec: Codec) -> None:
    encoded = encode(vector, tensors, codec)
    decoded = decode(encoded.body, tensors, codec)
    found = decoded.values
    if decoded.indices is not None:
        found = np.zeros(vector.size, np.float32)
        found[decoded.indices] = decoded.values
        assert decoded.indices.tobytes() == encoded.content.indices.tobytes()
        most = max(1, round(codec.density * vector.size))
        assert decoded.indices.size <= most or codec.mode is CodecMode.EXACT
    assert found.tobytes() == encoded.decoded.tobytes()
    assert np.isfinite(found).all()
    assert encode(vector, tensors, codec).body == encoded.body


@EACH
@pytest.mark.parametrize("size", SIZES)
def test_what_is_decoded_is_what_the_encoder_said(plan, size):
    rng = np.random.default_rng(size + plan.bits)
    for kind in KINDS if size < 10_000 else rng.choice(list(KINDS), 2).tolist():
        share, shape = float(rng.choice(SHARES)), int(rng.integers(3))
        codec = Codec(mode=plan.mode, density=share, bits=plan.bits)
        check(draw(kind, size), head(size, shape), codec)


@EACH
@pytest.mark.parametrize("size", [1_000_000, 2_000_000])
def test_large_heads_of_every_kind(plan, size, thorough):
    if not thorough:
        pytest.skip("LEFT OUT: a longer sweep, run with --thorough")
    rng = np.random.default_rng(size + plan.bits)
    for kind in KINDS:
        for share in rng.choice(SHARES, 2).tolist():
            check(draw(kind, size), head(size, 1), Codec(mode=plan.mode, density=share, bits=plan.bits))


@EACH
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("size", [1, 3000, 70_000])
def test_what_is_not_finite_is_refused_in_one_line(plan, bad, size):
    vector = draw("laplace", size)
    vector[size // 2] = bad
    with pytest.raises(DataError, match=r"^the update has NaN or infinite values: .*learning rate$"):
        encode(vector, head(size, 0), plan)


@EACH
@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        ((), "has 1 to 64 tensors, this one has 0$"),
        ((TensorSpec(name="w", shape=(4, 0)),), r"^tensor 'w' of shape \(4, 0\) has no elements$"),
        ((TensorSpec(name="w", shape=(MAX_HEAD_PARAMETERS + 1,)),), "at most 4000000 parameters"),
    ],
)
def test_a_head_of_no_size_or_too_large_is_refused_in_one_line(plan, tensors, match):
    with pytest.raises(CodecError, match=match):
        encode(np.empty(0, np.float32), tensors, plan)
    with pytest.raises(CodecError, match=match):
        decode(bytes([3 if plan.mode is CodecMode.DENSE_INT8 else plan.mode << 5]), tensors, plan)


@pytest.mark.parametrize("scale", [1e-18, 1.0, 1e6])
@pytest.mark.parametrize("features", [1, 7, 3000])
def test_statistics_are_exact(scale, features):
    tensors = (
        TensorSpec(name="kernel", shape=(features, 2)),
        TensorSpec(name=MEAN, shape=(features,)),
        TensorSpec(name=MEAN_SQUARE, shape=(features,)),
    )
    samples = np.random.default_rng(features).standard_normal((20, features)) * scale
    own = np.concatenate((samples.mean(0), np.square(samples).mean(0))).astype(np.float32)
    vector = np.concatenate((np.full(2 * features, 9, np.float32), own))
    check(vector, tensors, Codec(mode=CodecMode.EXACT))
    sent = encode(vector, tensors, Codec(mode=CodecMode.EXACT)).decoded
    assert sent[2 * features :].tobytes() == np.where(np.abs(own) < 2.0**-126, 0, own).tobytes()


@pytest.mark.parametrize("max_bytes", [40, 150, 1000, 20_000])
@pytest.mark.parametrize(
    "plan", [Codec(), Codec(mode=CodecMode.TOPK_SIGN), Codec(mode=CodecMode.FITTED, density=1.0)]
)
@pytest.mark.parametrize("kind", ["zeros", "equal values", "laplace", "cauchy", "every scale", "few classes"])
def test_a_body_for_so_many_bytes_is_what_the_encoder_said(plan, kind, max_bytes):
    tensors, vector = head(12_810, 1), draw(kind, 12_810)
    encoded = encode(vector, tensors, plan, max_bytes=max_bytes)
    assert len(encoded.body) <= max_bytes
    decoded = decode(encoded.body, tensors, plan)
    assert decoded.indices.tobytes() == encoded.content.indices.tobytes()
    assert decoded.values.tobytes() == encoded.content.values.tobytes()
