from __future__ import annotations

import os
import resource
import shutil
import sqlite3
import stat
import subprocess
import threading
from multiprocessing import get_context
from pathlib import Path

import pytest

from fedclient import storage
from fedclient.errors import (
    NewerSchema,
    StorageBusy,
    StorageDamaged,
    StorageError,
    StorageFull,
    StorageReadOnly,
)
from fedclient.storage import Database

SCHEMA = [
    "CREATE TABLE numbers(n INTEGER PRIMARY KEY, data BLOB); CREATE TABLE other(n REFERENCES numbers)",
    "ALTER TABLE other ADD COLUMN note TEXT; -- a comment at the end",
]


def opened(path: Path, **options) -> Database:
    return Database.open(path, migrations=SCHEMA, **options)


def numbers(database: Database) -> list[int]:
    return [n for (n,) in database.execute("SELECT n FROM numbers ORDER BY n")]


def insert(database: Database, n: int, *, size: int = 0, then: type[Exception] | None = None) -> int:
    with database.transaction():
        database.execute("INSERT INTO numbers VALUES (?, ?)", (n, bytes(size)))
        if then:
            raise then
    return n


def in_child(function) -> int:
    """Run `function` in a forked child; return its exit code, 99 for an exception."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            code = function() or 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=False).returncode
    ):
        pytest.skip("LEFT OUT: a small disk needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


# --- databases ------------------------------------------------------------------------------------


def test_settings_are_those_that_survive_a_power_cut(tmp_path):
    database = opened(tmp_path / "a.db")
    found = {name: database.one(f"PRAGMA {name}") for name in ("journal_mode", "synchronous", "foreign_keys")}
    assert found == {"journal_mode": ("wal",), "synchronous": (2,), "foreign_keys": (1,)}
    assert database.one("PRAGMA busy_timeout") == (5000,)


def test_opening_again_writes_nothing(tmp_path):
    keep = opened(tmp_path / "a.db")
    size = (tmp_path / "a.db-wal").stat().st_size
    opened(tmp_path / "a.db").close()
    assert (tmp_path / "a.db-wal").stat().st_size == size
    keep.close()


def test_a_transaction_is_all_or_nothing(tmp_path):
    database = opened(tmp_path / "a.db")
    with database.transaction():
        database.executemany("INSERT INTO numbers(n) VALUES (?)", [(1,), (2,)])
    with pytest.raises(KeyError):
        insert(database, 3, then=KeyError)
    assert numbers(opened(tmp_path / "a.db")) == [1, 2]
    assert database.one("SELECT n FROM numbers WHERE n = 9") is None


def test_transactions_do_not_nest(tmp_path):
    database = opened(tmp_path / "a.db")
    with pytest.raises(RuntimeError, match="nest"), database.transaction(), database.transaction():
        pass


def test_threads_may_share_a_database(tmp_path):
    database = opened(tmp_path / "a.db")

    def work(start: int) -> None:
        for n in range(start, start + 20):
            with database.transaction():
                database.execute("INSERT INTO numbers(n) VALUES (?)", (n,))

    threads = [threading.Thread(target=work, args=(start,)) for start in (0, 20, 40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert numbers(database) == list(range(60))


def test_a_database_opened_before_a_fork_is_refused_in_the_child(tmp_path):
    database = opened(tmp_path / "a.db")

    def child() -> int:
        with pytest.raises(RuntimeError, match="fork"):
            database.execute("SELECT 1")
        return 7

    assert in_child(child) == 7
    with database.transaction():
        database.execute("INSERT INTO numbers(n) VALUES (1)")


def _open_at_once(path: Path, barrier) -> None:
    barrier.wait()
    database = opened(path)
    with database.transaction():
        database.execute("INSERT INTO numbers(data) VALUES (x'00')")


def test_many_processes_may_make_one_database_at_once(tmp_path, thorough):
    context = get_context("fork")
    for attempt in range(100 if thorough else 5):
        path, barrier = tmp_path / f"{attempt}.db", context.Barrier(6)
        children = [context.Process(target=_open_at_once, args=(path, barrier)) for _ in range(6)]
        for child in children:
            child.start()
        for child in children:
            child.join()
        assert [child.exitcode for child in children] == [0] * 6
        assert len(numbers(opened(path))) == 6


# --- PROTOCOL 5.6: busy timeout, migrations -------------------------------------------------------


def test_rule_5_6_a_database_held_too_long_is_busy(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "BUSY_TIMEOUT_S", 0.05)
    one, two = opened(tmp_path / "a.db"), opened(tmp_path / "a.db")
    with one.transaction(), pytest.raises(StorageBusy, match=r"a\.db: another process"), two.transaction():
        pass
    with two.transaction():
        two.execute("INSERT INTO numbers(n) VALUES (1)")


def test_rule_5_6_migrations_go_forward_from_any_version(tmp_path):
    Database.open(tmp_path / "a.db", migrations=SCHEMA[:1]).close()
    database = opened(tmp_path / "a.db")
    assert database.one("PRAGMA user_version") == (2,)
    assert database.execute("SELECT note FROM other") == []


def test_rule_5_6_migrations_are_one_transaction(tmp_path):
    Database.open(tmp_path / "a.db", migrations=SCHEMA[:1]).close()
    with pytest.raises(sqlite3.OperationalError):
        Database.open(tmp_path / "a.db", migrations=[*SCHEMA, "CREATE TABLE numbers(n)"])
    assert Database.open(tmp_path / "a.db", migrations=SCHEMA[:1]).one("PRAGMA user_version") == (1,)


def test_rule_5_6_a_newer_schema_is_refused_in_one_line(tmp_path):
    opened(tmp_path / "a.db").close()
    with pytest.raises(NewerSchema, match=r"^[^\n]*a\.db: a newer fedclient wrote it; upgrade this one$"):
        Database.open(tmp_path / "a.db", migrations=SCHEMA[:1])


# --- permissions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
@pytest.mark.parametrize("mode", [0o600, 0o660])
def test_a_database_and_its_log_have_the_mode_asked_for(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        database = opened(tmp_path / "a.db", mode=mode)
        with database.transaction():
            database.execute("INSERT INTO numbers(n) VALUES (1)")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"a.db": mode, "a.db-wal": mode, "a.db-shm": mode}


def test_a_missing_folder_is_one_sentence(tmp_path):
    with pytest.raises(StorageError, match="no such file or folder"):
        opened(tmp_path / "absent" / "a.db")


def test_a_stranger_is_told_whose_it_is(tmp_path):
    if os.geteuid():
        pytest.skip("LEFT OUT: another user id needs root")
    for folder in [tmp_path, *list(tmp_path.parents)[:3]]:
        folder.chmod(0o755)
    opened(tmp_path / "a.db").close()

    def stranger() -> int:
        os.setgroups([])
        os.setgid(54321)
        os.setuid(54321)
        with pytest.raises(StorageReadOnly, match="permission denied: run this as the user root"):
            opened(tmp_path / "a.db")
        with pytest.raises(StorageReadOnly, match="permission denied"):
            storage.write_file(tmp_path / "file", b"")
        return 7

    assert in_child(stranger) == 7


def test_a_read_only_file_system_is_one_sentence(small_disk):
    opened(small_disk / "a.db").close()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(StorageReadOnly, match=r"a\.db: "):
        opened(small_disk / "a.db")
    with pytest.raises(StorageReadOnly, match="cannot be written"):
        storage.write_file(small_disk / "file", b"")


# --- a full disk, a failing disk ------------------------------------------------------------------


def test_a_full_disk_is_said_and_loses_nothing(small_disk):
    database = opened(small_disk / "a.db")
    acknowledged = []
    with pytest.raises(StorageFull, match="the disk is full"):
        acknowledged.extend(insert(database, n, size=10_000) for n in range(1000))
    stored = len(acknowledged)
    assert 0 < stored < 1000
    assert numbers(database) == list(range(stored))
    with pytest.raises(StorageFull):
        storage.write_file(small_disk / "file", bytes(1_000_000))
    assert not list(small_disk.glob("*file*"))
    database.close()
    assert numbers(opened(small_disk / "a.db")) == list(range(stored))


def test_a_disk_full_before_the_log_exists_is_called_full(small_disk):
    opened(small_disk / "a.db").close()
    with pytest.raises(OSError, match="No space"):
        (small_disk / "ballast").write_bytes(bytes(2_000_000))
    with pytest.raises(StorageFull):
        opened(small_disk / "a.db")


def test_a_full_database_is_said(tmp_path):
    database = opened(tmp_path / "a.db")
    database.execute("PRAGMA max_page_count = 10")
    with pytest.raises(StorageFull), database.transaction():
        database.execute("INSERT INTO numbers VALUES (1, ?)", (bytes(100_000),))
    assert numbers(database) == []


def test_after_an_io_error_the_next_call_opens_and_checks_again(tmp_path):
    """A write beyond RLIMIT_FSIZE is a real EIO for SQLite, which is not a full disk."""

    def child() -> int:
        database = opened(tmp_path / "a.db")
        with database.transaction():
            database.execute("INSERT INTO numbers(n) VALUES (1)")
        first = database._connection
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
        with pytest.raises(StorageError, match="the disk reported an error"):
            insert(database, 2, size=500_000)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert numbers(database) == [1]
        assert database._connection is not first
        with database.transaction():
            database.execute("INSERT INTO numbers(n) VALUES (4)")
        return 7

    assert in_child(child) == 7
    assert numbers(opened(tmp_path / "a.db")) == [1, 4]


def test_a_swallowed_error_does_not_commit_the_rest_of_a_transaction(tmp_path):
    database = opened(tmp_path / "a.db")

    def swallow() -> None:
        with database.transaction():
            database._connection.execute("ROLLBACK")  # SQLite does this by itself after some errors
            database.execute("INSERT INTO numbers(n) VALUES (1)")

    with pytest.raises(StorageError, match="already undone"):
        swallow()
    assert numbers(database) == []


# --- damage ---------------------------------------------------------------------------------------


def test_noise_instead_of_a_database_is_damage_and_is_set_aside(tmp_path):
    path = tmp_path / "a.db"
    path.write_bytes(bytes(range(256)) * 64)
    with pytest.raises(StorageDamaged, match=r"a\.db: it is damaged"):
        opened(path)
    database, moved = Database.open_or_quarantine(path, migrations=SCHEMA)
    assert numbers(database) == []
    assert moved == tmp_path / "a.db.damaged-1"
    assert moved.read_bytes() == bytes(range(256)) * 64


def test_damage_deep_inside_is_found_by_a_check(tmp_path):
    path = tmp_path / "a.db"
    database = opened(path)
    with database.transaction():
        database.executemany("INSERT INTO numbers VALUES (?, ?)", [(n, bytes(3000)) for n in range(50)])
    database.check()
    database.close()
    data = bytearray(path.read_bytes())
    data[20 * 4096 : 21 * 4096] = b"\xa5" * 4096
    path.write_bytes(data)
    with pytest.raises(StorageDamaged):
        opened(path).check()
    sound, moved = Database.open_or_quarantine(path, migrations=SCHEMA, check=True)
    assert moved
    assert numbers(sound) == []
    assert Database.open_or_quarantine(path, migrations=SCHEMA, check=True)[1] is None


def test_quarantine_takes_the_log_along_keeps_a_few_and_never_overwrites(tmp_path):
    path = tmp_path / "a.db"
    for n in range(1, 6):
        for suffix in ("", "-wal", "-shm"):
            Path(f"{path}{suffix}").write_text(f"{n}{suffix}")
        assert storage.quarantine(path) == tmp_path / f"a.db.damaged-{n}"
    left = sorted(other.name for other in tmp_path.iterdir())
    assert left == [f"a.db.damaged-{n}{suffix}" for n in (3, 4, 5) for suffix in ("", "-shm", "-wal")]
    assert (tmp_path / "a.db.damaged-5-wal").read_text() == "5-wal"


def test_a_database_quarantined_by_another_process_is_followed_to_the_new_one(tmp_path):
    path = tmp_path / "a.db"
    mine, other = opened(path), opened(path)
    insert(mine, 1)
    other.close()
    storage.quarantine(path)
    new = opened(path)
    insert(mine, 2)
    insert(new, 3)
    mine.close()  # SQLite deletes a log when the last one closes, but not that of another file
    assert (tmp_path / "a.db-wal").exists()
    assert numbers(new) == numbers(opened(path)) == [2, 3]
    assert numbers(opened(tmp_path / "a.db.damaged-1")) == [1]


def test_a_removed_database_takes_its_log_along(tmp_path):
    database = opened(tmp_path / "a.db")
    storage.remove_database(tmp_path / "a.db")
    storage.remove_database(tmp_path / "a.db")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(StorageError):
        insert(database, 1)


def test_a_log_left_behind_by_a_quarantine_cut_short_does_no_harm(tmp_path):
    database = opened(tmp_path / "a.db")
    with database.transaction():
        database.execute("INSERT INTO numbers(n) VALUES (1)")
    shutil.copy(tmp_path / "a.db-wal", tmp_path / "b.db-wal")
    assert numbers(opened(tmp_path / "b.db")) == []


@pytest.mark.parametrize(("code", "text", "kind"), [(c, t, k) for c, (t, k, _) in storage._FAILURES.items()])
def test_errors_are_known_by_code_and_by_text(tmp_path, code, text, kind):
    by_code, by_text = sqlite3.OperationalError("?"), sqlite3.OperationalError(f"some {text} or so")
    by_code.sqlite_errorcode = code | 0x300  # extended codes carry more above the low byte
    for error in (by_code, by_text):
        with pytest.raises(kind) as caught, storage._sqlite_errors(tmp_path / "a.db"):
            raise error
        assert str(caught.value).startswith(f"{tmp_path}/a.db: ")


# --- files ----------------------------------------------------------------------------------------


def test_a_file_is_written_with_its_mode_and_read_back(tmp_path):
    before = os.umask(0o077)
    try:
        storage.write_file(tmp_path / "f", b"old", mode=0o660)
        storage.write_file(tmp_path / "f", b"new", mode=0o660)
    finally:
        os.umask(before)
    assert storage.read_file(tmp_path / "f", 3) == b"new"
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o660
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_a_file_larger_than_the_bound_is_refused(tmp_path):
    storage.write_file(tmp_path / "f", b"1234")
    with pytest.raises(StorageDamaged, match="larger than 3 bytes"):
        storage.read_file(tmp_path / "f", 3)
    with pytest.raises(StorageError, match="no such file"):
        storage.read_file(tmp_path / "g", 3)


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path, monkeypatch):
    storage.write_file(tmp_path / "f", b"old")

    def fail(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError, match="Input/output error"):
        storage.write_file(tmp_path / "f", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("f", b"old")]


def test_sweep_removes_what_a_killed_writer_left_and_nothing_else(tmp_path):
    (tmp_path / ".head.0123456789ab.tmp").write_bytes(b"half")
    (tmp_path / "mine.tmp").write_bytes(b"")
    assert storage.sweep(tmp_path) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["mine.tmp"]


def test_a_folder_gets_its_mode_whatever_the_umask(tmp_path):
    before = os.umask(0o077)
    try:
        storage.make_folder(tmp_path / "samples", 0o2770)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "samples").stat().st_mode) == 0o2770
    storage.make_folder(tmp_path / "samples", 0o2770)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="exists"):
        storage.make_folder(tmp_path / "file", 0o700)


def test_the_state_folder_is_given_or_named_or_the_default(monkeypatch, tmp_path):
    monkeypatch.delenv("FEDCLIENT_STATE", raising=False)
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    assert storage.state_folder() == Path("/var/lib/fedclient")
    monkeypatch.setenv("STATE_DIRECTORY", "/a:/b")
    assert storage.state_folder() == Path("/a")
    monkeypatch.setenv("FEDCLIENT_STATE", "/c")
    assert storage.state_folder() == Path("/c")
    assert storage.state_folder(tmp_path) == tmp_path


def test_a_schema_that_was_changed_by_no_migration_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    schema = ("CREATE TABLE one(letters TEXT); CREATE INDEX by_letters ON one(letters);",)
    Database.open(path, migrations=schema).close()
    path.write_bytes(path.read_bytes().replace(b"TABLE one(letters", b"TABLE one(lettars"))
    database, aside = Database.open_or_quarantine(path, migrations=schema, check=True)
    assert aside is not None
    assert database.one("SELECT letters FROM one") is None
    database.close()
    assert Database.open_or_quarantine(path, migrations=schema, check=True)[1] is None


def test_damage_that_sqlite_cannot_even_quote_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    schema = ("CREATE TABLE one(letters TEXT)",)
    Database.open(path, migrations=schema).close()
    path.write_bytes(path.read_bytes().replace(b"CREATE TABLE one", b"CREATE TA\xf6LE one"))
    assert Database.open_or_quarantine(path, migrations=schema)[1] is not None


def test_text_that_is_no_text_can_be_read(tmp_path: Path) -> None:
    database = Database.open(tmp_path / "x.db", migrations=("CREATE TABLE one(letters TEXT)",))
    database.execute("INSERT INTO one VALUES (CAST(x'61e662' AS TEXT))")
    assert database.one("SELECT letters FROM one") == ("a\ufffdb",)


# --- looking without touching ------------------------------------------------------------------------
def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}


def left_by_a_kill(path: Path) -> None:
    """Leave a log with a row that is in no database file yet."""

    def write() -> None:
        insert(database := opened(path), 2)  # kept: one that nobody holds is closed in good order
        os._exit(database is None)

    insert(database := opened(path), 1)
    database.close()
    assert in_child(write) == 0
    assert {file.name for file in path.parent.iterdir()} == {"a.db", "a.db-wal", "a.db-shm"}


@pytest.fixture
def another_process(tmp_path: Path):
    """One that has two rows in a database, and keeps it open."""
    ready, end = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        insert(database := opened(tmp_path / "a.db"), 1)
        insert(database, 2)
        os.write(ready[1], b"!")
        os.close(end[1])
        os.read(end[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    yield
    for descriptor in (*ready, *end):
        os.close(descriptor)
    os.waitpid(child, 0)


def look(path: Path) -> None:
    before = contents(path.parent)
    database = Database.open_to_look(path)
    database.check(SCHEMA)
    assert numbers(database) == [1, 2]
    with pytest.raises(StorageReadOnly):
        insert(database, 3)
    database.close()
    assert contents(path.parent) == before


def test_looking_at_a_closed_database_touches_nothing(tmp_path: Path) -> None:
    insert(database := opened(tmp_path / "a.db"), 1)
    insert(database, 2)
    database.close()
    look(tmp_path / "a.db")


def test_looking_at_a_database_in_use_touches_nothing(tmp_path: Path, another_process) -> None:
    look(tmp_path / "a.db")


def test_looking_at_what_a_kill_left_touches_nothing(tmp_path: Path) -> None:
    left_by_a_kill(tmp_path / "a.db")
    look(tmp_path / "a.db")


def test_looking_at_a_log_without_its_index_is_refused_and_touches_nothing(tmp_path: Path) -> None:
    left_by_a_kill(tmp_path / "a.db")
    (tmp_path / "a.db-shm").unlink()
    before = contents(tmp_path)
    with pytest.raises(StorageReadOnly, match="cannot be opened"):
        Database.open_to_look(tmp_path / "a.db").check()
    assert contents(tmp_path) == before


def test_looking_judges_the_schema_of_an_older_version_and_refuses_a_newer_one(tmp_path: Path) -> None:
    Database.open(tmp_path / "a.db", migrations=SCHEMA[:1]).close()
    looked = Database.open_to_look(tmp_path / "a.db")
    looked.check(SCHEMA)
    with pytest.raises(NewerSchema):
        looked.check([])
    with pytest.raises(StorageDamaged, match="its schema"):
        looked.check(["CREATE TABLE another(n)", *SCHEMA[1:]])
