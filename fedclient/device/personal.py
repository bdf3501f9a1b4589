"""The personal layer: tensors named `personal/...`, which are trained on this device and never sent.

What leaves a device has zeros in their place (`training/delta.py`).  Their values stand in the device
database, saved in the transaction that hands an update over, and are put over every head that the
gateway publishes: before a job, before a head is judged, before an app gets it.  They belong to (model,
samples, shape): under another one, or where they are damaged, the layer begins anew with what the
head itself has there, which is how the model begins.  Without NumPy: the agent and apps use this.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass

from fedclient.storage import Database
from fedclient.values import Manifest, TensorSpec, parameters

log = logging.getLogger(__name__)

_ITEM = 4  # bytes of a float32


@dataclass(frozen=True, kw_only=True, slots=True)
class PersonalKey:
    """Which layer it is: of one model, trained on one set of samples."""

    model_hash: bytes
    samples_epoch: int  # a purge of the samples begins another one
    shape: str

    @classmethod
    def of(cls, manifest: Manifest, samples_epoch: int) -> PersonalKey:
        layer = (tensor for tensor in manifest.tensors if tensor.is_personal)
        return cls(
            model_hash=manifest.model.hash,
            samples_epoch=samples_epoch,
            shape=";".join(f"{tensor.name}{list(tensor.shape)}" for tensor in layer),
        )


class PersonalLayer:
    """Typed access to the table `personal`; transactions are the caller's."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def load(self, key: PersonalKey) -> bytes | None:
        """Return the layer's tensors, flat float32, or None where it has none or begins anew."""
        row = self._database.one(
            "SELECT model_hash, samples_epoch, shape, data, hash FROM personal WHERE id = 1"
        )
        if row is None or not key.shape:
            return None
        data = bytes(row[3])
        ours = row[:3] == (key.model_hash, key.samples_epoch, key.shape)
        if ours and hashlib.sha256(data).digest() == row[4]:
            return data
        log.warning(
            "personal layer begun anew: what is stored %s",
            "is damaged" if ours else "belongs to another model or to samples that were purged",
        )
        return None

    def over(self, head: bytes, manifest: Manifest, samples_epoch: int) -> bytes:
        """Return the flat float32 `head` of `manifest` as this device has it: with its own layer, if any."""
        layer = self.load(PersonalKey.of(manifest, samples_epoch))
        return head if layer is None else overlay(head, manifest.tensors, layer)

    def save(self, key: PersonalKey, data: bytes) -> None:
        """Keep the layer of a trained head; for a head without one there is nothing to keep."""
        if not key.shape:
            return
        self._database.execute(
            "INSERT OR REPLACE INTO personal VALUES (1, ?, ?, ?, ?, ?)",
            (key.model_hash, key.samples_epoch, key.shape, data, hashlib.sha256(data).digest()),
        )

    def reset(self) -> None:
        self._database.execute("DELETE FROM personal")


def overlay(head: bytes, tensors: tuple[TensorSpec, ...], personal: bytes) -> bytes:
    """Return the flat float32 `head` with `personal` in the place of its personal tensors."""
    _check(len(head), parameters(tensors), "head")
    _check(len(personal), sum(tensor.size for tensor in tensors if tensor.is_personal), "personal layer")
    parts: list[bytes] = []
    at = taken = 0
    for tensor in tensors:
        size = _ITEM * tensor.size
        parts.append(personal[taken : taken + size] if tensor.is_personal else head[at : at + size])
        taken += size if tensor.is_personal else 0
        at += size
    return b"".join(parts)


def extract(head: bytes, tensors: tuple[TensorSpec, ...]) -> bytes:
    """Return the personal tensors of the flat float32 `head`, one after the other: b"" for none."""
    _check(len(head), parameters(tensors), "head")
    parts: list[bytes] = []
    at = 0
    for tensor in tensors:
        size = _ITEM * tensor.size
        if tensor.is_personal:
            parts.append(head[at : at + size])
        at += size
    return b"".join(parts)


def _check(size: int, elements: int, what: str) -> None:
    if size != _ITEM * elements:
        raise ValueError(f"the {what} has {size} bytes, not {_ITEM} for each of {elements} elements")
