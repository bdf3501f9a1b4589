"""Blobs as they travel: chunks, and one hash over the list of the chunks' hashes (PROTOCOL 6).

One hash over the whole blob could not tell a poisoned chunk from a good one.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from fedclient.errors import WireError
from fedclient.limits import MAX_CHUNK_BYTES
from fedclient.values import BlobRef
from fedclient.wire.fields import HASH_BYTES


@dataclass(frozen=True, kw_only=True, slots=True)
class Blob:
    """A blob's name, the list of its chunks' hashes, and the chunks."""

    ref: BlobRef
    hashes: bytes
    chunks: tuple[bytes, ...]


def split(data: bytes) -> Blob:
    """Cut `data` into chunks of at most MAX_CHUNK_BYTES."""
    chunks = tuple(data[at : at + MAX_CHUNK_BYTES] for at in range(0, len(data), MAX_CHUNK_BYTES))
    hashes = b"".join(hashlib.sha256(chunk).digest() for chunk in chunks)
    ref = BlobRef(hash=hashlib.sha256(hashes).digest(), size=len(data))
    return Blob(ref=ref, hashes=hashes, chunks=chunks)


def is_blob(ref: BlobRef, data: bytes) -> bool:
    """Whether `data` is the blob that `ref` names, by its whole hash or the first bytes of it."""
    found = split(data).ref
    return found.size == ref.size and found.hash[: len(ref.hash)] == ref.hash


def chunk_count(ref: BlobRef) -> int:
    """Count the chunks of a blob."""
    return -(-ref.size // MAX_CHUNK_BYTES)


def check_hashes(ref: BlobRef, hashes: bytes) -> tuple[bytes, ...]:
    """Return the hashes of the chunks of `ref`; raises WireError when `hashes` is not its list."""
    named = hashlib.sha256(hashes).digest()[: len(ref.hash)]
    if len(hashes) != chunk_count(ref) * HASH_BYTES or named != ref.hash:
        raise WireError("list of chunk hashes is not the one in the manifest")
    return tuple(hashes[at : at + HASH_BYTES] for at in range(0, len(hashes), HASH_BYTES))


def check_chunk(ref: BlobRef, number: int, chunk: bytes, expected: bytes) -> bytes:
    """Return chunk `number` (from 1) of `ref`; raises WireError when it is not the expected one."""
    size = min(MAX_CHUNK_BYTES, ref.size - (number - 1) * MAX_CHUNK_BYTES)
    if len(chunk) != size or hashlib.sha256(chunk).digest() != expected:
        raise WireError(f"chunk {number} of blob {ref.hash.hex()[:12]} is not the one in the manifest")
    return chunk
