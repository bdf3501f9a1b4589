from __future__ import annotations

import subprocess
import sys

import pytest

from fedclient.errors import AlreadyRunning, StorageError
from fedclient.gateway.store import (
    _MIGRATIONS,
    DATABASE_NAME,
    CountedUpdate,
    Release,
    Round,
    Store,
    sole_owner,
)
from fedclient.storage import Database
from fedclient.values import Base, Broker, CommandKind, HeadVersion


@pytest.fixture
def store(tmp_path):
    made = Store(tmp_path)
    with made.transaction():
        made.found("farm", Broker(host="h", port=1, tls=True))
    return made


def release(generation, version, head=b"h" * 32):
    where = HeadVersion(generation, version)
    base = Base(head_version=where, head_hash=head, plan_hash=b"p" * 32)
    return Release(head_version=where, model_hash=b"m" * 32, base=base, signed=b"%d" % version)


def add(store, *releases):
    with store.transaction():
        for one in releases:
            store.add_blob(one.model_hash, b"model")
            store.add_blob(one.base.head_hash, b"head")
            store.add_release(one)


def counted(device="a", version=1, counter=1, epochs=None):
    fields = {"weight": 0.1, "wire_bytes": 9, "body": b"b", "epochs": epochs}
    return CountedUpdate(device=device, base=HeadVersion(1, version), counter=counter, **fields)


def test_a_federation_is_founded_once(store, tmp_path):
    assert store.federation() == ("farm", Broker(host="h", port=1, tls=True))
    with pytest.raises(StorageError, match="another folder"), store.transaction():
        store.found("barn", Broker(host="h", port=1))


def test_a_database_without_commands_is_brought_up_to_date(tmp_path):
    old = Database.open(tmp_path / DATABASE_NAME, migrations=_MIGRATIONS[:1])
    with old.transaction():
        old.execute("INSERT INTO gateway (one, federation, host, port, tls) VALUES (1, 'farm', 'h', 1, 0)")
    assert old.one("PRAGMA user_version") == (1,)
    old.close()
    store = Store(tmp_path)
    assert store.federation() == ("farm", Broker(host="h", port=1))
    with store.transaction():
        sequence = store.commands.give(["a" * 16], CommandKind.PAUSE, 0, 7.0)
    assert store.commands.newest() == sequence == 7
    store.close()
    with pytest.raises(StorageError, match="newer"):
        Database.open(tmp_path / DATABASE_NAME, migrations=_MIGRATIONS[:1])


def test_updates_of_before_there_were_epochs_did_the_plans(tmp_path):
    old = Database.open(tmp_path / DATABASE_NAME, migrations=_MIGRATIONS[:2])
    with old.transaction():
        old.execute(
            "INSERT INTO counted (device, generation, version, counter, weight, wire_bytes, body)"
            " VALUES ('a', 1, 1, 1, 0.1, 9, ?)",
            (b"b",),
        )
    old.close()
    store = Store(tmp_path)
    assert list(store.buffered()) == [counted()]
    assert next(store.buffered()).epochs is None
    with store.transaction():
        store.add_counted(counted(device="b", epochs=3))
    assert [row.epochs for row in store.buffered()] == [None, 3]


def test_a_database_of_before_heads_were_encoded_goes_on(tmp_path):
    old = Database.open(tmp_path / DATABASE_NAME, migrations=_MIGRATIONS[:3])
    with old.transaction():
        old.execute("INSERT INTO blob VALUES (?, ?), (?, ?)", (b"h" * 32, b"head", b"m" * 32, b"model"))
        old.execute(
            "INSERT INTO head (generation, version, model, head, plan_hash, manifest, counted, accuracy,"
            " bytes_up, bytes_down, seconds, closed_unix_s) VALUES (1, 1, ?, ?, ?, ?, 3, 0.5, 1, 2, 0.5, 4)",
            (b"m" * 32, b"h" * 32, b"p" * 32, b"1"),
        )
    old.close()
    store = Store(tmp_path)
    ((version, made),) = store.rounds()
    assert version == HeadVersion(1, 1)
    assert made == Round(counted=3, accuracy=0.5, bytes_up=1, bytes_down=2, seconds=0.5, closed_unix_s=4)
    assert store.remainder.of(HeadVersion(1, 1), 2).tolist() == [0, 0]


def test_a_blob_is_found_by_the_first_bytes_of_its_hash(store):
    hashes = [b"a" * 32, b"a" * 15 + b"b" * 17, b"c" * 32]
    with store.transaction():
        for blob_hash in hashes:
            store.add_blob(blob_hash, blob_hash[-2:])
    assert [store.blob(blob_hash[:16]) for blob_hash in hashes] == [b"aa", b"bb", b"cc"]
    for unknown in (b"a" * 14 + b"bb", b"d" * 16, b"a" * 33):
        with pytest.raises(StorageError, match="missing"):
            store.blob(unknown)


def test_an_empty_database_says_what_to_do(tmp_path):
    with pytest.raises(StorageError, match="gateway init"):
        Store(tmp_path).federation()


def test_rule_4_4_the_database_survives_power_cuts(store):
    assert store._db.one("PRAGMA journal_mode") == ("wal",)
    assert store._db.one("PRAGMA synchronous") == (2,)


def test_releases_come_newest_first_and_bases_are_kept_for_ever(store):
    assert store.current() == HeadVersion(0, 0)
    add(store, release(1, 1), release(1, 2), release(2, 3))
    assert store.current() == HeadVersion(2, 3)
    assert [one.head_version.version for one in store.releases(2)] == [3, 2]
    assert store.release_of_version(2) == release(1, 2)
    assert store.release_of_version(9) is None
    assert store.base(HeadVersion(1, 1)) == release(1, 1).base
    assert store.base(HeadVersion(2, 1)) is None


def test_blobs_are_immutable(store):
    with store.transaction():
        store.add_blob(b"k", b"first")
        store.add_blob(b"k", b"second")
    assert store.blob(b"k") == b"first"
    with pytest.raises(StorageError, match="missing"):
        store.blob(b"none")


def test_rule_4_2_the_database_itself_refuses_a_second_counted_update(store):
    store.add_counted(counted())
    with pytest.raises(Exception, match="UNIQUE"):
        store.add_counted(counted(counter=2))


def test_the_buffer_is_read_in_the_order_of_counting(store):
    names = [f"device{number:03}" for number in range(200)][::-1]
    with store.transaction():
        for name in names:
            store.add_counted(counted(device=name))
    assert [row.device for row in store.buffered()] == names
    assert next(store.buffered()) == counted(device=names[0])


def test_weights_come_back_bit_for_bit(store):
    with store.transaction():
        store.add_counted(counted())
    assert next(store.buffered()).weight == 0.1


def test_retained_topics(store):
    with store.transaction():
        store.add_retained({"a", "b"})
        store.add_retained({"b", "c"})
        store.forget_retained({"a"})
    assert store.retained() == {"b", "c"}


def test_one_owner_at_a_time(tmp_path):
    program = (
        "import sys; from pathlib import Path; from fedclient.gateway.store import sole_owner\n"
        "with sole_owner(Path(sys.argv[1])): print('mine', flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout.readline() == b"mine\n"
    with pytest.raises(AlreadyRunning, match="another gateway is running"), sole_owner(tmp_path):
        pass
    child.kill()
    child.communicate()
    with sole_owner(tmp_path):
        pass
