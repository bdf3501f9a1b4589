import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedclient.errors import WireError
from fedclient.limits import MAX_CHUNK_BYTES
from fedclient.wire.blobs import check_chunk, check_hashes, chunk_count, split

SIZES = [1, MAX_CHUNK_BYTES - 1, MAX_CHUNK_BYTES, MAX_CHUNK_BYTES + 1, 3 * MAX_CHUNK_BYTES]


@pytest.mark.parametrize("size", SIZES)
def test_chunks_join_to_the_blob_and_check_out(size) -> None:
    data = hashlib.shake_128(b"blob").digest(size)
    blob = split(data)
    assert b"".join(blob.chunks) == data
    assert len(blob.chunks) == chunk_count(blob.ref)
    hashes = check_hashes(blob.ref, blob.hashes)
    for number, chunk in enumerate(blob.chunks, 1):
        assert check_chunk(blob.ref, number, chunk, hashes[number - 1]) == chunk


def test_a_blob_of_one_chunk_is_named_by_the_hash_of_its_hash() -> None:
    assert split(b"head").ref.hash == hashlib.sha256(hashlib.sha256(b"head").digest()).digest()


@given(st.integers(0, 2 * 32 - 1), st.integers(0, 7))
def test_a_flipped_bit_in_the_list_is_refused(at, bit) -> None:
    blob = split(bytes(MAX_CHUNK_BYTES + 5))
    flipped = bytearray(blob.hashes)
    flipped[at] ^= 1 << bit
    with pytest.raises(WireError, match="list of chunk hashes"):
        check_hashes(blob.ref, bytes(flipped))


def test_rule_6_one_poisoned_chunk_is_told_from_the_good_ones() -> None:
    blob = split(hashlib.shake_128(b"x").digest(2 * MAX_CHUNK_BYTES))
    hashes = check_hashes(blob.ref, blob.hashes)
    poisoned = bytes(MAX_CHUNK_BYTES)
    check_chunk(blob.ref, 1, blob.chunks[0], hashes[0])
    with pytest.raises(WireError, match="chunk 2 of blob"):
        check_chunk(blob.ref, 2, poisoned, hashes[1])
    with pytest.raises(WireError, match="chunk 2 of blob"):
        check_chunk(blob.ref, 2, blob.chunks[1][:-1], hashes[1])
    with pytest.raises(WireError, match="list of chunk hashes"):
        check_hashes(blob.ref, blob.hashes[:-32])
