"""What is there after the power went: storage.py under kill -9, cut logs and half-done checkpoints.

A power cut leaves of a file what was synced, plus any part of what was written since.  With WAL and
`synchronous=FULL` a commit is synced before it returns, so an image of the database file together with
any prefix of the log beyond that commit (and any noise after it) is what a cut can leave.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
from pathlib import Path

from fedclient import storage
from fedclient.storage import Database

SCHEMA = ["CREATE TABLE rows(n INTEGER PRIMARY KEY, data BLOB); CREATE TABLE sums(total INTEGER)"]


def opened(path: Path) -> Database:
    return Database.open(path, migrations=SCHEMA)


def content(n: int) -> bytes:
    return random.Random(n).randbytes(n * 37 % 9000)


def append(database: Database, n: int) -> None:
    """Two tables in one transaction, so that half of one would show."""
    with database.transaction():
        database.execute("INSERT INTO rows VALUES (?, ?)", (n, content(n)))
        database.execute("DELETE FROM sums")
        database.execute("INSERT INTO sums SELECT sum(n) FROM rows")


def whole(path: Path) -> int:
    """Check a database after a cut; return how many transactions it holds: 1..count, each whole."""
    database = opened(path)
    database.check()
    rows = database.execute("SELECT n, data FROM rows ORDER BY n")
    assert [n for n, _ in rows] == list(range(1, len(rows) + 1))
    assert all(data == content(n) for n, data in rows)
    assert database.execute("SELECT total FROM sums") == ([(sum(n for n, _ in rows),)] if rows else [])
    database.close()
    return len(rows)


def killed(work, chance: random.Random, *, least: int) -> int:
    """Run `work(acknowledge)` in a child, kill -9 it some time after `least` acknowledgements; count them."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            work(lambda: os.write(writer, b"."))
        finally:
            os._exit(1)
    os.close(writer)
    count = 0
    while count < least:
        count += len(os.read(reader, least - count))
    for _ in range(chance.randrange(20_000)):  # a moment within the next transactions, without a clock
        pass
    os.kill(child, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    while rest := os.read(reader, 4096):
        count += len(rest)
    os.close(reader)
    return count


def test_every_acknowledged_row_survives_kill_9(tmp_path, thorough):
    chance, path, there = random.Random(1), tmp_path / "a.db", 0
    for _ in range(60 if thorough else 6):

        def work(acknowledge, start=there) -> None:
            database = opened(path)
            database.execute("PRAGMA wal_autocheckpoint = 7")  # so that checkpoints are hit as well
            for n in range(start + 1, start + 10_000):
                append(database, n)
                acknowledge()

        acknowledged = killed(work, chance, least=chance.randrange(1, 25))
        after = whole(path)
        assert there + acknowledged <= after <= there + acknowledged + 1
        there = after


def logged(path: Path, count: int) -> list[int]:
    """Append `count` transactions without a checkpoint; return the log's size after each."""
    database = opened(path)
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.execute("PRAGMA wal_autocheckpoint = 0")
    sizes = []
    for n in range(1, count + 1):
        append(database, n)
        sizes.append(Path(f"{path}-wal").stat().st_size)
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", f"{path}.image{suffix}")
    database.close()
    return sizes


def test_a_log_cut_anywhere_holds_every_transaction_that_ended_before(tmp_path, thorough):
    chance = random.Random(2)
    sizes = logged(tmp_path / "a.db", 12)
    log = Path(f"{tmp_path}/a.db.image-wal").read_bytes()
    cuts = {0, len(log)} | {size + step for size in sizes for step in (-1, 0, 1)}
    cuts |= set(range(32, len(log), 4096 + 24))  # frame borders
    cuts |= {chance.randrange(len(log)) for _ in range(2000 if thorough else 50)}
    cut = tmp_path / "cut.db"
    for end in sorted(cuts):
        noise = chance.choice((b"", bytes(5000), chance.randbytes(9000)))
        shutil.copy(tmp_path / "a.db.image", cut)
        Path(f"{cut}-wal").write_bytes(log[:end] + noise)
        assert whole(cut) == sum(size <= end for size in sizes)
    print(f"{len(cuts)} cuts of a log of {len(log)} bytes")


def test_a_checkpoint_cut_anywhere_loses_nothing(tmp_path, thorough):
    """The log is synced first, so any mixture of old and new pages beside the whole log must do."""
    chance, path = random.Random(3), tmp_path / "a.db"
    sizes = logged(path, 30)  # closing it checkpointed: a.db is new, a.db.image is old
    old, new = Path(f"{path}.image").read_bytes(), path.read_bytes()
    for _ in range(200 if thorough else 10):
        mixed = bytearray(old.ljust(chance.choice((len(old), len(new))), b"\0"))
        for start in range(0, len(mixed), 512):  # torn inside pages too
            if chance.random() < 0.5:
                mixed[start : start + 512] = new[start : start + 512]
        (tmp_path / "mixed.db").write_bytes(mixed)
        shutil.copy(f"{path}.image-wal", tmp_path / "mixed.db-wal")
        assert whole(tmp_path / "mixed.db") == len(sizes)


def test_write_file_killed_anywhere_leaves_the_old_or_the_new_file_whole(tmp_path, thorough):
    chance, path = random.Random(4), tmp_path / "head"
    storage.write_file(path, content(1))
    for _ in range(40 if thorough else 5):

        def work(acknowledge) -> None:
            for n in range(1_000_000):
                storage.write_file(path, content(n % 50 + 1))
                acknowledge()

        killed(work, chance, least=chance.randrange(1, 20))
        assert storage.read_file(path, 10_000) in {content(n) for n in range(1, 51)}
        storage.sweep(tmp_path)
        assert [other.name for other in tmp_path.iterdir()] == ["head"]


def test_write_file_syncs_the_bytes_before_the_name_and_the_name_before_it_returns(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, Path.replace

    def noted_fsync(descriptor: int) -> None:
        target = Path(f"/proc/self/fd/{descriptor}").readlink()
        done.append(("fsync", "folder" if target.is_dir() else target.stat().st_size))
        fsync(descriptor)

    def noted_replace(self: Path, target: Path) -> Path:
        done.append(("rename", target.name))
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    storage.write_file(tmp_path / "head", bytes(100_000))
    assert done == [("fsync", 100_000), ("rename", "head"), ("fsync", "folder")]
