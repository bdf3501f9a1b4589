"""From samples to examples: what does not fit is skipped and counted, and a backbone runs once."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from fedclient import runtime
from fedclient.errors import DataError
from fedclient.model.head import write_head
from fedclient.samples.features import FeatureCache
from fedclient.samples.store import SampleStore
from fedclient.training import dataset
from fedclient.training.dataset import Features, class_number, prepare

LABELS = ("walk", "sit", "fall", "not in this head")
MODEL = runtime.load(write_head(6, 3))


@pytest.fixture
def store(tmp_path):
    with SampleStore(tmp_path / "samples" / "samples.db") as opened:
        yield opened


def prepared(store, model=MODEL, ids=None):
    cache = FeatureCache(store.path.with_name("features.db"))
    ids = store.usable(1000) if ids is None else ids
    return prepare(store.read(ids), model, LABELS, Features(model, b"m", cache))


@pytest.mark.parametrize(
    ("label", "classes", "number"),
    [
        (0, 3, 0), (2, 3, 2), (3, 3, None), (-1, 3, None), (None, 3, None),
        ("walk", 3, 0), ("fall", 3, 2), ("Walk", 3, None), ("", 3, None),
        ("not in this head", 3, None),  # more labels than classes
        (1, 1, 1), (2, 1, None),
    ],
)  # fmt: skip
def test_labels_become_classes_or_do_not_fit(label, classes, number) -> None:
    assert class_number(label, LABELS, classes) == number


def test_what_does_not_fit_is_skipped_and_counted(store) -> None:
    store.append([1, 2, 3, 4, 5, 6], 0)
    store.append([1, 2, 3, 4, 5, 7], "sit")
    store.append([1, 2, 3, 4, 5], 1)  # too short
    store.append([1, 2, 3, 4, 5, 6], 7)
    store.append([1, 2, 3, 4, 5, 6], "other")
    store.append([1, 2, 3, 4, 5, 6], 2)
    found = prepared(store)
    assert found.ids == (6, 2, 1)  # newest first, as the store gives them
    assert found.examples.y.tolist() == [2, 1, 0]
    assert found.examples.x.shape == (3, 6)
    assert (found.skipped, found.distinct) == (3, 2)


def test_samples_of_other_shapes_and_types_train_together(store) -> None:
    store.append(np.arange(6, dtype=np.uint8), 0)
    store.append(np.arange(6, dtype=np.float32).reshape(2, 3), 1)
    store.append(np.arange(6, dtype=np.int16).reshape(6, 1), 2)
    assert prepared(store).examples.x.tolist() == [[0, 1, 2, 3, 4, 5]] * 3


def test_nothing_that_fits_is_an_error_that_says_what_would(store) -> None:
    store.append([1.0], 0)
    with pytest.raises(DataError, match=r"\[6\] float32 \(the first is \[1\] float32\)"):
        prepared(store)
    with pytest.raises(DataError):
        prepared(store, ids=[])


def test_more_samples_than_one_batch_keep_their_order(store) -> None:
    ids = list(store.append_many([[float(n)] * 6 for n in range(600)], [n % 3 for n in range(600)]))
    found = prepared(store, ids=ids)
    assert found.examples.x[:, 0].tolist() == list(range(600))
    assert found.distinct == 600


def backbone(calls: list[int]):
    """A stand-in with a features signature: what it computes is not the point here."""

    def extract(x):
        calls.append(len(x))
        return x.reshape(len(x), -1)[:, :3].astype(np.float32) * 2

    return SimpleNamespace(
        has_features=True, x_shape=(3,), features=3, classes=3, extract=extract,
        sample_shape=(2, 3), sample_dtype=np.dtype(np.uint8),
    )  # fmt: skip


def test_large_samples_are_fewer_at_once(store, monkeypatch) -> None:
    monkeypatch.setattr(dataset, "_BATCH_BYTES", 3 * 6 * 4)
    store.append_many(np.ones((7, 6), np.float32), [0] * 7)
    taken = []

    def features(batch):
        taken.append(len(batch))
        return np.zeros((len(batch), 6), np.float32)

    prepare(store.read(store.usable(1000)), MODEL, LABELS, features)
    assert taken == [3, 3, 1]


def test_the_backbone_runs_once_for_each_sample_ever(store) -> None:
    calls: list[int] = []
    store.append_many([np.full((2, 3), n, np.uint8) for n in range(5)], [0] * 5)
    first = prepared(store, backbone(calls))
    again = prepared(store, backbone(calls))
    assert calls == [5]
    assert again.examples.x.tolist() == first.examples.x.tolist() == [[2 * n] * 3 for n in (4, 3, 2, 1, 0)]
    store.append(np.full((2, 3), 9, np.uint8), 1)
    assert prepared(store, backbone(calls)).examples.x[0].tolist() == [18] * 3
    assert calls == [5, 1]


def test_a_backbone_takes_no_more_at_once_than_the_board_allows_and_may_be_stopped_in_between(store) -> None:
    calls: list[int] = []
    store.append_many([np.full((2, 3), n, np.uint8) for n in range(5)], [0] * 5)
    cache = FeatureCache(store.path.with_name("features.db"))

    def stop_at_the_third() -> None:
        if len(calls) == 2:
            raise InterruptedError

    model = backbone(calls)
    features = Features(model, b"m", cache, at_once=2, before_each=stop_at_the_third)
    with pytest.raises(InterruptedError):
        prepare(store.read((1, 2, 3, 4, 5)), model, LABELS, features)
    assert calls == [2, 2]
    whole = prepare(store.read((1, 2, 3, 4, 5)), model, LABELS, Features(model, b"m", cache, at_once=2))
    assert calls == [2, 2, 1]  # what was cached by then stayed
    assert whole.examples.x[:, 0].tolist() == [0, 2, 4, 6, 8]


def test_the_backbone_is_timed_and_counted_and_the_cache_is_not(store) -> None:
    calls: list[int] = []
    store.append_many([np.full((2, 3), n, np.uint8) for n in range(100)], [0] * 100)
    cache = FeatureCache(store.path.with_name("features.db"))
    first, again = (Features(backbone(calls), b"m", cache) for _ in range(2))
    for features in (first, again):
        prepare(store.read(range(1, 101)), backbone(calls), LABELS, features)
    assert calls == [32, 32, 32, 4]  # each of these is on the disk before the next
    assert (first.computed, again.computed) == (100, 0)
    assert first.seconds > again.seconds == 0.0


def test_what_is_done_is_on_the_disk_before_the_next_few_are_begun(store) -> None:
    path = store.path.with_name("features.db")
    store.append_many([np.full((2, 3), n, np.uint8) for n in range(100)], [0] * 100)
    durable: list[int] = []

    def look() -> None:
        durable.append(len(FeatureCache(path).get(b"m", range(1, 101))))

    features = Features(backbone([]), b"m", FeatureCache(path), before_each=look)
    prepare(store.read(range(1, 101)), backbone([]), LABELS, features)
    assert durable == [0, 32, 64, 96]


@pytest.mark.parametrize("row", [np.ones(5), np.ones(0), np.full(3, np.nan), np.full(3, np.inf)])
def test_what_others_wrote_into_the_cache_is_computed_again(store, row) -> None:
    path = store.path.with_name("features.db")
    store.append_many([np.full((2, 3), n, np.uint8) for n in range(4)], [0] * 4)
    honest = prepare(store.read(range(1, 5)), backbone([]), LABELS, Features(backbone([]), b"m"))
    for ids in ((2,), (1, 2, 3, 4)):
        FeatureCache(path).put(b"m", dict.fromkeys(ids, row.astype(np.float32)))
        features = Features(backbone([]), b"m", FeatureCache(path))
        found = prepare(store.read(range(1, 5)), backbone([]), LABELS, features)
        assert np.array_equal(found.examples.x, honest.examples.x)


def test_without_a_cache_nothing_is_kept(store) -> None:
    calls: list[int] = []
    store.append_many([np.full((2, 3), n, np.uint8) for n in range(5)], [0] * 5)
    for _ in range(2):
        found = prepare(store.read(range(1, 6)), backbone(calls), LABELS, Features(backbone(calls)))
        assert found.examples.x[:, 0].tolist() == [0, 2, 4, 6, 8]
    assert calls == [5, 5]
    assert not store.path.with_name("features.db").exists()


def test_a_backbone_takes_its_own_shape_and_type_only(store) -> None:
    store.append(np.zeros((2, 3), np.uint8), 0)
    store.append(np.zeros((3, 2), np.uint8), 0)
    store.append(np.zeros((2, 3), np.float32), 0)
    found = prepared(store, backbone([]))
    assert (found.ids, found.skipped) == ((1,), 2)
