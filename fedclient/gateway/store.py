"""What a gateway remembers: one SQLite database, and nothing that it could not lose beside it.

    gateway     one row: federation, broker, highest head version ever seen on the broker or at a device
    head        (generation, version) -> hashes, signed manifest bytes, what the round cost; for ever
    blob        models, heads, and what leads to these, by content; immutable
    remainder   one row: what rounding has kept from the current head (`remainder.py`)
    device      the roster; never shrinks
    receipt     every stored receipt by (device, envelope hash); for ever (docs/adr/0006)
    counted     every counted update, for ever; its body until the head it went into is published
    invitation  tokens, hashed
    command     the newest command of each device that was ever sent one
    status, alarm, retained

Methods that write expect to be inside `transaction()`, so that the caller says what is one commit.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from fedclient.errors import AlreadyRunning, StorageError
from fedclient.gateway.commands import Commands
from fedclient.gateway.remainder import Remainder
from fedclient.gateway.roster import Roster, Standing
from fedclient.gateway.verdicts import Verdicts
from fedclient.storage import Database, disk_errors
from fedclient.values import NO_HEAD, Base, Broker, HeadVersion

DATABASE_NAME = "gateway.db"
_CACHE_KIB = 8192  # a gateway is no small board: indexes of many receipts stay in memory
_MIGRATIONS = (
    """
    CREATE TABLE gateway (
        one INTEGER PRIMARY KEY CHECK (one = 1), federation TEXT NOT NULL,
        host TEXT NOT NULL, port INTEGER NOT NULL, tls INTEGER NOT NULL,
        seen_generation INTEGER NOT NULL DEFAULT 0, seen_version INTEGER NOT NULL DEFAULT 0);
    CREATE TABLE blob (hash BLOB PRIMARY KEY, data BLOB NOT NULL);
    CREATE TABLE head (
        generation INTEGER NOT NULL, version INTEGER NOT NULL, model BLOB NOT NULL REFERENCES blob,
        head BLOB NOT NULL REFERENCES blob, plan_hash BLOB NOT NULL, manifest BLOB NOT NULL,
        counted INTEGER, accuracy REAL, bytes_up INTEGER, bytes_down INTEGER, seconds REAL,
        closed_unix_s INTEGER, PRIMARY KEY (generation, version)) WITHOUT ROWID;
    CREATE TABLE device (
        id TEXT PRIMARY KEY, public_key BLOB NOT NULL, standing TEXT NOT NULL,
        conflicts INTEGER NOT NULL DEFAULT 0, last_counter INTEGER NOT NULL DEFAULT 0,
        enrolled_unix_s INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE receipt (
        device TEXT NOT NULL, envelope_hash BLOB NOT NULL, counter INTEGER NOT NULL,
        receipt BLOB NOT NULL, PRIMARY KEY (device, envelope_hash)) WITHOUT ROWID;
    CREATE TABLE counted (
        row INTEGER PRIMARY KEY, device TEXT NOT NULL, generation INTEGER NOT NULL,
        version INTEGER NOT NULL, counter INTEGER NOT NULL, weight REAL NOT NULL,
        wire_bytes INTEGER NOT NULL, body BLOB, went_into INTEGER,
        UNIQUE (device, generation, version));
    CREATE INDEX counted_open ON counted (row) WHERE went_into IS NULL;
    CREATE INDEX counted_body ON counted (went_into) WHERE body IS NOT NULL;
    CREATE TABLE invitation (
        token_hash BLOB PRIMARY KEY, expires_unix_s INTEGER NOT NULL, used_by TEXT) WITHOUT ROWID;
    CREATE TABLE status (
        device TEXT PRIMARY KEY, start INTEGER NOT NULL, sequence INTEGER NOT NULL, phase TEXT NOT NULL,
        closed_gates TEXT NOT NULL, software TEXT NOT NULL, unix_s INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE alarm (
        row INTEGER PRIMARY KEY, unix_s INTEGER NOT NULL, device TEXT, sentence TEXT NOT NULL);
    CREATE TABLE retained (topic TEXT PRIMARY KEY) WITHOUT ROWID;
    """,
    """
    CREATE TABLE command (
        device TEXT PRIMARY KEY, sequence INTEGER NOT NULL, kind INTEGER NOT NULL,
        seconds INTEGER NOT NULL, unix_s INTEGER NOT NULL) WITHOUT ROWID;
    CREATE INDEX command_newest ON command (sequence);
    """,
    """
    ALTER TABLE counted ADD COLUMN epochs INTEGER;
    ALTER TABLE head ADD COLUMN epochs REAL;
    ALTER TABLE head ADD COLUMN doubted INTEGER;
    CREATE TABLE judgement (
        device TEXT NOT NULL, version INTEGER NOT NULL, generation INTEGER NOT NULL,
        verdict INTEGER NOT NULL, PRIMARY KEY (device, version)) WITHOUT ROWID;
    CREATE INDEX judgement_verdict ON judgement (version, verdict);
    """,
    """
    CREATE TABLE remainder (
        one INTEGER PRIMARY KEY CHECK (one = 1), generation INTEGER NOT NULL, version INTEGER NOT NULL,
        data BLOB NOT NULL, hash BLOB NOT NULL);
    ALTER TABLE head ADD COLUMN full_bytes INTEGER;
    ALTER TABLE head ADD COLUMN delta_bytes INTEGER;
    """,
)
# `went_into` of an update whose device was revoked, or whose generation ended, before its version closed.
_LEFT_OUT = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class CountedUpdate:
    """An update that waits for its version to close."""

    device: str
    base: HeadVersion
    counter: int
    weight: float
    wire_bytes: int
    body: bytes
    epochs: int | None = None  # None: all of the plan's


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """What it took to make a head version out of updates."""

    counted: int
    accuracy: float | None  # on held-out data, 0 to 1
    bytes_up: int
    bytes_down: int
    seconds: float
    closed_unix_s: int
    epochs: float | None = None  # mean over the updates; None where all did the plan's
    full_bytes: int | None = None  # of the encoded head; None: made before heads were encoded
    delta_bytes: int | None = None  # from the head before; None: there is no such delta


_ROUND = tuple(field.name for field in fields(Round))  # columns of head


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """A head version as it was signed."""

    head_version: HeadVersion
    model_hash: bytes
    base: Base
    signed: bytes  # the manifest, byte for byte as it was first published


class Store:
    """The database behind a gateway and its commands; several processes may have it open."""

    def __init__(self, folder: Path) -> None:
        """Open the database of `folder`, or make it; raises StorageError and its kinds."""
        self._db = Database.open(folder / DATABASE_NAME, migrations=_MIGRATIONS)
        self._db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        self._bases: dict[HeadVersion, Base] = {}
        self.roster = Roster(self._db)
        self.commands = Commands(self._db)
        self.verdicts = Verdicts(self._db)
        self.remainder = Remainder(self._db)

    def transaction(self) -> AbstractContextManager[None]:
        """One commit; see Database.transaction."""
        return self._db.transaction()

    def close(self) -> None:
        self._db.close()

    # --- the gateway itself ------------------------------------------------------------------------
    def found(self, federation: str, broker: Broker) -> None:
        """Begin a federation; raises StorageError where there is one."""
        if self._db.one("SELECT 1 FROM gateway"):
            raise StorageError("this state folder has a federation already: take another folder")
        row = (federation, broker.host, broker.port, broker.tls)
        self._db.execute("INSERT INTO gateway (one, federation, host, port, tls) VALUES (1, ?, ?, ?, ?)", row)

    def federation(self) -> tuple[str, Broker]:
        """Name and broker; raises StorageError before `found`."""
        row = self._db.one("SELECT federation, host, port, tls FROM gateway")
        if row is None:
            raise StorageError("no federation has been set up here: run `fedclient gateway init` first")
        return row[0], Broker(host=row[1], port=row[2], tls=bool(row[3]))

    def seen(self) -> HeadVersion:
        """Highest head version signed by us that was seen outside this database."""
        row = self._db.one("SELECT seen_generation, seen_version FROM gateway")
        return HeadVersion(*row) if row else NO_HEAD

    def note_seen(self, version: HeadVersion) -> None:
        self._db.execute(
            "UPDATE gateway SET seen_generation = ?, seen_version = ?", (version.generation, version.version)
        )

    def alarm(self, unix_s: float, device: str | None, sentence: str) -> None:
        self._db.execute(
            "INSERT INTO alarm (unix_s, device, sentence) VALUES (?, ?, ?)", (int(unix_s), device, sentence)
        )

    def alarms(self) -> list[tuple[int, str | None, str]]:
        return [
            (*row,) for row in self._db.execute("SELECT unix_s, device, sentence FROM alarm ORDER BY row")
        ]

    # --- heads -------------------------------------------------------------------------------------
    def current(self) -> HeadVersion:
        """Return the current head version; (0, 0) before the first."""
        row = self._db.one(
            "SELECT generation, version FROM head ORDER BY generation DESC, version DESC LIMIT 1"
        )
        return HeadVersion(*row) if row else NO_HEAD

    def releases(self, newest: int) -> list[Release]:
        """Return the `newest` releases, newest first."""
        order = "ORDER BY generation DESC, version DESC LIMIT ?"
        return [_release(row) for row in self._db.execute(f"{_RELEASE} {order}", (newest,))]

    def release_of_version(self, version: int) -> Release | None:
        """Return the release with this version number, whatever its generation."""
        row = self._db.one(f"{_RELEASE} WHERE version = ?", (version,))
        return _release(row) if row else None

    def base(self, version: HeadVersion) -> Base | None:
        """Return what an update on `version` is bound to, or None when it was never published here."""
        if version not in self._bases:
            row = self._db.one(
                "SELECT head, plan_hash FROM head WHERE generation = ? AND version = ?",
                (version.generation, version.version),
            )
            if row is None:
                return None
            if len(self._bases) >= 64:
                self._bases.clear()
            self._bases[version] = Base(head_version=version, head_hash=row[0], plan_hash=row[1])
        return self._bases[version]

    def add_blob(self, blob_hash: bytes, data: bytes) -> None:
        self._db.execute("INSERT OR IGNORE INTO blob VALUES (?, ?)", (blob_hash, data))

    def blob(self, blob_hash: bytes) -> bytes:
        """Return a blob by its hash, or by the first bytes of it."""
        row = self._db.one(
            "SELECT data FROM blob WHERE hash >= ? AND substr(hash, 1, ?) = ? ORDER BY hash LIMIT 1",
            (blob_hash, len(blob_hash), blob_hash),
        )
        if row is None:
            raise StorageError("a blob is missing from the gateway's database: restore a backup")
        return bytes(row[0])

    def add_release(self, release: Release, made: Round | None = None) -> None:
        """Make a head version current; its blobs are there already."""
        version, base = release.head_version, release.base
        self._db.execute(
            "INSERT INTO head (generation, version, model, head, plan_hash, manifest)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (
                version.generation,
                version.version,
                release.model_hash,
                base.head_hash,
                base.plan_hash,
                release.signed,
            ),
        )
        if made is not None:
            self._db.execute(
                f"UPDATE head SET {' = ?, '.join(_ROUND)} = ?"  # noqa: S608 - our own names
                " WHERE generation = ? AND version = ?",
                (*(getattr(made, name) for name in _ROUND), version.generation, version.version),
            )
        # A new generation ends the previous one, with what was in its buffer.
        went_into = version.version if made else _LEFT_OUT
        self._db.execute("UPDATE counted SET went_into = ? WHERE went_into IS NULL", (went_into,))

    def rounds(self) -> list[tuple[HeadVersion, Round]]:
        """Every head version that was made out of updates, oldest first."""
        rows = self._db.execute(
            f"SELECT generation, version, {', '.join(_ROUND)} FROM head"  # noqa: S608 - our own names
            " WHERE counted IS NOT NULL ORDER BY generation, version"
        )
        return [(HeadVersion(*row[:2]), Round(**dict(zip(_ROUND, row[2:], strict=True)))) for row in rows]

    # --- counted updates ---------------------------------------------------------------------------
    def has_counted(self, device_id: str, base: HeadVersion) -> bool:
        return bool(
            self._db.one(
                "SELECT 1 FROM counted WHERE device = ? AND generation = ? AND version = ?",
                (device_id, base.generation, base.version),
            )
        )

    def add_counted(self, update: CountedUpdate) -> None:
        base = update.base
        self._db.execute(
            "INSERT INTO counted (device, generation, version, counter, weight, wire_bytes, body,"
            " epochs) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                update.device,
                base.generation,
                base.version,
                update.counter,
                update.weight,
                update.wire_bytes,
                update.body,
                update.epochs,
            ),
        )

    def buffered(self) -> Iterator[CountedUpdate]:
        """Yield the open version's updates in the order they were counted, few in memory at a time."""
        last = 0
        while rows := self._db.execute(
            "SELECT row, device, generation, version, counter, weight, wire_bytes, body, epochs FROM counted"
            " WHERE went_into IS NULL AND row > ? ORDER BY row LIMIT 64",
            (last,),
        ):
            for row in rows:
                last = row[0]
                yield CountedUpdate(
                    device=row[1],
                    base=HeadVersion(row[2], row[3]),
                    counter=row[4],
                    weight=row[5],
                    wire_bytes=row[6],
                    body=row[7],
                    epochs=row[8],
                )

    def leave_out_revoked(self) -> int:
        """Take updates of devices that are no longer active out of the buffer; count them."""
        self._db.execute(
            "UPDATE counted SET went_into = ?, body = NULL WHERE went_into IS NULL AND"
            " device IN (SELECT id FROM device WHERE standing != ?)",
            (_LEFT_OUT, Standing.ACTIVE.value),
        )
        ((changed,),) = self._db.execute("SELECT changes()")
        return int(changed)

    def forget_bodies(self) -> None:
        """Delete the bodies whose aggregate is published."""
        self._db.execute("UPDATE counted SET body = NULL WHERE went_into IS NOT NULL AND body IS NOT NULL")

    def ledger(self) -> list[tuple[str, HeadVersion, int, int | None]]:
        """Every counted update: device, base, counter, version it went into (0 left out, None open)."""
        rows = self._db.execute(
            "SELECT device, generation, version, counter, went_into FROM counted ORDER BY row"
        )
        return [(row[0], HeadVersion(row[1], row[2]), row[3], row[4]) for row in rows]

    # --- retained topics ---------------------------------------------------------------------------
    def retained(self) -> set[str]:
        """Topics that may hold a retained message of ours."""
        return {row[0] for row in self._db.execute("SELECT topic FROM retained")}

    def add_retained(self, topics: set[str]) -> None:
        self._db.executemany(
            "INSERT OR IGNORE INTO retained VALUES (?)", [(topic,) for topic in sorted(topics)]
        )

    def forget_retained(self, topics: set[str]) -> None:
        self._db.executemany("DELETE FROM retained WHERE topic = ?", [(topic,) for topic in sorted(topics)])


_RELEASE = "SELECT generation, version, model, head, plan_hash, manifest FROM head"


def _release(row: tuple[Any, ...]) -> Release:
    version = HeadVersion(row[0], row[1])
    base = Base(head_version=version, head_hash=row[3], plan_hash=row[4])
    return Release(head_version=version, model_hash=row[2], base=base, signed=row[5])


@contextmanager
def sole_owner(folder: Path) -> Iterator[None]:
    """Hold `folder` for one running gateway; raises AlreadyRunning while another process has it."""
    lock = folder / "lock"
    with disk_errors(lock):
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunning(
                f"{folder}: another gateway is running on this state folder: stop it"
            ) from None
        yield
    finally:
        os.close(descriptor)
