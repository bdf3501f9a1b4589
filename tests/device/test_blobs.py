"""Blobs: verified before they are written, taken up at any chunk, damaged ones removed (PROTOCOL 6)."""

from __future__ import annotations

import hashlib

import pytest

from fedclient.device.blobs import Blobs
from fedclient.errors import StorageDamaged, WireError
from fedclient.limits import MAX_CHUNK_BYTES
from fedclient.wire.blobs import check_hashes, split
from fedclient.wire.topics import blob_name

DATA = hashlib.shake_128(b"model").digest(3 * MAX_CHUNK_BYTES + 17)
BLOB = split(DATA)
HASHES = check_hashes(BLOB.ref, BLOB.hashes)


@pytest.fixture
def blobs(tmp_path) -> Blobs:
    return Blobs(tmp_path)


def part(tmp_path):
    return tmp_path / f"{blob_name(BLOB.ref.hash)}.part"


@pytest.mark.parametrize("size", [1, MAX_CHUNK_BYTES, MAX_CHUNK_BYTES + 1])
def test_the_last_chunk_makes_it_whole(blobs, size) -> None:
    blob = split(DATA[:size])
    for number, chunk in enumerate(blob.chunks, 1):
        assert not blobs.has(blob.ref)
        blobs.append(blob.ref, chunk)
        assert blobs.done_chunks(blob.ref, check_hashes(blob.ref, blob.hashes)) in {number, 0}
    assert blobs.has(blob.ref)
    assert blobs.read(blob.ref) == DATA[:size]


@pytest.mark.parametrize("there", range(len(BLOB.chunks)))
@pytest.mark.parametrize("torn", [b"", b"half a chunk"])
def test_rule_6_a_fetch_goes_on_at_every_chunk(blobs, tmp_path, there, torn) -> None:
    for chunk in BLOB.chunks[:there]:
        blobs.append(BLOB.ref, chunk)
    with part(tmp_path).open("ab") as file:
        file.write(torn)
    again = Blobs(tmp_path)
    assert again.done_chunks(BLOB.ref, HASHES) == there
    for chunk in BLOB.chunks[there:]:
        again.append(BLOB.ref, chunk)
    assert again.read(BLOB.ref) == DATA
    assert not part(tmp_path).exists()


def test_rule_6_a_power_cut_between_the_last_chunk_and_its_rename(blobs, tmp_path) -> None:
    """All bytes are there, but nothing says so: the last chunk is asked for again, or it would never end."""
    part(tmp_path).write_bytes(DATA)
    assert blobs.done_chunks(BLOB.ref, HASHES) == len(BLOB.chunks) - 1
    blobs.append(BLOB.ref, BLOB.chunks[-1])
    assert blobs.read(BLOB.ref) == DATA


def test_rule_6_a_damaged_chunk_of_a_begun_fetch_is_fetched_again(blobs, tmp_path) -> None:
    for chunk in BLOB.chunks[:3]:
        blobs.append(BLOB.ref, chunk)
    data = bytearray(part(tmp_path).read_bytes())
    data[MAX_CHUNK_BYTES + 5] ^= 1
    part(tmp_path).write_bytes(data)
    assert blobs.done_chunks(BLOB.ref, HASHES) == 1
    assert part(tmp_path).stat().st_size == MAX_CHUNK_BYTES


@pytest.mark.parametrize("damage", ["flip", "cut", "longer", "gone"])
def test_a_damaged_blob_is_reported_and_can_be_fetched_again(blobs, tmp_path, damage) -> None:
    for chunk in BLOB.chunks:
        blobs.append(BLOB.ref, chunk)
    path = tmp_path / blob_name(BLOB.ref.hash)
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes({"flip": b"x" + DATA[1:], "cut": DATA[:-1], "longer": DATA + b"x"}[damage])
    with pytest.raises(StorageDamaged):
        blobs.read(BLOB.ref)
    assert not blobs.has(BLOB.ref)
    for chunk in BLOB.chunks:
        blobs.append(BLOB.ref, chunk)
    assert blobs.read(BLOB.ref) == DATA


def test_what_was_made_here_is_written_whole_and_only_under_its_own_name(blobs, tmp_path) -> None:
    with pytest.raises(WireError):
        blobs.put(BLOB.ref, DATA[1:] + b"x")
    assert not list(tmp_path.iterdir())
    blobs.append(BLOB.ref, BLOB.chunks[0])
    blobs.put(BLOB.ref, DATA)
    assert blobs.read(BLOB.ref) == DATA
    left = tmp_path / f".{blob_name(BLOB.ref.hash)}.0123456789ab.tmp"
    left.write_bytes(DATA)
    blobs.sweep()
    assert not left.exists()
    assert blobs.has(BLOB.ref)


def test_what_led_nowhere_is_removed_whole_or_begun(blobs, tmp_path) -> None:
    small = split(b"delta")
    blobs.append(small.ref, b"delta")
    blobs.append(BLOB.ref, BLOB.chunks[0])
    blobs.remove([small.ref, BLOB.ref])
    blobs.remove([small.ref])
    assert not list(tmp_path.iterdir())


def test_only_what_is_needed_stays(blobs, tmp_path) -> None:
    small, other = split(b"head"), split(b"old head")
    blobs.append(small.ref, b"head")
    blobs.append(other.ref, b"old head")
    blobs.append(BLOB.ref, BLOB.chunks[0])
    blobs.keep_only([small.ref])
    assert [path.name for path in tmp_path.iterdir()] == [blob_name(small.ref.hash)]


def test_what_a_child_is_writing_now_stays_where_it_is_needed(blobs, tmp_path, monkeypatch) -> None:
    """Agent and child share the folder: tidying up must not take away what gets its name in a moment."""

    def tidied(_: int) -> None:
        blobs.keep_only([BLOB.ref])

    monkeypatch.setattr("os.fsync", tidied)
    blobs.put(BLOB.ref, DATA)
    assert blobs.read(BLOB.ref) == DATA


def test_a_folder_that_does_not_belong_here_is_in_nobodys_way(blobs, tmp_path) -> None:
    (tmp_path / "lost+found").mkdir()
    blobs.keep_only([])
    assert (tmp_path / "lost+found").is_dir()
