"""Which rows are hold-out: by their ids alone, the share that was asked for, and stable."""

from __future__ import annotations

import pytest

from fedclient.samples.store import SampleStore


@pytest.fixture
def path(tmp_path):
    return tmp_path / "samples" / "samples.db"


def held(store: SampleStore) -> set[int]:
    return set(store.usable(10**6, holdout=True))


def fill(store: SampleStore, count: int) -> None:
    store.append_many([[float(row)] for row in range(count)], [row % 3 for row in range(count)])


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.5])
def test_the_share_is_kept_closely_also_among_every_kth_row(path, share) -> None:
    with SampleStore(path, holdout=share) as store:
        fill(store, 3000)
        found = held(store)
        for step in (1, 2, 3, 5, 7, 10):
            rows = set(range(1, 3001, step))
            assert abs(len(found & rows) - share * len(rows)) <= 6, step


def test_the_split_is_the_same_in_every_process_and_never_changes(path) -> None:
    with SampleStore(path, holdout=0.2) as store:
        fill(store, 100)
        before = held(store)
        with SampleStore(path) as other:  # the trainer, or `fedclient samples`: it takes what is set
            assert held(other) == before
            assert sorted(before | set(other.usable(1000))) == list(range(1, 101))
            assert not before & set(other.usable(1000))
        fill(store, 100)
        store.purge(before_id=50)
        assert {row for row in held(store) if row <= 100} == {row for row in before if row >= 50}


def test_a_larger_share_holds_out_the_same_rows_and_more(path) -> None:
    with SampleStore(path, holdout=0.1) as store:
        fill(store, 500)
        few = held(store)
        with SampleStore(path, holdout=0.3) as other:
            assert few < held(other)
        assert len(held(store)) > len(few), "the share is the store's, not a process's"


def test_rows_that_the_app_marked_are_hold_out_whatever_the_share(path) -> None:
    with SampleStore(path, holdout=0.0) as store:
        row = store.append([1.0], 1, holdout=True)
        assert held(store) == {row}


def test_all_counts_agree_on_what_is_trained_on(path) -> None:
    with SampleStore(path, holdout=0.3) as store:
        fill(store, 200)
        store.append([0.5], None)  # no label yet: in neither
        store.append([0.5], 7)  # a label that this head does not know
        labels = ["a", "b", "c"]
        training = store.usable(1000, labels)
        assert store.distinct(labels) == store.new_since(0, labels) == len(training)
        assert store.new_since(150, labels) == len([row for row in training if row > 150])
        assert store.labelled(labels) == 200 == len(training) + len(store.usable(1000, labels, holdout=True))
        stats = store.stats()
        assert (stats.distinct, stats.labelled) == (store.distinct(), 201)
        unlabelled_in_training = stats.rows - stats.holdout - len(store.usable(1000))
        assert unlabelled_in_training in {0, 1}
