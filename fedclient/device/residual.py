"""The error-feedback residual: what was left out of earlier deltas, kept for the next one.

It belongs to (model, generation, samples, shape of the head): another one resets it (PROTOCOL 5.4).
What it is, and why it must not be lost: Karimireddy et al. 2019, "Error Feedback Fixes
SignSGD and other Gradient Compression Schemes".
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass

from fedclient.storage import Database
from fedclient.values import Manifest

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class ResidualKey:
    """Which head a residual belongs to."""

    model_hash: bytes
    generation: int
    samples_epoch: int  # a purge of the samples begins another one
    shape: str

    @classmethod
    def of(cls, manifest: Manifest, samples_epoch: int) -> ResidualKey:
        shape = ";".join(f"{tensor.name}{list(tensor.shape)}" for tensor in manifest.tensors)
        return cls(
            model_hash=manifest.model.hash,
            generation=manifest.head_version.generation,
            samples_epoch=samples_epoch,
            shape=shape,
        )


class Residual:
    """Typed access to the table `residual`; transactions are the caller's."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def load(self, key: ResidualKey) -> bytes | None:
        """Return the stored residual, flat float32, or None when there is none for this head."""
        row = self._database.one(
            "SELECT model_hash, generation, samples_epoch, shape, data, hash FROM residual WHERE id = 1"
        )
        if row is None:
            return None
        data = bytes(row[4])
        ours = row[:4] == (key.model_hash, key.generation, key.samples_epoch, key.shape)
        if ours and hashlib.sha256(data).digest() == row[5]:
            return data
        log.warning(
            "residual reset: it %s",
            "is damaged" if ours else "belongs to another model, generation or samples",
        )
        return None

    def save(self, key: ResidualKey, data: bytes) -> None:
        self._database.execute(
            "INSERT OR REPLACE INTO residual VALUES (1, ?, ?, ?, ?, ?, ?)",
            (
                key.model_hash,
                key.generation,
                key.samples_epoch,
                key.shape,
                data,
                hashlib.sha256(data).digest(),
            ),
        )

    def reset(self) -> None:
        self._database.execute("DELETE FROM residual")
