from __future__ import annotations

import numpy as np
import pytest

from fedclient.gateway.store import Store
from fedclient.values import HeadVersion

V = HeadVersion(2, 7)
LEFT = np.array([0.1, -0.2, 1e-300])


@pytest.fixture
def store(tmp_path):
    made = Store(tmp_path)
    with made.transaction():
        made.remainder.put(V, LEFT)
    return made


def test_it_comes_back_bit_for_bit_from_another_process(store, tmp_path):
    assert Store(tmp_path).remainder.of(V, 3).tobytes() == LEFT.tobytes()


@pytest.mark.parametrize("other", [HeadVersion(2, 8), HeadVersion(3, 7), HeadVersion(2, 6)])
def test_another_head_has_none(store, other):
    assert store.remainder.of(other, 3).tolist() == [0, 0, 0]


def test_there_is_one_that_of_the_newest(store):
    with store.transaction():
        store.remainder.put(HeadVersion(2, 8), 2 * LEFT)
    assert not store.remainder.of(V, 3).any()
    assert store.remainder.of(HeadVersion(2, 8), 3).tolist() == (2 * LEFT).tolist()
    assert store._db.execute("SELECT count(*) FROM remainder") == [(1,)]


@pytest.mark.parametrize(("data", "digest"), [(bytes(24), None), (None, bytes(32)), (bytes(8), None)])
def test_a_damaged_one_is_left_out_and_the_log_says_so(store, data, digest, caplog):
    with store.transaction():
        store._db.execute(
            "UPDATE remainder SET data = coalesce(?, data), hash = coalesce(?, hash)", (data, digest)
        )
    assert store.remainder.of(V, 3).tolist() == [0, 0, 0]
    assert "head 2.7" in caplog.text
