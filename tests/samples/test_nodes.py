"""The tables of nodes in the sample store: what is a node's stays apart."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from fedclient.samples.array import as_array
from fedclient.samples.nodes import NodeRow
from fedclient.samples.store import SampleStore


def row(counter: int, label: int | None = None) -> NodeRow:
    return NodeRow(
        node="shed", generation=1, counter=counter, label_counter=counter, array=as_array([1.0]), label=label
    )


def test_a_counter_is_stored_once_whoever_forgets(tmp_path: Path) -> None:
    with SampleStore(tmp_path / "samples.db") as store:
        with store.node_rows() as rows:
            rows.add([row(1)], 0)
        with pytest.raises(sqlite3.IntegrityError), store.node_rows() as rows:
            rows.add([row(2), row(1)], 0)
        assert len(store) == 1
        store.append([1.0], source="shed")  # an app's samples have no counter
        store.append([1.0], source="shed")
        assert len(store) == 3


def test_the_store_keeps_its_own_bounds(tmp_path: Path) -> None:
    with SampleStore(tmp_path / "samples.db", max_rows=2) as store:
        with store.node_rows() as rows:
            rows.add([row(one) for one in range(1, 6)], 0)
        assert (len(store), store.stats().dropped) == (2, 3)


def test_one_nodes_samples_can_be_purged(tmp_path: Path) -> None:
    with SampleStore(tmp_path / "samples.db") as store:
        with store.node_rows() as rows:
            rows.add([row(1), row(2), replace(row(1), node="barn")], 0)
        ours = store.append([1.0], source="shed")  # an app that calls itself so
        with store.node_rows() as rows:
            rows.add([row(3)], 0)
        epoch = store.epoch
        assert store.purge(ours, node="shed") == 2
        assert [one.id for one in store.read(range(1, 9))] == [3, ours, 5]
        assert store.purge(node="shed") == 1
        assert (store.purge(node="nobody"), len(store)) == (0, 2)
        assert store.epoch != epoch


def test_figures_add_up(tmp_path: Path) -> None:
    with SampleStore(tmp_path / "samples.db") as store:
        for _ in range(2):
            with store.node_rows() as rows:
                rows.count({("shed", "wrong tag"): 2, ("", "unknown node"): 1})
        with store.node_rows() as rows:
            rows.add([row(1, 3), row(2)], 0)
        found = store.node_stats()
        assert found[""].counts == {"unknown node": 2}
        assert (found["shed"].samples, found["shed"].labelled) == (2, 1)
        assert found["shed"].counts == {"wrong tag": 4}
