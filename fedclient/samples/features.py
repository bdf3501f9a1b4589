"""Features of samples, computed once: (model hash, sample id) -> one float32 row, on disk.

It is a cache, so it never fails: what is damaged, or cannot be read or written, is a feature to be
computed again.  `dropped` counts how often the whole file had to go.  What a put has returned from
survives kill -9 and a power cut; one that was cut off left nothing.

The model hash is of the file with the backbone, not of the head: a new head costs nothing here.  Ids are
never given twice, so a row that is there belongs to its sample.  A purge of samples deletes the file;
who computes meanwhile says by `is_current` that his samples are still there, and what he put since goes.
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
_ASKED_AT_ONCE: Final = 256  # ids in one query: a query for each would cost more than the rows

_KNOWN: Final = "SELECT sample, crc, row FROM features WHERE model = ? AND sample IN ({})"
_OF_OTHERS: Final = "SELECT rowid, sample FROM features WHERE model < ?1 OR model > ?1 LIMIT ?2"  # by index
_OLDEST: Final = "SELECT rowid, sample FROM features WHERE model = ? ORDER BY sample LIMIT ?"
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
    """Rows of float32 [D] in a database of its own, at most `max_bytes` of them.

    When room is needed, rows of other models go first: a device has one model at a time.  Then those
    of the oldest samples go, or are not kept in the first place: a job takes the newest, in this order.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int = DEFAULT_MAX_BYTES,
        is_current: Callable[[], bool] = lambda: True,
    ) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._is_current = is_current
        self._database: storage.Database | None = None
        self.dropped = 0

    def get(self, model_hash: bytes, ids: Iterable[int]) -> dict[int, NDArray[np.float32]]:
        """Return the rows that are known, by sample id, in the order of `ids`."""
        wanted = list(ids)

        def read(database: storage.Database) -> dict[int, NDArray[np.float32]]:
            rows: dict[int, NDArray[np.float32]] = {}
            for start in range(0, len(wanted), _ASKED_AT_ONCE):
                part = wanted[start : start + _ASKED_AT_ONCE]
                found = database.execute(_KNOWN.format(", ".join("?" * len(part))), (model_hash, *part))
                sound = {sample: data for sample, crc, data in found if _is_sound(data, crc)}
                rows |= {one: _floats(sound[one]) for one in part if one in sound}
            return rows

        return self._try(read) or {}

    def put(self, model_hash: bytes, rows: Mapping[int, NDArray[np.float32]]) -> None:
        """Keep rows; one that is there already is replaced."""
        stored = {sample: row.astype("<f4").tobytes() for sample, row in rows.items()}

        def write(database: storage.Database) -> None:
            with database.transaction():
                database.executemany(
                    "DELETE FROM features WHERE model = ? AND sample = ?",
                    ((model_hash, sample) for sample in stored),
                )
                kept = self._room_for(database, model_hash, stored)
                database.executemany(
                    "INSERT INTO features VALUES (?, ?, ?, ?)",
                    ((model_hash, sample, crc32(stored[sample]), stored[sample]) for sample in kept),
                )

        self._try(write)
        if not self._is_current():
            self.clear()

    def clear(self) -> None:
        """Delete the file; the next call begins another one."""
        self.close()
        with suppress(FedClientError):
            storage.remove_database(self._path)

    def close(self) -> None:
        """Close the file; the next call opens it again."""
        if self._database:
            self._database.close()
        self._database = None

    def _room_for(self, database: storage.Database, model_hash: bytes, new: Mapping[int, bytes]) -> list[int]:
        """Delete what is worth less than `new`, until that fits; return the samples of it that do."""
        kept = sorted(new, reverse=True)

        def is_short() -> bool:
            ((held,),) = database.execute("SELECT bytes FROM total")
            return bool(held + sum(len(new[sample]) for sample in kept) > self._max_bytes)

        while is_short() and (least := database.execute(_OF_OTHERS, (model_hash, _DROPPED_AT_ONCE))):
            _delete(database, least)
        while kept and is_short():
            least = database.execute(_OLDEST, (model_hash, _DROPPED_AT_ONCE))
            if least and least[0][1] < kept[-1]:
                _delete(database, least)
            else:
                kept.pop()
        return kept

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


def _is_sound(data: object, crc: object) -> bool:
    return isinstance(data, bytes) and crc32(data) == crc  # damage may turn any type into another


def _floats(data: bytes) -> NDArray[np.float32]:
    return np.frombuffer(data, "<f4").astype(np.float32)


def _delete(database: storage.Database, rows: list[tuple[int, int]]) -> None:
    database.executemany("DELETE FROM features WHERE rowid = ?", ((row,) for row, _ in rows))
