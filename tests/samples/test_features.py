"""Features are computed once; whatever happens to the file, none is ever wrong."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys

import numpy as np
import pytest

from fedclient.samples import features
from fedclient.samples.features import FeatureCache

MODEL, OTHER = b"m" * 32, b"o" * 32


def rows(*ids: int, width: int = 8) -> dict[int, np.ndarray]:
    return {sample: np.full(width, sample, np.float32) / 3 for sample in ids}


@pytest.fixture
def cache(tmp_path):
    opened = FeatureCache(tmp_path / "features.db")
    yield opened
    opened.close()


def same(found: dict[int, np.ndarray], expected: dict[int, np.ndarray]) -> bool:
    return found.keys() == expected.keys() and all(
        found[key].dtype == np.float32 and found[key].tobytes() == expected[key].tobytes() for key in found
    )


def test_features_come_back_bit_for_bit_by_model_and_sample(cache, tmp_path):
    cache.put(MODEL, rows(1, 2, 3))
    cache.put(OTHER, rows(7))
    assert same(cache.get(MODEL, [3, 1, 7, 9]), rows(1, 3))
    cache.close()
    assert same(FeatureCache(tmp_path / "features.db").get(OTHER, [7]), rows(7))


def test_a_row_put_again_is_replaced(cache):
    cache.put(MODEL, rows(1))
    cache.put(MODEL, {1: np.zeros(8, np.float32)})
    assert not cache.get(MODEL, [1])[1].any()
    cache._max_bytes = 64
    cache.put(MODEL, rows(2))  # two rows of 32 bytes: the replaced one is not counted
    assert cache.get(MODEL, [1, 2]).keys() == {1, 2}


def test_the_cache_is_bounded_and_the_oldest_go(tmp_path):
    cache = FeatureCache(tmp_path / "features.db", max_bytes=100 * 32)
    for start in range(0, 1000, 50):
        cache.put(MODEL, rows(*range(start, start + 50)))
    found = cache.get(MODEL, range(1000))
    assert 36 <= len(found) <= 100
    assert list(found) == list(range(1000 - len(found), 1000))
    assert cache.dropped == 0


def test_rows_of_other_models_go_first(tmp_path):
    cache = FeatureCache(tmp_path / "features.db", max_bytes=200 * 32)
    cache.put(MODEL, rows(*range(100)))
    cache.put(OTHER, rows(*range(100)))  # full
    cache.put(MODEL, rows(100, 101))
    assert len(cache.get(MODEL, range(102))) == 102
    assert len(cache.get(OTHER, range(100))) == 36  # 64 at a time
    cache.put(MODEL, rows(*range(102, 198)))
    assert len(cache.get(MODEL, range(198))) == 198
    assert cache.get(OTHER, range(100)) == {}
    cache.close()


def test_more_than_fits_is_kept_in_the_order_a_job_takes_it_and_stays(tmp_path):
    """Else each pass over more than fits would push out what the next one begins with."""
    cache = FeatureCache(tmp_path / "features.db", max_bytes=100 * 32)
    newest_first = range(300, 0, -1)
    for _ in range(2):
        for at in range(0, 300, 32):
            cache.put(MODEL, rows(*newest_first[at : at + 32]))
        assert list(cache.get(MODEL, newest_first)) == list(range(300, 200, -1))
    cache.put(MODEL, rows(301))
    assert 301 in cache.get(MODEL, [301])
    cache.put(MODEL, {5: np.zeros(10_000, np.float32)})  # alone more than there may be
    assert cache.get(MODEL, [5]) == {}
    assert cache.get(MODEL, [300])
    cache.close()


def test_many_rows_take_few_queries(cache, monkeypatch):
    cache.put(MODEL, rows(*range(1, 1001)))
    seen = []
    plain = cache._database.execute
    monkeypatch.setattr(cache._database, "execute", lambda *words: seen.append(words) or plain(*words))
    wanted = range(1000, 0, -1)
    assert list(cache.get(MODEL, wanted)) == list(wanted)
    assert len(seen) == 4


def test_what_is_pushed_out_is_found_by_an_index(cache):
    cache.put(MODEL, rows(1))
    for query in (features._OF_OTHERS, features._OLDEST, features._KNOWN.format("?2")):
        plan = cache._database.execute(f"EXPLAIN QUERY PLAN {query}", (MODEL, 64))
        assert not [row for row in plan if row[3].startswith("SCAN")], plan


PUTS = """
import sys
import numpy as np
from pathlib import Path
from fedclient.samples.features import FeatureCache
cache, hold_at = FeatureCache(Path(sys.argv[1])), int(sys.argv[2])
for put in range(10_000):
    if put == hold_at:
        plain = cache._database.executemany
        def held(sql, rows):
            plain(sql, rows)
            if sql.startswith("INSERT"):
                print("inside", flush=True)
                sys.stdin.read()
        cache._database.executemany = held
    cache.put(b"m" * 32, {put * 8 + n: np.full(8, put * 8 + n, np.float32) / 3 for n in range(8)})
    print(put, flush=True)
"""


@pytest.mark.parametrize(("hold_at", "done"), [(3, 3), (40, 40), (10_000, 2), (10_000, 30)])
def test_kill_9_leaves_what_was_put_and_nothing_of_the_rest(tmp_path, hold_at, done):
    """Killed inside a put's transaction, or wherever it happens to be after so many puts."""
    path = tmp_path / "features.db"
    with subprocess.Popen(
        [sys.executable, "-c", PUTS, path, str(hold_at)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as child:  # fmt: skip
        assert child.stdout is not None
        said = [child.stdout.readline().strip() for _ in range(done + (hold_at < 10_000))]
        child.kill()
    assert said[:done] == [str(put) for put in range(done)]
    cache = FeatureCache(path)
    found = cache.get(MODEL, range(80_000))
    assert same(found, rows(*range(len(found))))
    assert len(found) % 8 == 0
    assert len(found) == done * 8 if said[-1] == "inside" else len(found) >= done * 8
    cache.put(MODEL, rows(5))
    assert cache.dropped == 0
    ((total, held),) = sqlite3.connect(path).execute(
        "SELECT bytes, (SELECT sum(length(row)) FROM features) FROM total"
    )
    assert total == held
    cache.close()


def test_what_is_put_after_a_purge_goes(tmp_path):
    current = [True, True, False]
    cache = FeatureCache(tmp_path / "features.db", is_current=lambda: current.pop(0))
    cache.put(MODEL, rows(1))
    cache.put(MODEL, rows(2))
    assert same(cache.get(MODEL, [1, 2]), rows(1, 2))
    cache.put(MODEL, rows(3))
    assert not list(tmp_path.iterdir())
    assert cache.get(MODEL, [1, 2, 3]) == {}
    cache.close()


@pytest.mark.parametrize("damage", ["zeroblob(32)", "CAST('x' AS TEXT)", "7", "x'00'"])
def test_a_row_that_became_something_else_is_unknown(cache, tmp_path, damage):
    cache.put(MODEL, rows(1, 2))
    with sqlite3.connect(tmp_path / "features.db") as raw:
        raw.execute(f"UPDATE features SET row = {damage} WHERE sample = 1")  # noqa: S608  ours
    assert same(cache.get(MODEL, [1, 2]), rows(2))


def test_a_damaged_row_is_unknown(cache, tmp_path):
    cache.put(MODEL, rows(1, 2))
    with sqlite3.connect(tmp_path / "features.db") as raw:
        raw.execute("UPDATE features SET row = zeroblob(32) WHERE sample = 1")
    assert same(cache.get(MODEL, [1, 2]), rows(2))
    cache.put(MODEL, rows(1))
    assert same(cache.get(MODEL, [1, 2]), rows(1, 2))


def test_a_damaged_file_is_begun_anew_and_counted(cache, tmp_path):
    cache.put(MODEL, rows(1))
    cache.close()
    (tmp_path / "features.db").write_bytes(b"noise" * 2000)
    assert cache.get(MODEL, [1]) == {}
    assert cache.dropped == 1
    cache.put(MODEL, rows(1))
    assert same(cache.get(MODEL, [1]), rows(1))


def test_a_purge_by_another_process_is_noticed(cache, tmp_path):
    cache.put(MODEL, rows(1))
    for file in tmp_path.iterdir():
        file.unlink()
    assert cache.get(MODEL, [1]) == {}
    cache.put(MODEL, rows(2))
    assert same(cache.get(MODEL, [1, 2]), rows(2))


def test_no_room_is_no_error(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-osize=1m", "tmpfs", folder], check=False).returncode
    ):
        pytest.skip("LEFT OUT: a small disk needs the right to mount a tmpfs")
    try:
        cache = FeatureCache(folder / "features.db")
        for sample in range(40):
            cache.put(MODEL, rows(sample, width=10_000))
        found = cache.get(MODEL, range(40))
        assert 0 < len(found) < 40
        assert same(found, rows(*found, width=10_000))
        cache.close()
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_folder_that_is_not_there_is_no_error(tmp_path):
    cache = FeatureCache(tmp_path / "absent" / "features.db")
    cache.put(MODEL, rows(1))
    assert cache.get(MODEL, [1]) == {}
