"""The tables of the sample store: a store of any version before gets the later ones and keeps its samples."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedclient import storage
from fedclient.samples import store as stores
from fedclient.samples.array import as_array
from fedclient.samples.nodes import NodeRow
from fedclient.samples.schema import MIGRATIONS
from fedclient.samples.store import SampleStore


@pytest.mark.parametrize("version", range(1, len(MIGRATIONS)))
def test_a_store_from_before_gets_the_tables_and_keeps_its_samples(tmp_path: Path, version: int) -> None:
    path = tmp_path / "samples.db"
    old = storage.Database.open(path, migrations=MIGRATIONS[:version], mode=stores.FILE_MODE)
    old.execute(
        "INSERT INTO samples(source, holdout, hash, created_unix_s, bytes, dtype, shape, data)"
        " VALUES ('app', 0, ?, 0, 1, 'uint8', '1', x'07')",
        (stores._hash("uint8", "1", b"\x07"),),
    )
    old.close()
    with SampleStore(path) as store:
        assert [one.array.data for one in store.read([1])] == [b"\x07"]
        assert store.node_stats() == {}
        with store.node_rows() as rows:
            rows.add([row(1)], 0)
        assert store.node_stats()["shed"].samples == 1
        store._database.check(MIGRATIONS)


def row(counter: int) -> NodeRow:
    return NodeRow(
        node="shed", generation=1, counter=counter, label_counter=counter, array=as_array([1.0]), label=None
    )
