"""Features of samples, computed once: (model hash, sample id) -> one float32 row, on disk.

It is a cache, so it never fails: what is damaged, or cannot be read or written, is a feature to be
computed again.  `dropped` counts how often the whole file had to go.  A purge of samples deletes the
file; ids are never given twice, so a row that is there belongs to its sample.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeVar
from zlib import crc32

import numpy as np

from fedclient import storage
from fedclient.errors import FedClientError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

T = TypeVar("T")

DEFAULT_MAX_BYTES: Final = 256 * 1024 * 1024  # 50,000 rows of 1,280 features, the default store's worth
_DROPPED_AT_ONCE: Final = 64  # rows

_SCHEMA: Final = (
    """
    CREATE TABLE features(
        model BLOB NOT NULL, sample INTEGER NOT NULL, crc INTEGER NOT NULL, row BLOB NOT NULL,
        PRIMARY KEY (model, sample)
    );
    CREATE TABLE total(bytes INTEGER NOT NULL);
    INSERT INTO total VALUES (0);
    CREATE TRIGGER added AFTER INSERT ON features BEGIN
        UPDATE total SET bytes = bytes + length(new.row);
    END;
    CREATE TRIGGER gone AFTER DELETE ON features BEGIN
        UPDATE total SET bytes = bytes - length(old.row);
    END;
    """,
)


class FeatureCache:
    """Rows of float32 [D] in a database of its own; beyond `max_bytes` the oldest go."""

    def __init__(self, path: Path, *, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._database: storage.Database | None = None
        self.dropped = 0

    def get(self, model_hash: bytes, ids: Iterable[int]) -> dict[int, NDArray[np.float32]]:
        """Return the rows that are known, by sample id."""

        def read(database: storage.Database) -> dict[int, NDArray[np.float32]]:
            query = "SELECT crc, row FROM features WHERE model = ? AND sample = ?"
            found = ((sample, database.one(query, (model_hash, sample))) for sample in ids)
            return {
                sample: np.frombuffer(row[1], "<f4").astype(np.float32)
                for sample, row in found
                if row is not None and crc32(row[1]) == row[0]
            }

        return self._try(read) or {}

    def put(self, model_hash: bytes, rows: Mapping[int, NDArray[np.float32]]) -> None:
        """Keep rows; one that is there already is replaced."""
        stored = [(model_hash, sample, row.astype("<f4").tobytes()) for sample, row in rows.items()]

        def write(database: storage.Database) -> None:
            with database.transaction():
                database.executemany(
                    "DELETE FROM features WHERE model = ? AND sample = ?", (key for *key, _ in stored)
                )
                database.executemany(
                    "INSERT INTO features VALUES (?, ?, ?, ?)",
                    ((model, sample, crc32(data), data) for model, sample, data in stored),
                )
                while database.execute("SELECT bytes FROM total") > [(self._max_bytes,)]:
                    database.execute(
                        "DELETE FROM features WHERE rowid IN"
                        " (SELECT rowid FROM features ORDER BY rowid LIMIT ?)",
                        (_DROPPED_AT_ONCE,),
                    )

        self._try(write)

    def close(self) -> None:
        """Close the file; the next call opens it again."""
        if self._database:
            self._database.close()
        self._database = None

    def _try(self, call: Callable[[storage.Database], T]) -> T | None:
        """Call with the open database, or return None; a damaged one is deleted, and begun anew later."""
        try:
            if self._database is None:
                self._database = storage.Database.open(self._path, migrations=_SCHEMA)
            return call(self._database)
        except StorageError:
            self.close()
            self.dropped += 1
            with suppress(FedClientError):
                storage.remove_database(self._path)
        except FedClientError:  # full or busy: later, perhaps
            pass
        return None
