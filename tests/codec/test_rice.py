"""Positions as Golomb-Rice gaps: every set of positions has one block, and nothing else decodes."""

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedclient.codec import rice
from fedclient.errors import CodecError

POSITIONS = st.sets(st.one_of(st.integers(0, 300), st.integers(0, 4_000_000 - 1)), min_size=1, max_size=80)

LONG_BLOCK = bytes(1_000_000)


def array(positions) -> np.ndarray:
    return np.array(sorted(positions), dtype=np.int64)


def written_by_hand(positions, parameter: int) -> bytes:
    """The block with any parameter, one bit at a time."""
    gaps = [b - a - 1 for a, b in zip([-1, *positions[:-1]], positions, strict=True)]
    bits = "".join(f"{gap % 2**parameter:0{parameter}b}" if parameter else "" for gap in gaps)
    bits += "".join("0" * (gap >> parameter) + "1" for gap in gaps)
    bits += "0" * (-len(bits) % 8)
    return bytes([parameter, *(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))])


@given(POSITIONS, st.binary(max_size=5), st.integers(0, 3))
def test_round_trip(positions, behind, room):
    block = rice.encode(array(positions))
    decoded, used = rice.decode(block + behind, len(positions), max(positions) + 1 + room)
    assert decoded.tolist() == sorted(positions)
    assert decoded.dtype == np.int64
    assert used == len(block)


@given(POSITIONS)
def test_the_parameter_is_the_smallest_that_gives_the_fewest_bits(positions):
    ordered = sorted(positions)
    gaps = [b - a - 1 for a, b in zip([-1, *ordered[:-1]], ordered, strict=True)]
    bits = [sum(r + 1 + (gap >> r) for gap in gaps) for r in range(24)]
    block = rice.encode(array(positions))
    assert block[0] == bits.index(min(bits))
    assert len(block) == 1 + (min(bits) + 7) // 8


@given(st.sets(st.integers(0, 2000), min_size=1, max_size=80))
def test_the_bits_are_those_written_by_hand_and_no_other_parameter_decodes(positions):
    ordered, block = sorted(positions), rice.encode(array(positions))
    assert written_by_hand(ordered, block[0]) == block
    for parameter in range(13):
        if parameter != block[0]:
            with pytest.raises(CodecError):
                rice.decode(written_by_hand(ordered, parameter), len(ordered), 2001)


@given(POSITIONS)
def test_a_position_beyond_the_head_is_refused(positions):
    with pytest.raises(CodecError):
        rice.decode(rice.encode(array(positions)), len(positions), max(positions))


@given(st.sets(st.integers(0, 500), min_size=1, max_size=40))
def test_padding_must_be_zero(positions):
    block = rice.encode(array(positions))
    end = max(i for i in range(8) if block[-1] >> (7 - i) & 1)  # the last terminator's bit
    for bit in range(end + 1, 8):
        with pytest.raises(CodecError, match="padding"):
            rice.decode(block[:-1] + bytes([block[-1] | 0x80 >> bit]), len(positions), 501)


@given(st.binary(max_size=40), st.integers(1, 100), st.integers(1, 4000))
def test_any_bytes_decode_to_valid_positions_or_a_codec_error(block, count, size):
    try:
        positions, used = rice.decode(block, count, size)
    except CodecError:
        return
    assert positions.size == count
    assert positions[0] >= 0
    assert (np.diff(positions) > 0).all()
    assert positions[-1] < size
    assert rice.encode(positions) == block[:used]


@pytest.mark.parametrize("fill", [b"\x00", b"\xff", b"\x01", b"\x80"])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_every_parameter_byte_is_refused_or_the_best(count, fill):
    for parameter in range(256):
        for size in (1, 12_810, 4_000_000):
            try:
                positions, _ = rice.decode(bytes([parameter]) + fill * 300, count, size)
            except CodecError:
                continue
            assert rice.encode(positions)[0] == parameter


@pytest.mark.parametrize("block", [b"", b"\x00", b"\x07\xff\xff", b"\x08\xff\xff\xff"])
def test_a_block_without_room_for_its_positions_is_refused(block):
    with pytest.raises(CodecError, match=r"missing|too short"):
        rice.decode(block, 3, 500)


def test_no_more_is_unpacked_than_the_positions_can_need():
    block = bytes(1_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(CodecError):
            rice.decode(block, 2, 500)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 * 1024


@pytest.mark.parametrize(
    ("size", "density"), [(12_810, 0.01), (1_000_000, 0.01), (12_810, 0.1), (12_810, 0.5)]
)
def test_size_is_near_the_entropy_bound(size, density):
    count = round(size * density)
    positions = np.sort(np.random.default_rng(7).choice(size, count, replace=False)).astype(np.int64)
    ideal = (math.lgamma(size + 1) - math.lgamma(count + 1) - math.lgamma(size - count + 1)) / math.log(2) / 8
    size_bytes = len(rice.encode(positions))
    print(f"{count} of {size}: {size_bytes} bytes, entropy bound {ideal:.1f}, +{size_bytes / ideal - 1:.1%}")
    assert size_bytes <= 1.05 * ideal + 2
