"""Integers times powers of two: exact both ways, with the coarsest steps, near the entropy, and strict."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedclient.codec import integers, octaves
from fedclient.codec.bits import BitWriter
from fedclient.errors import CodecError
from fedclient.values import TensorSpec, parameters
from tests.codec.reader import read_integers

HEAD = (TensorSpec(name="bias", shape=(6,)), TensorSpec(name="kernel", shape=(40, 6)))
SIZE = parameters(HEAD)


def read(data: bytes, tensors: tuple[TensorSpec, ...]) -> np.ndarray:
    """Return all values, [n]."""
    found = np.zeros(parameters(tensors))
    indices, values = integers.read(data, tensors)
    assert values.all(), "what is 0 is not written"
    found[indices] = values
    return found


def test_round_trip_of_any_mix_with_both_readers():
    rng = np.random.default_rng(3)
    for density in (0.0, 0.01, 0.1, 0.5, 0.9, 1.0):
        for spread in (1, 2, 30, 2**24 - 1):
            steps = np.repeat(np.ldexp(1.0, rng.integers(-126, 60, 2)), [6, 240])
            values = rng.integers(-spread, spread + 1, SIZE) * steps * (rng.random(SIZE) < density)
            data = integers.write(values, HEAD)
            assert read(data, HEAD).tobytes() == (values + 0.0).tobytes()
            assert read_integers(data, HEAD) == values.tolist()


def test_nothing_is_a_count_of_nothing():
    assert integers.write(np.zeros(SIZE), HEAD) == b"\0"
    assert not read(b"\0", HEAD).any()


def test_a_code_worked_out_by_hand():
    values = np.zeros(SIZE)
    values[[1, 100]] = 0.75, -0.25
    # 2 of 246, whole; M = 85: heads 1 and 98 mod 85 = 13 as planes of 6 bits, quotients 0 and 1
    # signs 0 1; longest 2, beyond one bit 1 0; second bit of 3: 1; one step, exponent -2
    bits = "0000001000" + "000001010011" + "101" + "001" + "0001001001" + "001111100"
    octets = [int(bits[at : at + 8].ljust(8, "0"), 2) for at in range(0, len(bits), 8)]
    assert integers.write(values, HEAD) == bytes(octets)


def test_a_step_for_each_tensor_only_where_that_is_shorter():
    many = tuple(TensorSpec(name=f"{number:02}", shape=(1,)) for number in range(20))
    assert len(integers.write(np.tile([1.0, 2.0], 10), many)) <= 8, "20 steps take 20 bytes"
    values = np.ones(SIZE)
    values[6:] = np.random.default_rng(1).integers(1, 99, SIZE - 6) | 1
    alike = len(integers.write(values, HEAD))
    values[6:] *= 2.0**-20  # with one step the bias would be 2^20
    assert len(integers.write(values, HEAD)) <= alike + 1


@pytest.mark.parametrize("density", [0.03, 0.1, 0.97])
def test_size_is_near_the_entropy(density):
    tensors = (TensorSpec(name="bias", shape=(10,)), TensorSpec(name="kernel", shape=(1280, 10)))
    rng = np.random.default_rng(2)
    values = np.rint(rng.laplace(size=12_810) * (15 if density > 0.5 else 1.5))
    values[rng.random(12_810) >= density] = 0
    _, counts = np.unique(values, return_counts=True)
    entropy = float(-(counts * np.log2(counts / 12_810)).sum()) / 8
    size = len(integers.write(values, tensors))
    print(f"{size} bytes, {size / entropy:.4f} of the entropy")
    assert size <= 1.025 * entropy + 4


@pytest.mark.parametrize(
    "values", [[2.0**24, 1.0], [1.0, 2.0**-24], [2.0**-127, 0.0], [1e300, 1e-300], [math.pi, 0.0]], ids=str
)
def test_what_is_on_no_grid_of_24_bits_is_refused(values):
    with pytest.raises(CodecError, match="24 bits"):
        integers.write(np.array(values), (TensorSpec(name="w", shape=(2,)),))


@given(st.binary(max_size=60))
def test_any_bytes_are_values_or_an_error(data):
    try:
        values = read(data, HEAD)
    except CodecError:
        return
    assert np.isfinite(values).all()
    assert len(integers.write(values, HEAD)) <= len(data)  # another grouping may be shorter


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_changed_bit_is_other_values_or_an_error(seed, flipped):
    rng = np.random.default_rng(seed)
    values = rng.integers(-9, 10, SIZE) * (rng.random(SIZE) < 0.2) * 2.0**-10
    data = bytearray(integers.write(values, HEAD))
    data[flipped // 8 % len(data)] ^= 1 << flipped % 8
    try:
        found = read(bytes(data), HEAD)
    except CodecError:
        return
    assert found.shape == (SIZE,)
    assert (found != values).any()


def written(count: int, numbers: list[int], steps: list[tuple[int, int]]) -> bytes:
    """Write numbers at 0, 6, 7, 8 ...: the first in the bias, the others in the kernel."""
    out = BitWriter()
    out.number(count, 8)
    indices = np.array([0, 6, 7, 8][: len(numbers)])
    integers._write_places(out, indices, np.zeros(indices.size, np.bool_), HEAD)
    out.number(0, 1)
    out.number(0, len(numbers))
    octaves.write(out, np.array(numbers))
    for value, width in steps:
        out.number(value, width)
    return out.to_bytes()


def test_what_the_next_test_changes_is_read():
    found = read(written(2, [1, 2], [(0, 1), (127, 8)]), HEAD)
    assert found[[0, 6]].tolist() == [2.0, 4.0]
    found = read(written(2, [1, 3], [(1, 1), (127, 8), (125, 8)]), HEAD)
    assert found[[0, 6]].tolist() == [2.0, 1.5]


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "ends"),
        (b"\xf7" + bytes(9), "247 integers among 246"),
        (written(2, [2, 4], [(0, 1), (127, 8)]), "all even"),
        (written(2, [1, 2], [(1, 1), (127, 8), (125, 8)]), "all even"),
        (written(2, [1, 3], [(1, 1), (127, 8), (127, 8)]), "all are the same"),
        (written(2, [1, 3], [(1, 1), (127, 8)]), "ends"),
        (written(2, [1, 3], [(0, 1), (127, 8)]) + b"\0", "goes on"),
    ],
)
def test_what_no_encoder_writes_is_refused(data, match):
    with pytest.raises(CodecError, match=match):
        read(data, HEAD)
