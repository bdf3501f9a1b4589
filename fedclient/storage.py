"""What survives a power cut: SQLite databases and whole files.  The only home of sqlite3.

A transaction that returned is on the disk (WAL, `synchronous=FULL`); one that raised left nothing,
with one exception: after an I/O error nobody knows.  Then the next call closes the database, opens
it again, checks it and writes what it holds to the disk anew, before it does what it was asked.
A file is the old one or the new one, whole.  What goes wrong is one of errors.py's Storage errors.
"""

from __future__ import annotations

import errno
import fcntl
import grp
import os
import pwd
import re
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from fedclient.errors import (
    FedClientError,
    NewerSchema,
    StorageBusy,
    StorageDamaged,
    StorageError,
    StorageFull,
    StorageReadOnly,
)

DEFAULT_STATE: Final = Path("/var/lib/fedclient")
BUSY_TIMEOUT_S: Final = 5.0  # PROTOCOL 5.6: longer than any transaction of ours
KEPT_DAMAGED: Final = 3  # what is set aside must not fill the disk

_FULL: Final = "the disk is full; make room, then try again"
_READ_ONLY: Final = "it cannot be written; check how it is mounted and who owns it"
_DAMAGED: Final = "it is damaged; restore it, or move it away to start anew"
_FILES: Final = ("", "-wal", "-shm")  # what one database is on the disk
_IOERR, _SQLITE_FULL = 10, 13
_SCHEMA: Final = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name"
# Primary result code: SQLite's own text for it (Python 3.10 has no codes on exceptions), error, what to do.
_FAILURES: Final[dict[int, tuple[str, type[FedClientError], str]]] = {
    5: ("database is locked", StorageBusy, "another process has held it for 5 s; try again"),
    8: ("readonly database", StorageReadOnly, _READ_ONLY),
    _IOERR: ("disk I/O error", StorageError, "the disk reported an error; check the card or disk (dmesg)"),
    11: ("malformed", StorageDamaged, _DAMAGED),
    _SQLITE_FULL: ("disk is full", StorageFull, _FULL),
    14: ("unable to open database", StorageReadOnly, "it cannot be opened; check who may use its folder"),
    15: ("locking protocol", StorageBusy, "other processes keep it busy; try again"),
    26: ("not a database", StorageDamaged, _DAMAGED),
}
_ERRNOS: Final[dict[int, tuple[type[FedClientError], str]]] = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), (StorageFull, _FULL)),
    errno.EROFS: (StorageReadOnly, _READ_ONLY),
    **dict.fromkeys((errno.EACCES, errno.EPERM), (StorageReadOnly, "")),
    errno.ENOENT: (StorageError, "there is no such file or folder; check the state folder's name"),
}
_SETTINGS: Final = (
    "synchronous = FULL",
    "foreign_keys = ON",
    "secure_delete = FAST",  # Debian's default, ON, writes what is deleted once more to the flash
    "cache_size = -256",  # KiB per connection; SQLite's default of 2 MiB is a tenth of the idle agent
    "wal_autocheckpoint = 256",  # pages: 1 MiB of log, then a checkpoint
    "journal_size_limit = 1048576",  # bytes
)


def state_folder(explicit: Path | None = None) -> Path:
    """Return the state folder: as given, $FEDCLIENT_STATE, systemd's $STATE_DIRECTORY, or the default."""
    named = os.environ.get("FEDCLIENT_STATE") or os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    return explicit or Path(named or DEFAULT_STATE)


class Database:
    """One connection to one SQLite file; threads may share it, processes may not (open your own).

    `migrations` are SQL scripts, applied in order and counted in `PRAGMA user_version`.
    """

    def __init__(self, path: Path, mode: str = "rw") -> None:
        self.path = path
        self._mode = mode  # how SQLite opens it
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._inside = False  # a transaction() block
        self._suspect = False  # an I/O error happened: what SQLite holds in memory proves nothing

    @classmethod
    def open(cls, path: Path, *, migrations: Sequence[str], mode: int = 0o600) -> Database:
        """Open `path`, made with `mode` where there is none, and bring its schema up to date."""
        with _folder(path.parent, alone=True):
            return cls._open(path, migrations, mode)

    @classmethod
    def open_or_quarantine(
        cls, path: Path, *, migrations: Sequence[str], mode: int = 0o600, check: bool = False
    ) -> tuple[Database, Path | None]:
        """Open `path`; when it is damaged, move it aside and begin a new one: (database, where the old is).

        With `check` every page is read (`PRAGMA quick_check`); without, only what opening needs.
        """
        with _folder(path.parent, alone=True):
            try:
                return cls._open(path, migrations, mode, check=check), None
            except StorageDamaged:
                moved = quarantine(path)
                return cls._open(path, migrations, mode), moved

    @classmethod
    def open_to_look(cls, path: Path) -> Database:
        """Open `path` for reading alone: nothing is made or written, in its folder either, by any call."""
        database = cls(path, "ro&readonly_shm=1" if Path(f"{path}-wal").exists() else "ro&immutable=1")
        database._connect()
        return database

    @classmethod
    def _open(cls, path: Path, migrations: Sequence[str], mode: int, *, check: bool = False) -> Database:
        _make_file(path, mode)
        database = cls(path)
        try:
            database._connect()
            database._migrate(migrations)
            if check:
                database.check(migrations)
        except BaseException:
            database.close()
            raise
        return database

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Take the write lock; commit at the end of the block, or undo all of it on any exception."""
        with self._lock:
            if self._inside:
                raise RuntimeError("transactions do not nest")
            self.execute("BEGIN IMMEDIATE")
            self._inside = True
            try:
                yield
                self.execute("COMMIT")
            finally:
                self._inside = False
                if self._connection.in_transaction:
                    with suppress(sqlite3.Error):
                        self._connection.execute("ROLLBACK")

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Run one statement and return all its rows."""
        return self._run(lambda connection: connection.execute(sql, parameters))

    def executemany(self, sql: str, rows: Iterable[Sequence[object]]) -> None:
        """Run one statement once for each of `rows`."""
        self._run(lambda connection: connection.executemany(sql, rows))

    def one(self, sql: str, parameters: Sequence[object] = ()) -> tuple[Any, ...] | None:
        """Return the first row, or None."""
        return next(iter(self.execute(sql, parameters)), None)

    def check(self, migrations: Sequence[str] | None = None) -> None:
        """Read every page, and compare the schema if it is given; raises StorageDamaged, NewerSchema."""
        ((first,), *_) = self.execute("PRAGMA quick_check(1)")
        if first != "ok":
            raise StorageDamaged(f"{self.path}: {_DAMAGED} ({first})")
        if migrations is not None:  # damage that is well-formed: the schema as text, read back
            with closing(sqlite3.connect(":memory:")) as fresh:
                fresh.executescript(";\n".join(migrations[: self._version(migrations)]))
                if self.execute(_SCHEMA) != fresh.execute(_SCHEMA).fetchall():
                    raise StorageDamaged(f"{self.path}: {_DAMAGED} (its schema)")

    def shrink(self) -> None:
        """Give free pages back to the disk, some at a time, and empty the log."""
        ((free,),) = self.execute("PRAGMA freelist_count")
        steps = "PRAGMA incremental_vacuum(256);" * (free // 256 + 1)
        self._run(lambda connection: connection.executescript(f"{steps} PRAGMA wal_checkpoint(TRUNCATE);"))

    def close(self) -> None:
        """Close the connection; closing twice is fine."""
        if os.getpid() == self._pid:
            with suppress(sqlite3.Error, AttributeError):  # it may never have opened
                self._connection.close()

    def _connect(self) -> None:
        with _sqlite_errors(self.path):
            uri = f"{self.path.absolute().as_uri()}?mode={self._mode}"
            self._connection = sqlite3.connect(
                uri, timeout=BUSY_TIMEOUT_S, uri=True, isolation_level=None, check_same_thread=False
            )
            if self._mode == "rw":
                _configure(self._connection, self.path)
        self._opened = self._inode()

    def _version(self, migrations: Sequence[str]) -> int:
        ((version,),) = self.execute("PRAGMA user_version")
        if version > len(migrations):
            raise NewerSchema(f"{self.path}: a newer fedclient wrote it; upgrade this one")
        return int(version)

    def _migrate(self, migrations: Sequence[str]) -> None:
        version = self._version(migrations)
        if version < len(migrations):
            steps = (*migrations[version:], f"PRAGMA user_version = {len(migrations)}", "COMMIT;")
            script = "\n;\n".join(("BEGIN IMMEDIATE", *steps))
            self._run(lambda connection: connection.executescript(script))

    def _inode(self) -> int:
        """Tell files of one name apart: after another process's quarantine ours is the wrong one."""
        return self.path.stat().st_ino if self.path.exists() else 0

    def _run(self, call: Callable[[sqlite3.Connection], sqlite3.Cursor]) -> list[tuple[Any, ...]]:
        with self._lock:
            if os.getpid() != self._pid:
                raise RuntimeError(f"{self.path}: opened before a fork; open it again in the child")
            if self._inside and (self._suspect or not self._connection.in_transaction):
                raise StorageError(f"{self.path}: the transaction was already undone by an earlier error")
            if self._suspect or (not self._inside and self._inode() != self._opened):
                self._recover()
            try:
                with _sqlite_errors(self.path):
                    return call(self._connection).fetchall()
            except FedClientError as error:
                self._suspect = _code(error.__cause__) == _IOERR
                raise

    def _recover(self) -> None:
        """Close, open, check, and rewrite the log into the database, which syncs both files anew."""
        self.close()
        with _folder(self.path.parent, alone=True):
            self._connect()
        self._suspect = False
        self.check()
        self.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def write_file(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Put `data` at `path`, durably once this returns; if it raises the old file is there, or the new one."""
    temporary = path.with_name(f".{path.name}.{os.urandom(6).hex()}.tmp")
    with disk_errors(path):
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "wb") as file:  # noqa: PTH123  Path cannot open a descriptor
                os.fchmod(descriptor, mode)  # whatever the umask says
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def read_file(path: Path, max_bytes: int) -> bytes:
    """Return the bytes of `path`, a pipe's without waiting; more than `max_bytes` raise StorageDamaged."""
    with disk_errors(path), open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:  # noqa: PTH123
        data = file.read(max_bytes + 1) or b""
    if len(data) > max_bytes:
        raise StorageDamaged(f"{path}: larger than {max_bytes} bytes, so it is not what fedclient wrote")
    return data


def sweep(folder: Path) -> int:
    """Remove what interrupted `write_file` calls left in `folder`, while nobody writes there; count it."""
    with disk_errors(folder):
        left = [path for path in folder.iterdir() if re.fullmatch(r"\..+\.[0-9a-f]{12}\.tmp", path.name)]
        for path in left:
            path.unlink(missing_ok=True)
    return len(left)


def make_folder(path: Path, mode: int) -> None:
    """Make `path` (its parent exists) with exactly `mode`, durably; one of our own gets `mode` again."""
    with disk_errors(path):
        missing = not path.is_dir()
        path.mkdir(0o700, exist_ok=True)
        _set_mode(path, mode)  # mkdir leaves out set-group-id, and what the umask says
        if missing:
            sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    with _folder(folder) as descriptor:
        os.fsync(descriptor)


def quarantine(path: Path) -> Path:
    """Move `path` (with its -wal and -shm) to `path`.damaged-N and return that; keep the newest few."""
    with disk_errors(path):
        names = "\n".join(other.name for other in path.parent.iterdir())
        taken = {int(n) for n in re.findall(rf"^{re.escape(path.name)}\.damaged-(\d+)$", names, re.MULTILINE)}
        target = path.with_name(f"{path.name}.damaged-{max(taken, default=0) + 1}")
        # The database first: without its log it would open, as it was some time ago.
        for suffix in _FILES:
            with suppress(FileNotFoundError):
                Path(f"{path}{suffix}").rename(f"{target}{suffix}")
        for number in sorted(taken)[: -(KEPT_DAMAGED - 1)]:
            remove_database(Path(f"{path}.damaged-{number}"))
        sync_folder(path.parent)
    return target


def remove_database(path: Path) -> None:
    """Delete a database with its log, if it is there; whoever has it open loses what it writes."""
    with disk_errors(path):
        for suffix in _FILES:
            Path(f"{path}{suffix}").unlink(missing_ok=True)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into the storage error it means, with a sentence about `path`."""
    try:
        yield
    except OSError as error:
        kind, advice = _ERRNOS.get(error.errno or 0, (StorageError, error.strerror or str(error)))
        raise kind(f"{path}: {advice or _who_may(path)}") from error


def _who_may(path: Path) -> str:
    """Say who may use `path`, judging by the nearest folder or file that can be looked at."""
    for place in (path, *path.parents):
        with suppress(OSError, KeyError):
            status = place.stat()
            if status.st_mode & stat.S_IRWXG and status.st_gid != 0:
                group = grp.getgrgid(status.st_gid).gr_name
                return f"permission denied: join the group {group} (sudo usermod -aG {group} $USER)"
            return f"permission denied: run this as the user {pwd.getpwuid(status.st_uid).pw_name}"
    return "permission denied: run this as the owner of the state folder"


@contextmanager
def _folder(path: Path, *, alone: bool = False) -> Iterator[int]:
    """Open a folder; `alone`: let one process at a time make, migrate or replace a database in it."""
    with disk_errors(path):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if alone:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
        finally:
            os.close(descriptor)


def _make_file(path: Path, mode: int) -> None:
    """Make an empty database file with `mode`; SQLite gives -wal and -shm the same one.

    Never opened here: closing any descriptor of a database drops this process's locks on it.
    """
    with disk_errors(path):
        with suppress(FileExistsError):
            os.mknod(path, stat.S_IFREG | 0o600)
        _set_mode(path, mode)
        if not os.access(path, os.R_OK | os.W_OK, effective_ids=True):
            code = errno.EROFS if os.statvfs(path).f_flag & os.ST_RDONLY else errno.EACCES
            raise OSError(code, os.strerror(code))


def _set_mode(path: Path, mode: int) -> None:
    status = path.stat()
    if status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) != mode:
        path.chmod(mode)


def _configure(connection: sqlite3.Connection, path: Path) -> None:
    if connection.execute("PRAGMA page_count").fetchone() == (0,):
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # now or never
    if connection.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
        raise StorageError(f"{path}: this file system cannot share memory (WAL); use a local one")
    for setting in _SETTINGS:
        connection.execute(f"PRAGMA {setting}")
    connection.text_factory = lambda data: data.decode(errors="replace")  # damage is for readers to judge


def _code(error: BaseException | None) -> int | None:
    """Return SQLite's primary result code; on Python 3.10 by its text, or none where that is no text."""
    if (known := getattr(error, "sqlite_errorcode", None)) is not None:
        return int(known) & 0xFF
    said = str(error) or ("malformed" if isinstance(error, sqlite3.DatabaseError) else "")
    return next((code for code, (text, _, _) in _FAILURES.items() if text in said), None)


@contextmanager
def _sqlite_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:  # SQLite quotes the damage it has found
        raise StorageDamaged(f"{path}: {_DAMAGED}") from error
    except sqlite3.Error as error:
        code = _code(error)
        disk = os.statvfs(path.parent)
        if code == _IOERR and disk.f_bavail * disk.f_frsize < 64 * 1024:
            code = _SQLITE_FULL  # not what SQLite calls it when there is no room for -shm
        if code not in _FAILURES:
            raise  # a mistake in our SQL or a violated constraint: for the developer
        _, kind, advice = _FAILURES[code]
        raise kind(f"{path}: {advice}") from error
