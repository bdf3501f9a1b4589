"""What rounding has kept from the current head, until the next version: `canonical.py` says what it is.

Part of the gateway's database (`store.py` has the table): one row, replaced in the commit of each version
made out of updates.  A new generation begins without.
"""

from __future__ import annotations

import hashlib
import logging

import numpy as np
from numpy.typing import NDArray

from fedclient.storage import Database
from fedclient.values import HeadVersion

log = logging.getLogger(__name__)


class Remainder:
    """The one remainder there is."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def put(self, version: HeadVersion, remainder: NDArray[np.float64]) -> None:
        """Keep the remainder [P] of a head; that of the one before is gone."""
        data = remainder.astype("<f8").tobytes()
        self._db.execute(
            "INSERT OR REPLACE INTO remainder VALUES (1, ?, ?, ?, ?)",
            (version.generation, version.version, data, hashlib.sha256(data).digest()),
        )

    def of(self, version: HeadVersion, size: int) -> NDArray[np.float64]:
        """Return the remainder [size] of a head; zeros where there is none.

        One that is damaged is none: what waited is lost, and no head is wrong for it.
        """
        where = (version.generation, version.version)
        row = self._db.one("SELECT data, hash FROM remainder WHERE generation = ? AND version = ?", where)
        if row is None:
            return np.zeros(size)
        data, digest = row
        if len(data) != 8 * size or hashlib.sha256(data).digest() != digest:
            log.error("head %s: what was left over from it is damaged, and left out", version)
            return np.zeros(size)
        return np.frombuffer(data, dtype="<f8").astype(np.float64)
