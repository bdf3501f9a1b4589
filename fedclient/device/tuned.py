"""The tuned head: a copy of the adopted one, trained further on this device, for its app alone.

`[adoption] personal = "finetune"` makes one after a job (`trainer/tuning.py`).  It is one file of
`current/`, replaced by rename: a line of JSON that says which adopted head it takes the place of and how
both did on the device's hold-out, then the head, flat float32.  It counts only while exactly that head is
the active one; in any other case, and where it is damaged, apps get the adopted head as ever.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path

from fedclient import limits
from fedclient.device.slots import Slot
from fedclient.errors import StorageError
from fedclient.storage import disk_errors, read_file, write_file
from fedclient.values import HeadVersion

log = logging.getLogger(__name__)

_NAME = "personal"
_FILE_MODE = 0o660
_HEADER_MAX_BYTES = 1024  # it has about 300
_WRITES = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuned:
    """What is known of a tuned head; accuracies are on `holdout` samples that neither was trained on."""

    generation: int
    version: int
    adopted_sha256: str  # of the adopted head, byte for byte
    head_sha256: str
    samples_epoch: int
    holdout: int
    accuracy: float
    adopted_accuracy: float

    def stands_for(self, slot: Slot) -> bool:
        """Whether it was tuned beside this very head."""
        same = HeadVersion(self.generation, self.version) == slot.version
        return same and self.adopted_sha256 == slot.head_sha256


class TunedHead:
    """The tuned head's file in the folder `current/`."""

    def __init__(self, current: Path) -> None:
        self._path = current / _NAME

    def stored(self) -> Tuned | None:
        """Return what is known of the copy that is here, for whichever head; None without a sound one."""
        if not self._is_here():
            return None
        try:
            with disk_errors(self._path), self._path.open("rb") as file:
                return _parse(file.readline(_HEADER_MAX_BYTES))
        except StorageError as error:  # it went this moment, or it cannot be read: the adopted head can
            log.warning("%s", error)
            return None

    def beside(self, slot: Slot) -> Tuned | None:
        """Return what is known of the copy that stands for `slot`, or None; its bytes are not read."""
        tuned = self.stored()
        return tuned if tuned is not None and tuned.stands_for(slot) else None

    def read(self, slot: Slot) -> tuple[Tuned, bytes] | None:
        """Return the copy that stands for `slot` with its bytes, or None where the adopted head serves."""
        if self.beside(slot) is None:
            return None
        try:
            data = read_file(self._path, _HEADER_MAX_BYTES + 4 * limits.MAX_HEAD_PARAMETERS)
        except StorageError as error:
            log.warning("%s", error)
            return None
        line, _, head = data.partition(b"\n")
        tuned = _parse(line)  # both of one file: another may have taken its place by now
        if tuned is None or not tuned.stands_for(slot):
            return None
        if hashlib.sha256(head).hexdigest() != tuned.head_sha256:
            log.warning("%s is not what was written: the adopted head serves", self._path)
            return None
        return tuned, head

    def save(self, tuned: Tuned, head: bytes) -> None:
        """Put a copy in the place of the one before.

        The agent sweeps this folder when it adopts a head, and may take what is being written for what
        an interrupted write has left: then it is written again.
        """
        data = json.dumps(asdict(tuned)).encode() + b"\n" + head
        for left in reversed(range(_WRITES)):
            try:
                write_file(self._path, data, mode=_FILE_MODE)
            except StorageError as error:
                if not (left and isinstance(error.__cause__, FileNotFoundError)):
                    raise
            else:
                return

    def remove(self) -> None:
        """Let apps have adopted heads again."""
        with disk_errors(self._path):
            self._path.unlink(missing_ok=True)

    def _is_here(self) -> bool:
        with disk_errors(self._path):
            return self._path.exists() and not self._path.is_fifo()  # nobody waits for a pipe


def _parse(line: bytes) -> Tuned | None:
    try:
        tuned = Tuned(**json.loads(line))
    except (ValueError, TypeError, RecursionError):
        return None
    kinds = {name: type(value) for name, value in asdict(tuned).items()}
    wanted = {"adopted_sha256": str, "head_sha256": str, "accuracy": float, "adopted_accuracy": float}
    return tuned if all(kind is wanted.get(name, int) for name, kind in kinds.items()) else None
