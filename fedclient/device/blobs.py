"""Blobs on the device: files named by their content, fetched in chunks, verified before use.

A blob that is being fetched is `NAME.part`, appended to chunk by chunk, each chunk flushed
to the disk before the next: after a power cut the fetch goes on where it was.  A head that was put
together here out of other blobs is written as a whole.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from fedclient.errors import StorageDamaged, WireError
from fedclient.limits import MAX_CHUNK_BYTES
from fedclient.storage import disk_errors, read_file, sweep, sync_folder, write_file
from fedclient.values import BlobRef
from fedclient.wire.blobs import check_chunk, is_blob
from fedclient.wire.topics import blob_name


class Blobs:
    """The folder `blobs/` of a state folder."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def has(self, ref: BlobRef) -> bool:
        """Whether the blob is here whole; its content is checked when it is read."""
        try:
            return self._file(ref).stat().st_size == ref.size
        except OSError:
            return False

    def read(self, ref: BlobRef) -> bytes:
        """Return the blob's bytes; a damaged one is removed, and StorageDamaged raised."""
        path = self._file(ref)
        if not self.has(ref):
            raise StorageDamaged(f"{path} is gone or cut: it will be fetched again")
        data = read_file(path, ref.size)
        if not is_blob(ref, data):
            with disk_errors(path):
                path.unlink(missing_ok=True)
            raise StorageDamaged(f"{path} is not what was written: it will be fetched again")
        return data

    def done_chunks(self, ref: BlobRef, hashes: tuple[bytes, ...]) -> int:
        """Count the sound chunks of a fetch that was begun; what follows them is cut off.

        Never all of them: it is the last chunk's `append` that makes a blob whole.
        """
        part = self._part(ref)
        if not part.exists():
            return 0
        sound = 0
        with disk_errors(part), part.open("r+b") as file:
            for number, expected in enumerate(hashes[:-1], 1):
                chunk = file.read(MAX_CHUNK_BYTES)
                try:
                    check_chunk(ref, number, chunk, expected)
                except WireError:
                    break
                sound = number
            file.truncate(sound * MAX_CHUNK_BYTES)
        return sound

    def append(self, ref: BlobRef, chunk: bytes) -> None:
        """Add the next verified chunk; the last one makes the blob whole."""
        if len(chunk) == ref.size:
            write_file(self._file(ref), chunk)
            return
        part = self._part(ref)
        with disk_errors(part):
            with part.open("ab") as file:
                file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
                size = file.tell()
            if size == ref.size:
                part.replace(self._file(ref))
                sync_folder(self._path)

    def put(self, ref: BlobRef, data: bytes) -> None:
        """Store a blob that was made here; raises WireError for bytes that are not the ones it names.

        It gets its name when all of it is on the disk: whoever is killed in here leaves none.
        """
        if not is_blob(ref, data):
            raise WireError(f"these {len(data)} bytes are not blob {ref.hash.hex()[:12]}")
        write_file(self._file(ref), data)

    def remove(self, refs: Collection[BlobRef]) -> None:
        """Let go of blobs, as far as they are here."""
        for ref in refs:
            for path in (self._file(ref), self._part(ref)):
                with disk_errors(path):
                    path.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove what a `put` that was cut off has left, while nobody writes here."""
        sweep(self._path)

    def keep_only(self, refs: Collection[BlobRef]) -> None:
        """Remove every blob, whole or not, that is not in `refs`; a child may be writing one that is."""
        names = {blob_name(ref.hash) for ref in refs}
        for path in self._path.iterdir():
            if path.name.removeprefix(".").partition(".")[0] not in names:
                with suppress(OSError):  # whoever put a folder here: it is in nobody's way
                    path.unlink(missing_ok=True)

    def _file(self, ref: BlobRef) -> Path:
        return self._path / blob_name(ref.hash)

    def _part(self, ref: BlobRef) -> Path:
        return self._path / f"{blob_name(ref.hash)}.part"
