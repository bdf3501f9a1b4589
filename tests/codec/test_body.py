"""Bodies: exact round trips, golden bytes, a second reader, and what strangers may send."""

import json
import math
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedclient.codec import Decoded, decode, encode
from fedclient.errors import CodecError, DataError
from fedclient.limits import MAX_HEAD_PARAMETERS
from fedclient.values import PLAN_CODECS, Codec, CodecMode, TensorSpec, parameters
from tests.codec.memory import peak_of, peak_of_refusal
from tests.codec.reader import read_slowly

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "codec.json").read_text())
TENSORS = (
    TensorSpec(name="b", shape=(3,)),
    TensorSpec(name="w", shape=(2, 4)),
    TensorSpec(name="x", shape=(9,)),
)
HEAD = (TensorSpec(name="bias", shape=(10,)), TensorSpec(name="kernel", shape=(1280, 10)))
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
SMALL = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0**-10, -(2.0**-10), 2.0**-140, 2.0**127])
DELTA = hnp.arrays(np.float32, parameters(TENSORS), elements=st.one_of(SMALL, FINITE))
CODEC = st.builds(
    Codec,
    mode=st.sampled_from(PLAN_CODECS),
    density=st.floats(0, 1, exclude_min=True, allow_subnormal=False),
    bits=st.integers(2, 8),
)
MODES = pytest.mark.parametrize("mode", PLAN_CODECS, ids=lambda mode: mode.name)


def dense(decoded: Decoded, size: int) -> np.ndarray:
    if decoded.indices is None:
        return decoded.values
    out = np.zeros(size, np.float32)
    out[decoded.indices] = decoded.values
    return out


def delta(tensors: tuple[TensorSpec, ...], seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(parameters(tensors)).astype(np.float32)


def check_bounds(decoded: Decoded, tensors: tuple[TensorSpec, ...], codec: Codec) -> None:
    size = parameters(tensors)
    assert np.isfinite(decoded.values).all()
    assert decoded.values.dtype == np.float32
    if codec.mode is CodecMode.DENSE_INT8:
        assert decoded.indices is None
        assert decoded.values.size == size
        return
    assert decoded.indices is not None
    assert decoded.indices.size == decoded.values.size <= max(1, round(codec.density * size))
    assert decoded.values.all()
    assert len(set(decoded.indices.tolist())) == decoded.indices.size
    assert ((decoded.indices >= 0) & (decoded.indices < size)).all()


@given(DELTA, CODEC)
def test_round_trip_is_bit_exact_and_canonical(vector, codec):
    encoded = encode(vector, TENSORS, codec)
    decoded = decode(encoded.body, TENSORS, codec)
    check_bounds(decoded, TENSORS, codec)
    assert dense(decoded, vector.size).tobytes() == encoded.decoded.tobytes()
    assert read_slowly(encoded.body, TENSORS, codec.density) == encoded.decoded.tolist()
    assert encode(vector.copy(), TENSORS, codec).body == encoded.body


@given(DELTA, CODEC)
def test_what_is_sent_is_the_largest_with_its_signs_and_no_longer(vector, codec):
    encoded = encode(vector, TENSORS, codec)
    decoded = encoded.decoded
    norm = np.linalg.norm(vector.astype(float))
    if codec.mode is CodecMode.TOPK_SIGN:
        assert np.linalg.norm(decoded.astype(float)) <= norm * (1 + 1e-6)
    sent = decoded != 0
    assert (np.sign(decoded[sent]) == np.sign(vector[sent])).all()
    if codec.mode is not CodecMode.DENSE_INT8 and sent.any():
        assert np.abs(vector[sent]).min() >= np.abs(vector[~sent]).max(initial=0)
        assert np.abs(decoded).max() <= np.abs(vector).max()


def bits(text: str) -> bytes:
    text = text.replace(" ", "")
    text += "0" * (-len(text) % 8)
    return bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))


# k = round(0.15 * 20) = 3: positions 1, 4, 9; gaps 1, 2, 4; M = ceil(0.693 * 20 / 3 - 0.841) = 4, so u = 0;
# remainders 1, 2, 0: heads 0 1 0, tails 1 0 0; quotients 0, 0, 1
BY_HAND = "010 100 1 1 01"


def test_a_body_of_signs_worked_out_by_hand():
    vector = np.zeros(20, np.float32)
    vector[[1, 4, 9]] = 63.5, -254, 10.1
    vector[[0, 5, 19]] = 10, -10, 10
    # the mean is 109.2 = 1.70625 * 2^6: exponent 133, 11 sixteenths
    encoded = encode(vector, TENSORS, Codec(mode=CodecMode.TOPK_SIGN, density=0.15))
    assert encoded.body == bits(f"010 1 00 {BY_HAND} 0 010 10000101 1011")
    assert encoded.decoded[[1, 4, 9]].tolist() == [108, -108, 108]
    assert (encoded.sparsified_bytes, encoded.quantized_bytes) == (3 * 8, 3 * 4 + 5)


def test_a_body_of_levels_worked_out_by_hand():
    vector = np.zeros(20, np.float32)
    vector[[1, 4, 9]] = 63.5, -63.5, 63.5
    # one level: a table of a code of no bits; 63.5 = (1 + 63/64) * 2^5: exponent 132
    encoded = encode(vector, TENSORS, Codec(density=0.15))
    assert encoded.body == bits(f"001 1 00 {BY_HAND} 0 010 00000 1 10000100 111111000000000")
    assert encoded.decoded[[1, 4, 9]].tolist() == [63.5, -63.5, 63.5]


def test_a_dense_body_worked_out_by_hand():
    vector = np.zeros(20, np.float32)
    vector[[0, 2, 19]] = 1, -0.5, -127
    body = (
        bytes([3, 127, 0, 256 - 64])
        + bytes(16)
        + bytes([256 - 127])
        + struct.pack("<ff", np.float32(1 / 127), 1)
    )
    encoded = encode(vector, TENSORS, Codec(mode=CodecMode.DENSE_INT8))
    assert encoded.body == body
    assert (encoded.sparsified_bytes, encoded.quantized_bytes) == (80, 28)


@MODES
def test_a_delta_of_zeros(mode):
    codec = Codec(mode=mode)
    body = encode(np.zeros(20, np.float32), TENSORS, codec).body
    assert body == (bytes([3]) + bytes(20) if mode is CodecMode.DENSE_INT8 else bytes([mode << 5]))
    assert decode(body, TENSORS, codec).norm() == 0


@MODES
def test_what_is_too_small_for_a_scale_counts_as_zero(mode):
    vector = np.full(20, 2.0**-140, np.float32)
    codec = Codec(mode=mode, density=1.0)
    encoded = encode(vector, TENSORS, codec)
    assert not encoded.decoded.any()
    assert decode(encoded.body, TENSORS, codec).norm() == 0
    expected = {CodecMode.DENSE_INT8: 21, CodecMode.FITTED: 1}
    assert len(encoded.body) == expected.get(mode, 2)


@pytest.mark.parametrize("case", VECTORS["valid"], ids=lambda case: case["name"])
def test_golden_vectors(case):
    tensors, codec = from_case(case)
    body = bytes.fromhex(case["body"])
    encoded = encode(from_sparse(case["input"], tensors), tensors, codec, max_bytes=case.get("max_bytes"))
    # What is chosen for so many bytes follows from logarithms, which are not the same on all machines.
    assert encoded.body == body or codec.mode is CodecMode.FITTED
    expected = from_sparse(case["decoded"], tensors)
    assert dense(decode(body, tensors, codec), expected.size).tobytes() == expected.tobytes()
    assert read_slowly(body, tensors, codec.density) == expected.tolist()


@pytest.mark.parametrize("case", VECTORS["invalid"], ids=lambda case: case["name"])
def test_golden_refusals(case):
    tensors, codec = from_case(case)
    with pytest.raises(CodecError):
        decode(bytes.fromhex(case["body"]), tensors, codec)


def from_case(case) -> tuple[tuple[TensorSpec, ...], Codec]:
    tensors = tuple(TensorSpec(name=name, shape=tuple(shape)) for name, shape in case["tensors"])
    return tensors, Codec(mode=CodecMode(case["mode"]), density=case["density"], bits=case.get("bits", 8))


def from_sparse(sparse, tensors: tuple[TensorSpec, ...]) -> np.ndarray:
    out = np.zeros(parameters(tensors), np.float32)
    out[sparse["positions"]] = np.frombuffer(bytes.fromhex(sparse["values"]), dtype="<f4")
    return out


@MODES
def test_truncation_at_every_length_and_any_tail_is_refused(mode):
    codec, tensors = Codec(mode=mode, density=0.3), (*TENSORS, *TENSORS)
    body = encode(delta(tensors), tensors, codec).body
    for length in range(len(body)):
        with pytest.raises(CodecError):
            decode(body[:length], tensors, codec)
    for tail in (b"\0", b"\x01", bytes(4), struct.pack("<f", 1.0)):
        with pytest.raises(CodecError):
            decode(body + tail, tensors, codec)


@MODES
def test_truncation_of_a_real_head_at_every_length(mode):
    codec = Codec(mode=mode)
    body = encode(delta(HEAD), HEAD, codec).body
    for length in range(0, len(body), 37 if mode is CodecMode.DENSE_INT8 else 1):
        with pytest.raises(CodecError):
            decode(body[:length], HEAD, codec)


@MODES
@pytest.mark.parametrize(("tensors", "density"), [(TENSORS, 0.3), (TENSORS, 1.0), (HEAD, 0.01)], ids=str)
def test_every_flipped_bit_is_refused_or_another_body_within_bounds(mode, tensors, density):
    codec = Codec(mode=mode, density=density)
    body = encode(delta(tensors), tensors, codec).body
    seen = {content(decode(body, tensors, codec))}
    step = 101 if len(body) > 1000 else 1  # a dense head: its bytes are all alike
    flips = range(0, 8 * len(body), step)
    for bit in flips:
        flipped = bytearray(body)
        flipped[bit // 8] ^= 0x80 >> bit % 8
        try:
            decoded = decode(bytes(flipped), tensors, codec)
        except CodecError:
            continue
        check_bounds(decoded, tensors, codec)
        # without a bound FITTED has more levels than values, and codes that nothing needs
        assert mode is CodecMode.FITTED or content(decoded) not in seen, "two bodies with one content"
        seen.add(content(decoded))
    print(f"{mode.name}, {len(body)} bytes: {len(seen) - 1} of {len(flips)} flips are other valid bodies")


def content(decoded: Decoded) -> tuple[bytes, bytes]:
    indices = b"" if decoded.indices is None else decoded.indices.tobytes()
    return indices, decoded.values.tobytes()


@given(CODEC, st.binary(max_size=60), st.integers(0, 20))
def test_any_bytes_give_a_codec_error_or_something_within_bounds(codec, junk, count):
    for body in (junk, bytes([codec.mode]) + junk, bytes([codec.mode, count]) + junk):
        try:
            decoded = decode(body, TENSORS, codec)
        except CodecError:
            continue
        check_bounds(decoded, TENSORS, codec)


@MODES
def test_the_mode_must_be_the_plans(mode):
    body = encode(delta(TENSORS), TENSORS, Codec(mode=mode)).body
    for other in CodecMode:
        if other is not mode:
            with pytest.raises(CodecError, match="mode"):
                decode(body, TENSORS, Codec(mode=other))


@pytest.mark.parametrize("text", ["001 0 11", "010 0 11", "010 0 1100000", ""])
def test_a_count_that_is_too_large_or_cut_off_is_refused(text):
    with pytest.raises(CodecError):  # k = 3
        decode(bits(text), TENSORS, Codec(mode=CodecMode(2 if text[:3] == "010" else 1), density=0.15))


def test_a_body_under_a_plan_with_another_density_is_refused():
    body = encode(delta(TENSORS), TENSORS, Codec(density=0.25)).body  # k = 5
    decode(body, TENSORS, Codec(density=0.25))
    with pytest.raises(CodecError):
        decode(body, TENSORS, Codec(density=0.2))


@MODES
@pytest.mark.parametrize("fill", [b"\x00", b"\xff", b"\x2a", b"\x55"])
@pytest.mark.parametrize("density", [0.01, 0.3])
def test_declared_sizes_take_no_memory(mode, fill, density):
    tensors = (TensorSpec(name="w", shape=(MAX_HEAD_PARAMETERS // 10, 10)),)
    head = b"\x03" if mode is CodecMode.DENSE_INT8 else bytes([mode << 5 | 0x10])  # n = k, whole
    codec = Codec(mode=mode, density=density)
    assert peak_of_refusal(lambda: decode(head + fill * 200, tensors, codec)) < 32 * 1024


@pytest.mark.parametrize("mode", [CodecMode.TOPK_INT8, CodecMode.TOPK_SIGN])
def test_memory_is_for_the_plans_elements_where_few_bytes_mean_all(mode):
    tensors = (TensorSpec(name="w", shape=(100_000,)),)
    codec = Codec(mode=mode, density=1.0)
    body = encode(np.ones(100_000, np.float32), tensors, codec).body
    assert len(body) < 12
    peak = peak_of(lambda: decode(body, tensors, codec))
    print(f"{mode.name}: {peak / 100_000:.0f} bytes for an element")
    assert peak < 64 * 100_000


@MODES
def test_memory_follows_the_body(mode):
    tensors = (TensorSpec(name="w", shape=(1_000_000,)),)
    codec = Codec(mode=mode)
    body = encode(delta(tensors), tensors, codec).body
    peak = peak_of(lambda: decode(body, tensors, codec))
    print(f"{mode.name}: {len(body)} bytes decode within {peak} bytes")
    assert peak < 100 * len(body)


@MODES
def test_error_feedback_loses_nothing(mode):
    rng, codec = np.random.default_rng(5), Codec(mode=mode, density=0.02)
    inputs, outputs = np.zeros(12_810), np.zeros(12_810)
    residual = np.zeros(12_810, np.float32)
    for _ in range(60):
        step = (rng.standard_normal(12_810) * rng.random(12_810) ** 4).astype(np.float32)
        inputs += step
        vector = residual + step
        encoded = encode(vector, HEAD, codec)
        residual = vector - encoded.decoded
        decode(encoded.body, HEAD, codec).add_to(outputs, 1.0)
    assert np.abs(outputs + residual - inputs).max() < 1e-4
    assert np.linalg.norm(residual) < 0.8 * np.linalg.norm(inputs)  # most has arrived


@given(DELTA, CODEC, st.floats(0.001, 64))
def test_add_to_and_norm_are_those_of_the_dense_vector(vector, codec, weight):
    encoded = encode(vector, TENSORS, codec)
    decoded = decode(encoded.body, TENSORS, codec)
    total = np.linspace(-1, 1, vector.size)
    expected = total + encoded.decoded.astype(np.float64) * weight
    decoded.add_to(total, weight)
    assert np.array_equal(total, expected)
    norm = math.sqrt(math.fsum(float(value) ** 2 for value in encoded.decoded))
    assert decoded.norm() == pytest.approx(norm, rel=1e-14)


@MODES
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_delta_that_is_not_finite_is_refused(mode, bad):
    vector = delta(TENSORS)
    vector[7] = bad
    with pytest.raises(DataError, match="NaN or infinite"):
        encode(vector, TENSORS, Codec(mode=mode))


@pytest.mark.parametrize("vector", [np.zeros(19, np.float32), np.zeros(20), np.zeros((4, 5), np.float32)])
def test_a_delta_of_another_shape_or_type_is_a_programming_mistake(vector):
    with pytest.raises(ValueError, match="want float32"):
        encode(vector, TENSORS, Codec())


@pytest.mark.parametrize(("mode", "at_most"), [(CodecMode.TOPK_INT8, 220), (CodecMode.TOPK_SIGN, 150)])
def test_a_head_of_12810_parameters_fits_its_budget(mode, at_most):
    sizes = [len(encode(delta(HEAD, seed), HEAD, Codec(mode=mode)).body) for seed in range(50)]
    print(f"{mode.name}: 128 of 12,810 parameters in {min(sizes)} to {max(sizes)} bytes")
    assert max(sizes) <= at_most
