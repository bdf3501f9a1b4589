from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedclient.errors import DataError, StorageError, StorageFull, StorageReadOnly
from fedclient.samples import selection
from fedclient.samples.store import SampleStore, database_path, features_path

ROOT = Path(__file__).parent.parent.parent
GROUP, MEMBER, STRANGER = 54320, 54321, 54322


@pytest.fixture
def store(tmp_path):
    with SampleStore(tmp_path / "samples.db") as opened:
        yield opened


def labels_of(store: SampleStore) -> list[object]:
    return [sample.label for sample in store.read(range(1, 1000))]


# --- what goes in comes out -----------------------------------------------------------------------


def test_a_sample_comes_back_as_it_was(store):
    image = np.arange(12, dtype=np.uint8).reshape(3, 4)
    row = store.append(image, "cat", source="camera")
    (sample,) = store.read([row])
    assert (sample.id, sample.label, sample.array.dtype, sample.array.shape) == (1, "cat", "uint8", (3, 4))
    assert sample.array.data == image.tobytes()


def test_many_go_in_one_transaction_all_or_none(store):
    assert store.append_many(np.eye(3), [0, "one", None]) == range(1, 4)
    with pytest.raises(DataError, match=r"^sample 1: it holds NaN"):
        store.append_many([[1.0], [float("nan")]])
    with pytest.raises(DataError, match="2 samples but 1 labels"):
        store.append_many([[1.0], [2.0]], [1])
    assert labels_of(store) == [0, "one", None]
    assert store.append_many([]) == range(4, 4)
    assert store.append_many([[1.0]], source="x", holdout=True) == range(4, 5)


@pytest.mark.parametrize(
    "label", [0, 7, -1, "walking", "gehen, schnell", None, np.int64(3), np.str_("x"), ""]
)
def test_labels_are_whole_numbers_words_or_nothing(store, label):
    row = store.append([1.0], label)
    (sample,) = store.read([row])
    assert sample.label == (label if label != "" else None)
    assert type(sample.label) in {int, str, type(None)}


@pytest.mark.parametrize(
    "label", [1.0, True, b"x", [1], 2**63, "x" * 65, "two\nlines", "\ud800", np.float32(1)]
)
def test_other_labels_are_refused(store, label):
    with pytest.raises(DataError, match="the label is "):
        store.append([1.0], label)
    assert len(store) == 0


def test_a_label_may_come_later(store):
    row = store.append([1.0])
    assert store.usable(9) == []
    store.set_label(row, "run")
    assert store.usable(9) == [row]
    with pytest.raises(DataError, match="there is no sample 99"):
        store.set_label(99, 1)


# --- what the trainer and the agent ask -----------------------------------------------------------


def test_usable_rows_are_labelled_not_holdout_newest_first(store):
    store.append_many([[1.0], [2.0], [3.0, 3.0], [4.0]], ["a", None, 1, "z"])
    store.append([5.0], "b", holdout=True)
    assert store.usable(9) == [4, 3, 1]
    assert store.usable(2) == [4, 3]
    assert store.usable(9, ["a", "b"]) == [3, 1]  # 1 is the index of b
    assert store.usable(9, ["a"]) == [1]
    assert store.usable(9, shape=(1,)) == [4, 1]
    assert store.usable(9, holdout=True) == [5]


def test_distinct_and_new_count_contents_not_rows(store):
    store.append_many([[1.0], [1.0], [2.0], [3.0]], [0, 1, 0, None])
    store.append(np.array([[1.0]], np.float32), 0)  # same bytes, another shape
    store.append([9.0], 0, holdout=True)
    assert store.distinct() == 3
    assert store.distinct(["zero"]) == 3
    assert store.new_since(0) == 3
    assert store.new_since(1) == 3
    assert store.new_since(2) == 2
    assert store.new_since(5, ["zero"]) == 0
    assert store.new_since(10**6) == 3  # an id of a store that was lost


def test_counting_does_not_read_the_samples(store):
    where, parameters = selection.usable(["a", "b"])
    sql = f"EXPLAIN QUERY PLAN SELECT count(DISTINCT hash) FROM samples WHERE {where}"  # noqa: S608
    (*_, plan), *share = store._database.execute(sql, parameters)
    assert plan == "SCAN samples USING COVERING INDEX usable"
    assert [what for *_, what in share] == ["SCALAR SUBQUERY 1", "SCAN store"]


def test_stats_count_everything(store):
    store.append_many([[1.0], [2.0], [2.0], [3.0]], ["a", "b", "b", None])
    store.append([4.0], 0, holdout=True)
    stats = store.stats()
    assert (stats.rows, stats.bytes, stats.labelled, stats.holdout, stats.distinct) == (5, 20, 4, 1, 2)
    assert stats.per_label == ((0, 1), ("a", 1), ("b", 2))
    assert (stats.newest_id, stats.dropped, stats.damaged) == (5, 0, 0)
    assert (stats.max_rows, stats.max_bytes) == (50_000, 512 * 1024 * 1024)


# --- bounds ---------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=6), max_size=8),
    st.integers(1, 9),
    st.integers(48, 120),
)
def test_both_bounds_hold_the_oldest_go_and_are_counted(tmp_path_factory, batches, max_rows, max_bytes):
    path = tmp_path_factory.mktemp("bound") / "samples.db"
    sizes = {}
    with SampleStore(path, max_rows=max_rows, max_bytes=max_bytes) as store:
        for batch in batches:
            ids = store.append_many([[1.0] * size for size in batch])
            sizes |= {row: 4 * size for row, size in zip(ids, batch, strict=True)}
            kept = [sample.id for sample in store.read(sizes)]
            assert kept == sorted(sizes)[-len(kept) :]  # the newest
            total = sum(sizes[row] for row in kept)
            assert len(kept) <= max_rows
            assert total <= max_bytes
            if len(kept) < len(sizes):  # one more would have been too much
                assert len(kept) == max_rows or total + sizes[kept[0] - 1] > max_bytes
            stats = store.stats()
            assert (stats.rows, stats.bytes, stats.dropped) == (len(kept), total, len(sizes) - len(kept))


def test_a_bound_set_by_one_process_holds_for_all(store):
    store.append_many([[float(n)] for n in range(10)])
    SampleStore(store.path, max_rows=4)
    assert len(store) == 4
    store.append([0.0])
    assert [sample.id for sample in store.read(range(99))] == [8, 9, 10, 11]
    SampleStore(store.path)
    assert store.stats().max_rows == 4


def test_a_sample_larger_than_the_store_is_refused(tmp_path):
    with SampleStore(tmp_path / "samples.db", max_bytes=8) as store:
        row = store.append([1.0])
        with pytest.raises(DataError, match=r"larger than the whole store may be \(8 bytes\)"):
            store.append([1.0, 2.0, 3.0])
        assert store.usable(9) == []
        assert [sample.id for sample in store.read([row])] == [row]


# --- purge ----------------------------------------------------------------------------------------


def test_a_purge_removes_rows_features_and_bytes_and_raises_the_epoch(store):
    secret = b"\xa7\x5e" * 2000
    for n in range(600):
        store.append(memoryview(bytes([n % 256]) + secret).cast("B"))
    features_path(store.path).write_bytes(secret)
    epoch = store.epoch
    assert store.purge(before_id=101) == 100
    assert [sample.id for sample in store.read(range(99, 103))] == [101, 102]
    assert store.epoch != epoch
    assert store.purge() == 500
    assert len(store) == 0
    assert store.append([1.0]) == 601  # never used again
    assert not features_path(store.path).exists()
    left = {path.name: path.read_bytes() for path in store.path.parent.iterdir()}
    assert sum(map(len, left.values())) < 300_000
    assert not [name for name, data in left.items() if secret[:64] in data]


def test_the_bytes_of_purged_rows_are_gone_from_pages_that_others_share(store):
    contents = [bytes([n, 0xA7, 0x5E]) * 60 for n in range(120)]  # some twenty to a page
    store.append_many(memoryview(content).cast("B") for content in contents)
    store._database.execute("PRAGMA secure_delete = OFF")  # as it is where SQLite was built without
    store.purge(before_id=51)
    left = b"".join(path.read_bytes() for path in store.path.parent.iterdir())
    assert [content in left for content in contents] == [False] * 50 + [True] * 70


def test_a_purge_cut_short_is_finished_by_the_next(store, monkeypatch):
    store.append_many([[float(n)] for n in range(600)])
    delete, epoch = store._delete, store.epoch

    def cut(rows) -> None:
        raise KeyboardInterrupt

    def once(rows) -> None:
        monkeypatch.setattr(store, "_delete", cut)
        delete(rows)

    monkeypatch.setattr(store, "_delete", once)
    with pytest.raises(KeyboardInterrupt):
        store.purge()
    assert store.epoch != epoch
    assert 0 < len(store) < 600
    monkeypatch.undo()
    store.purge()
    assert (len(store), store.stats().bytes) == (0, 0)


# --- damage ---------------------------------------------------------------------------------------


def test_a_damaged_row_is_deleted_counted_and_not_trained_on(store, caplog):
    store.append_many([[1.0], [2.0], [3.0]], [0, 1, 2])
    with sqlite3.connect(store.path) as raw:
        raw.execute("UPDATE samples SET data = x'00000041' WHERE id = 2")
    assert [sample.id for sample in store.read([3, 2, 1])] == [3, 1]
    assert (len(store), store.stats().damaged) == (2, 1)
    assert "a damaged sample was deleted" in caplog.text


def test_a_damaged_database_is_set_aside_and_its_ids_are_told_apart(store):
    store.append([1.0], 1)
    epoch = store.epoch
    store.close()
    store.path.write_bytes(b"x" * 8192)
    with SampleStore(store.path) as new:
        assert new.quarantined == store.path.with_name("samples.db.damaged-1")
        assert len(new) == 0
        assert new.epoch != epoch
        assert new.recheck() is None


def test_damage_deep_inside_is_set_aside_by_a_recheck(store):
    store.append_many([np.full(5000, n, np.float32) for n in range(20)])
    store.close()
    data = store.path.read_bytes()
    store.path.write_bytes(data[: 8 * 4096] + b"\xff" * 4096 * 12 + data[20 * 4096 :])
    store._open(check=False)
    assert store.quarantined is None
    assert store.recheck()
    assert store.append([1.0]) == 1


# --- the disk -------------------------------------------------------------------------------------


def test_a_full_disk_loses_nothing_and_a_purge_makes_room(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-osize=4m", "tmpfs", folder], check=False).returncode
    ):
        pytest.skip("LEFT OUT: a small disk needs the right to mount a tmpfs")
    try:
        store = SampleStore(folder / "samples.db", max_rows=30)
        frames = [np.full(20_000, n, np.uint8) for n in range(100)]
        for start in range(0, 90, 10):
            store.append_many(frames[start : start + 10], range(start, start + 10))
        with pytest.raises(OSError, match="No space"):
            (folder / "ballast").write_bytes(bytes(4 << 20))
        kept = store.usable(99)
        with pytest.raises(StorageFull, match=r"samples\.db: the disk is full; make room, then try again"):
            store.append_many(frames, range(100))
        assert store.usable(99) == kept
        assert [sample.label for sample in store.read(kept)] == [*range(89, 59, -1)]
        assert store.purge() == 30
        store.append([1.0], 1)
        store.close()
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_state_folder_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(StorageError, match="there is no such file or folder"):
        SampleStore(database_path(tmp_path / "absent"))


# --- processes and users --------------------------------------------------------------------------

APPEND = """
import sys, fedclient
with fedclient.SampleStore(sys.argv[1]) as store:
    for n in range(int(sys.argv[2])):
        store.append([float(n)], n)
"""


def test_processes_append_while_another_reads(store):
    command = [sys.executable, "-c", APPEND, store.path, "25"]
    apps = [subprocess.Popen(command, cwd=ROOT) for _ in range(3)]
    while any(app.poll() is None for app in apps):
        assert all(sample.array.dtype == "float32" for sample in store.read(store.usable(99)))
    assert [app.returncode for app in apps] == [0, 0, 0]
    assert [label for label, _ in groupby(sorted(labels_of(store)))] == list(range(25))
    assert len(store) == 75


@pytest.fixture
def state():
    """A state folder on a path that other users may walk, owned by the agent's user and group."""
    if os.geteuid():
        pytest.skip("LEFT OUT: other user ids need root")
    folder = Path(f"/tmp/fedclient-test-{os.getpid()}")  # noqa: S108  pytest's own folders are private
    folder.mkdir()
    os.chown(folder, MEMBER - 10, GROUP)
    folder.chmod(0o750)
    yield folder
    subprocess.run(["rm", "-r", folder], check=True)


def as_user(user: int, groups: list[int], umask: int, work) -> None:
    """Run `work` under other ids in a child; an assertion that fails there fails here."""
    child = os.fork()
    if child == 0:
        try:
            os.umask(umask)
            os.setgroups(groups)
            os.setgid(user)
            os.setuid(user)
            work()
            os._exit(0)
        except BaseException as error:  # noqa: BLE001  nothing may return into pytest
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("umask", [0o022, 0o077])
@pytest.mark.parametrize("first", [MEMBER - 10, MEMBER])
def test_an_app_in_the_group_appends_and_reads_and_one_outside_cannot(state, umask, first):
    path = database_path(state)
    path.parent.mkdir()
    os.chown(path.parent, MEMBER - 10, GROUP)
    path.parent.chmod(0o2770)
    second = 2 * MEMBER - 10 - first

    def append_as(user: int, expected: list[object]):
        def work() -> None:
            with SampleStore(path) as store:
                store.append([1.0], user)
                assert labels_of(store) == expected

        as_user(user, [GROUP], umask, work)

    def stranger() -> None:
        with pytest.raises(StorageReadOnly, match="permission denied"):
            SampleStore(path)

    append_as(first, [first])
    append_as(second, [first, second])
    with SampleStore(path) as agent:  # while one has it open, -wal and -shm are there
        append_as(first, [first, second, first])
        found = {file.name: file.stat() for file in path.parent.iterdir()}
        assert {stat.S_IMODE(file.st_mode) for file in found.values()} == {0o660}
        assert {file.st_gid for file in found.values()} == {GROUP}
        assert found.keys() == {"samples.db", "samples.db-wal", "samples.db-shm"}
        assert len(agent) == 3
    as_user(STRANGER, [], umask, stranger)


def test_a_stranger_is_told_which_group_to_join(state):
    os.chown(state, 0, Path("/etc/shadow").stat().st_gid or 4)  # a group that has a name

    def stranger() -> None:
        with pytest.raises(StorageReadOnly, match=r"join the group \w+ \(sudo usermod -aG"):
            SampleStore(database_path(state))

    as_user(STRANGER, [], 0o022, stranger)
