"""The two slots of `current/`: the head that apps predict with, and the one before it.

Each slot is a small JSON file that names a model file and a head file with their hashes;
it is replaced by rename, so a reader sees the old slot or the new one, whole.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fedclient import limits
from fedclient.errors import NoModelYet, StorageDamaged, StorageError
from fedclient.storage import disk_errors, read_file, sweep, write_file
from fedclient.values import HeadVersion, Manifest
from fedclient.wire.topics import blob_name

_FILE_MODE = 0o660
_SLOT_MAX_BYTES = 1024 * 1024  # labels are most of it
_ACTIVE, _PREVIOUS = "current.json", "previous.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Slot:
    """A model with one head, as an app loads it."""

    version: HeadVersion
    labels: tuple[str, ...]
    model_file: str
    model_sha256: str
    head_file: str
    head_sha256: str


class Slots:
    """The folder `current/`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def active(self) -> Slot | None:
        """Return the slot in use, or None before the first head."""
        return self._load(_ACTIVE)

    def is_active(self, manifest: Manifest, head: bytes | None = None) -> bool:
        """Whether this version is in use, with both of its files; and, where `head` is given, these bytes."""
        slot = self.active()
        if slot is None or slot.version != manifest.head_version:
            return False
        same = slot.head_file.startswith(blob_name(manifest.head.hash))
        if head is not None:
            same = same and slot.head_sha256 == hashlib.sha256(head).hexdigest()
        return same and all((self._path / name).exists() for name in (slot.model_file, slot.head_file))

    def adopt(self, manifest: Manifest, model: bytes, head: bytes) -> None:
        """Make `head` the active one; the one that was active becomes the previous one.

        Its file is named by its own bytes as well: this device's personal layer may be in it.
        """
        head_sha256 = hashlib.sha256(head).hexdigest()
        slot = Slot(
            version=manifest.head_version,
            labels=manifest.labels,
            model_file=model_file(manifest),
            model_sha256=hashlib.sha256(model).hexdigest(),
            head_file=f"{blob_name(manifest.head.hash)}-{head_sha256[:16]}.head",
            head_sha256=head_sha256,
        )
        before = self.active()
        for name, data in ((slot.model_file, model), (slot.head_file, head)):
            if not self._holds(name, data):
                write_file(self._path / name, data, mode=_FILE_MODE)
        if before is not None and before.version != slot.version:
            self._keep_active_as_previous()
        self._save(_ACTIVE, slot)
        self._clean()

    def fall_back(self, bad: HeadVersion) -> Slot | None:
        """Go back to the previous slot if `bad` is active; return the slot that is active now."""
        active, previous = self.active(), self._load(_PREVIOUS)
        if active is not None and active.version == bad and previous is not None:
            self._save(_ACTIVE, previous)
            return previous
        return active

    def forget_previous(self) -> None:
        """Let go of the head before the active one, whatever is in it."""
        with disk_errors(self._path):
            (self._path / _PREVIOUS).unlink(missing_ok=True)
        self._clean()

    def read(self) -> tuple[Slot, bytes, bytes]:
        """Return the active slot with the bytes of its model and head.

        Where they are damaged the previous slot serves.  Raises NoModelYet before the
        first head, StorageError when neither slot can be read.
        """
        problem: StorageError | None = None
        for name in (_ACTIVE, _PREVIOUS):
            slot = self._load(name)
            if slot is None:
                if (self._path / name).exists():
                    problem = problem or StorageDamaged(f"{self._path / name} is not what was written")
                continue
            try:
                model = self._checked(slot.model_file, slot.model_sha256)
                return slot, model, self._checked(slot.head_file, slot.head_sha256)
            except StorageError as error:
                problem = problem or error
        if problem is not None:
            raise problem
        raise NoModelYet(
            f"no head is in use in {self._path} yet: is the agent enrolled and running, and has it adopted "
            "one? fedclient status says"
        )

    def _holds(self, name: str, data: bytes) -> bool:
        """Whether a file is here with these bytes: one that was damaged is written anew."""
        try:
            return read_file(self._path / name, len(data)) == data
        except StorageError:
            return False

    def _checked(self, name: str, sha256: str) -> bytes:
        data = read_file(self._path / name, limits.MAX_MODEL_BYTES)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise StorageDamaged(f"{self._path / name} is not what was written")
        return data

    def _load(self, name: str) -> Slot | None:
        path = self._path / name
        try:
            with disk_errors(path):
                path.stat()
        except StorageError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return None
            raise
        try:
            fields = json.loads(read_file(path, _SLOT_MAX_BYTES))
            version = HeadVersion(*fields.pop("version"))
            labels = tuple(fields.pop("labels"))
            slot = Slot(version=version, labels=labels, **{key: str(value) for key, value in fields.items()})
            return slot if "/" not in slot.model_file + slot.head_file else None
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None  # damaged: as good as absent, the other slot serves

    def _save(self, name: str, slot: Slot) -> None:
        fields = {
            "version": [slot.version.generation, slot.version.version],
            "labels": slot.labels,
            "model_file": slot.model_file,
            "model_sha256": slot.model_sha256,
            "head_file": slot.head_file,
            "head_sha256": slot.head_sha256,
        }
        write_file(self._path / name, json.dumps(fields, indent=1).encode(), mode=_FILE_MODE)

    def _keep_active_as_previous(self) -> None:
        """Give the active slot's file a second name: nothing is written, and the save that follows syncs."""
        temporary = self._path / f".{_PREVIOUS}.{os.urandom(6).hex()}.tmp"
        with disk_errors(temporary):
            os.link(self._path / _ACTIVE, temporary)
            temporary.replace(self._path / _PREVIOUS)

    def _clean(self) -> None:
        slots = [slot for slot in (self._load(_ACTIVE), self._load(_PREVIOUS)) if slot is not None]
        needed = {slot.model_file for slot in slots} | {slot.head_file for slot in slots}
        for path in self._path.iterdir():
            if path.suffix in {".tflite", ".head"} and path.name not in needed:
                with suppress(OSError):  # whoever put a folder here: it is in nobody's way
                    path.unlink(missing_ok=True)
        sweep(self._path)  # a power cut while a model was written may have left all of it


def model_file(manifest: Manifest) -> str:
    """Return what the file of a manifest's model is called in `current/`."""
    return f"{blob_name(manifest.model.hash)}.tflite"
