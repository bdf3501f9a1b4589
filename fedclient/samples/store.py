"""The sample store: an app appends while the agent sleeps, the trainer reads.

    store = SampleStore()
    store.append(features, label="walking")          # an ndarray, an array.array, a list of numbers
    row = store.append(image)                        # the label may come later
    store.set_label(row, 3)

One SQLite file, `samples/samples.db` in the state folder, writable by its group: any process of any
user in it may append at any time.  Ids only grow and are never used again.  The store is bounded by
rows and by bytes (of samples, not of the file); both bounds are kept inside it, so that all processes
obey the same ones; the oldest rows go first, in the transaction that needs the room, and are counted.

`epoch` says which samples ids speak of: a purge raises it and a store begun anew has another one, so
whatever was derived from samples (features, checkpoints, residual) is kept with the epoch it was
derived under, and is worthless under any other.
"""

from __future__ import annotations

import logging
import os
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import blake2b
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fedclient import storage
from fedclient.errors import DataError, StorageDamaged, StorageFull
from fedclient.samples import schema, selection
from fedclient.samples.array import Array, as_array
from fedclient.samples.label import Label, as_label, as_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from typing_extensions import Self

    from fedclient.samples.nodes import Columns, NodeRows, NodeStats

log = logging.getLogger(__name__)

FOLDER_MODE: Final = 0o2770  # DESIGN 7: what is made inside belongs to the group
FILE_MODE: Final = 0o660
MAX_SOURCE_BYTES: Final = 128
_NO_NODE: Final = (None, None, None)
_PURGED_ROWS: Final = 256  # in one transaction, which must stay short ...
_PURGED_BYTES: Final = 256 * 1024  # ... and must find room in the log on a full disk


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One row, as the trainer reads it."""

    id: int
    label: Label
    array: Array


@dataclass(frozen=True, kw_only=True, slots=True)
class Stats:
    """What the store holds, and what it has let go."""

    rows: int
    bytes: int
    labelled: int
    holdout: int  # rows kept from training: marked by the app, or by the share that the agent keeps
    distinct: int  # different contents among labelled rows that are not hold-out
    per_label: tuple[tuple[int | str, int], ...]  # rows with each label, hold-out included
    newest_id: int  # the highest id ever given, 0 before the first
    dropped: int  # by the bounds
    damaged: int  # rows whose bytes did not match their hash
    max_rows: int
    max_bytes: int


def database_path(state: Path | None = None) -> Path:
    """Return where the sample store of a state folder is; without one given, of the commands' own."""
    if state is None:
        from fedclient import config  # noqa: PLC0415 - who knows the folder starts sooner without

        state = config.load(None, os.environ).state
    return state / "samples" / "samples.db"


def features_path(database: Path) -> Path:
    """Return where features of the samples in `database` are cached."""
    return database.with_name("features.db")


class SampleStore:
    """Samples in one database; threads may share a store, processes open their own.

    `path` is the database file, by default `samples/samples.db` in the state folder by the rules of the
    commands.  A bound that is given is set for every process; one left out stays as it was.  So is
    `holdout`, the share of the rows kept from training beside those that an app marks: which rows these
    are follows from their ids alone.
    A database too damaged to open is set aside (`quarantined` says where) and a new one begun.
    """

    def __init__(
        self,
        path: Path | str | None = None,
        *,
        max_rows: int | None = None,
        max_bytes: int | None = None,
        holdout: float | None = None,
    ) -> None:
        self.path = Path(path) if path is not None else database_path()
        with storage.disk_errors(self.path.parent):
            if not self.path.parent.is_dir():
                storage.make_folder(self.path.parent, FOLDER_MODE)
        self._open(check=False)
        wanted = (max_rows, max_bytes, None if holdout is None else selection.threshold(holdout))
        if wanted != (None, None, None):
            try:
                self._bound(wanted)
            except StorageDamaged:  # the agent is who sets bounds, and who begins anew for all
                self.recheck()
                self._bound(wanted)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the database; closing twice is fine."""
        self._database.close()

    def recheck(self) -> Path | None:
        """After a StorageDamaged: read every page, begin a new database if they are bad; where the old is."""
        self.close()
        self._open(check=True)
        return self.quarantined

    def append(self, x: object, label: Label = None, *, source: str = "", holdout: bool = False) -> int:
        """Store one sample durably and return its id; a row marked `holdout` is never trained on.

        Raises: DataError for what is no sample or no label, StorageError, StorageFull, StorageBusy.
        """
        return self._insert([(as_array(x), as_label(label, "the label"))], source, holdout=holdout)[0]

    def append_many(
        self,
        xs: Iterable[object],
        labels: Iterable[Label] | None = None,
        *,
        source: str = "",
        holdout: bool = False,
    ) -> range:
        """Store samples in one transaction, all or none, and return their ids; raises as `append` does."""
        arrays = [as_array(x, f"sample {row}") for row, x in enumerate(xs)]
        known: list[Label] = [None] * len(arrays)
        if labels is not None:
            known = [as_label(label, f"label {row}") for row, label in enumerate(labels)]
        if len(arrays) != len(known):
            raise DataError(f"there are {len(arrays)} samples but {len(known)} labels; give one each")
        return self._insert(list(zip(arrays, known, strict=True)), source, holdout=holdout)

    def set_label(self, row: int, label: Label) -> None:
        """Label a row later, or again, or not any more (None); raises DataError when there is no such row."""
        with self._database.transaction():
            self._database.execute(
                "UPDATE samples SET label = ? WHERE id = ?", (as_label(label, "the label"), row)
            )
            if self._database.one("SELECT changes()") == (0,):
                raise DataError(
                    f"there is no sample {row}: it was never stored, or has been dropped or purged"
                )

    def purge(self, before_id: int | None = None, *, node: str | None = None) -> int:
        """Delete rows below `before_id`, of `node`, or all, and every cached feature; return how many.

        The rows' bytes are overwritten, in short transactions; a purge cut short is finished by the next.
        The epoch rises before, so that nobody keeps what was derived, and after, for who derived meanwhile.
        """
        with suppress(StorageFull):  # a purge makes room on a full disk if anything does
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._raise_epoch()
        self._database.execute("PRAGMA secure_delete = ON")
        below = self._newest() + 1 if before_id is None else before_id
        purged = 0
        while doomed := self._database.execute(
            "SELECT id, bytes FROM samples WHERE id < ? AND (? OR counter IS NOT NULL AND source = ?) "
            "ORDER BY id LIMIT ?",
            (below, node is None, node, _PURGED_ROWS),
        ):
            fit = sum(total <= _PURGED_BYTES for total in accumulate(size for _, size in doomed))
            with self._database.transaction():
                self._delete(doomed[: max(fit, 1)])
            self._database.execute("PRAGMA wal_checkpoint")
            purged += max(fit, 1)
        self._raise_epoch()
        self._database.shrink()
        return purged

    @property
    def epoch(self) -> int:
        """Which samples the ids speak of; compare for equality only."""
        return self._count("SELECT epoch FROM store")

    def __len__(self) -> int:
        return self._count("SELECT rows FROM store")

    def usable(
        self,
        limit: int,
        labels: Sequence[str] = (),
        *,
        shape: tuple[int, ...] | None = None,
        holdout: bool = False,
    ) -> list[int]:
        """Return at most `limit` ids of labelled rows, newest first: those to train on, or the hold-out.

        With `labels`: rows whose label is one of them or an index into them.  With `shape`: of that shape.
        """
        where, parameters = selection.usable(labels, holdout=holdout)
        if shape is not None:
            where, parameters = f"{where} AND shape = ?", (*parameters, _shape_text(shape))
        rows = self._database.execute(
            f"SELECT id FROM samples WHERE {where} ORDER BY id DESC LIMIT ?",  # noqa: S608  marks only
            (*parameters, limit),
        )
        return [row for (row,) in rows]

    def labelled(self, labels: Sequence[str] = ()) -> int:
        """Count the rows whose label is known, hold-out included."""
        where, parameters = selection.known(labels)
        return self._count(f"SELECT count(*) FROM samples WHERE {where}", parameters)  # noqa: S608

    def distinct(self, labels: Sequence[str] = ()) -> int:
        """Count different contents among the usable rows."""
        return self.new_since(0, labels)

    def new_since(self, row: int, labels: Sequence[str] = ()) -> int:
        """Count different contents among usable rows with an id above `row`.

        An id that this store has never given is from a store that was lost: then all rows are new.
        """
        where, parameters = selection.usable(labels)
        if 0 < row <= self._newest():
            where, parameters = f"{where} AND id > ?", (*parameters, row)
        return self._count(f"SELECT count(DISTINCT hash) FROM samples WHERE {where}", parameters)  # noqa: S608

    def read(self, ids: Iterable[int]) -> Iterator[Sample]:
        """Yield the rows with these ids, in this order, one in memory at a time.

        Ids that are gone are left out; so is a row whose bytes do not match its hash, which is deleted.
        """
        for row in ids:
            found = self._database.one(
                "SELECT label, hash, bytes, dtype, shape, data FROM samples WHERE id = ?", (row,)
            )
            if found is None:
                continue
            label, known, size, dtype, shape, data = found
            if _hash(dtype, shape, data) == known:
                array = Array(dtype=dtype, shape=tuple(map(int, shape.split(","))), data=data)
                yield Sample(id=row, label=label, array=array)
                continue
            log.warning("a damaged sample was deleted path=%s id=%d", self.path, row)
            with self._database.transaction():
                self._delete([(row, size)])
                self._database.execute("UPDATE store SET damaged = damaged + 1")

    @contextmanager
    def node_rows(self) -> Iterator[NodeRows]:
        """One transaction on what nodes sent."""
        from fedclient.samples.nodes import NodeRows  # noqa: PLC0415 - most devices have no nodes

        with self._database.transaction():
            yield NodeRows(self._database, self._put, self._delete)
            self._drop()

    def node_stats(self) -> dict[str, NodeStats]:
        """Count what nodes sent, by their names."""
        from fedclient.samples import nodes  # noqa: PLC0415 - see above

        return nodes.stats(self._database)

    def node_counts(self, what: str) -> dict[str, int]:
        """Return how often this was counted of each node."""
        from fedclient.samples import nodes  # noqa: PLC0415 - see above

        return nodes.counted(self._database, what)

    def node_kinds(self) -> list[tuple[str, int, Label, int]]:
        """Return node, number of values, label, and how many of its samples are such."""
        from fedclient.samples import nodes  # noqa: PLC0415 - see above

        return nodes.kinds(self._database)

    def of_node(self, node: str) -> set[int]:
        """Return the ids of a node's samples."""
        from fedclient.samples import nodes  # noqa: PLC0415 - see above

        return nodes.ids(self._database, node)

    def stats(self) -> Stats:
        """Count everything; this reads the whole table, so not every minute."""
        names = "rows", "bytes", "dropped", "damaged", "max_rows", "max_bytes"
        ((*values,),) = self._database.execute(f"SELECT {', '.join(names)} FROM store")  # noqa: S608
        labels = self._database.execute(
            "SELECT label, count(*) FROM samples WHERE label IS NOT NULL GROUP BY label ORDER BY label"
        )
        return Stats(
            **dict(zip(names, values, strict=True)),
            labelled=sum(count for _, count in labels),
            holdout=self._count(f"SELECT count(*) FROM samples WHERE {selection.HELD_OUT}"),  # noqa: S608
            distinct=self.distinct(),
            per_label=tuple((label, count) for label, count in labels),
            newest_id=self._newest(),
        )

    def _open(self, *, check: bool) -> None:
        self._database, self.quarantined = storage.Database.open_or_quarantine(
            self.path, migrations=schema.MIGRATIONS, mode=FILE_MODE, check=check
        )
        if self.quarantined:
            storage.remove_database(features_path(self.path))  # the new store's ids start at 1 again
            log.error("damaged database moved aside path=%s; a new one was begun", self.quarantined)

    def _bound(self, wanted: tuple[int | None, int | None, int | None]) -> None:
        known = self._database.one("SELECT max_rows, max_bytes, held_out FROM store")
        if any(new not in {None, old} for new, old in zip(wanted, known or (), strict=True)):
            with self._database.transaction():
                self._database.execute(
                    "UPDATE store SET max_rows = coalesce(?, max_rows), max_bytes = coalesce(?, max_bytes),"
                    " held_out = coalesce(?, held_out)",
                    wanted,
                )
                self._drop()

    def _insert(self, rows: Sequence[tuple[Array, Label]], source: str, *, holdout: bool) -> range:
        source, now = as_text(source, "the source", MAX_SOURCE_BYTES), int(time.time())
        with self._database.transaction():
            bound = self._count("SELECT max_bytes FROM store")
            if any(len(array.data) > bound for array, _ in rows):
                raise DataError(
                    f"a sample is larger than the whole store may be ({bound} bytes); raise that bound"
                )
            self._put([(source, array, label, _NO_NODE) for array, label in rows], (holdout, now))
            newest = self._newest()
            self._drop()
        return range(newest - len(rows) + 1, newest + 1)

    def _put(self, rows: Sequence[Columns], about: tuple[bool, int]) -> None:
        """Insert rows, each with a node's columns; `about` is their hold-out mark and time."""
        self._database.executemany(
            "INSERT INTO samples(holdout, created_unix_s, source, label, hash, bytes, dtype, shape, data,"
            " generation, counter, label_counter) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            ((*about, *_columns(*one)) for one in rows),
        )
        self._database.execute(
            "UPDATE store SET rows = rows + ?, bytes = bytes + ?",
            (len(rows), sum(len(array.data) for _, array, _, _ in rows)),
        )

    def _drop(self) -> None:
        """Delete the oldest rows until both bounds hold."""
        while self._count("SELECT rows > max_rows OR bytes > max_bytes FROM store"):
            self._delete(self._database.execute("SELECT id, bytes FROM samples ORDER BY id LIMIT 1"))
            self._database.execute("UPDATE store SET dropped = dropped + 1")

    def _delete(self, rows: Sequence[tuple[int, int]]) -> None:
        """Delete rows, given as (id, bytes)."""
        self._database.executemany("DELETE FROM samples WHERE id = ?", ((row,) for row, _ in rows))
        self._database.execute(
            "UPDATE store SET rows = rows - ?, bytes = bytes - ?", (len(rows), sum(size for _, size in rows))
        )

    def _raise_epoch(self) -> None:
        with self._database.transaction():
            self._database.execute("UPDATE store SET epoch = epoch + 1")
        storage.remove_database(features_path(self.path))

    def _newest(self) -> int:
        return self._count("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'samples'")

    def _count(self, sql: str, parameters: Sequence[object] = ()) -> int:
        return int(self._database.execute(sql, parameters)[0][0])


def _columns(by: str, a: Array, label: Label, node: tuple[int | None, ...]) -> tuple[object, ...]:
    shape = _shape_text(a.shape)
    return (by, label, _hash(a.dtype, shape, a.data), len(a.data), a.dtype, shape, a.data, *node)


def _shape_text(shape: tuple[int, ...]) -> str:
    return ",".join(map(str, shape))


def _hash(dtype: str, shape: str, data: bytes) -> bytes:
    return blake2b(f"{dtype} {shape} ".encode() + data, digest_size=16).digest()
