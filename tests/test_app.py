"""load_model(): the app's side, which needs `current/` and nothing else."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import fedclient
from fedclient import runtime
from fedclient.device.slots import Slots
from fedclient.device.tuned import Tuned, TunedHead
from fedclient.errors import DataError, ModelError, NoModelYet, StorageError
from fedclient.model.head import write_head
from fedclient.values import HeadVersion, Manifest
from fedclient.wire.blobs import split
from tests.runtime.models import FEATURES, Foreign, build
from tests.wire.golden import MANIFEST

MODEL = write_head(4, 3)
LOADED = runtime.load(MODEL)
X = np.arange(8, dtype=np.float32).reshape(2, 4)


def adopt(state: Path, version: int, model: bytes = MODEL, parameters: int | None = None) -> np.ndarray:
    (state / "current").mkdir(parents=True, exist_ok=True)
    size = 15 if parameters is None else parameters
    weights = np.random.default_rng(version).normal(size=size).astype(np.float32)
    data = weights.tobytes()
    Slots(state / "current").adopt(manifest(version, model, data), model, data)
    return weights


def manifest(version: int, model: bytes, head: bytes) -> Manifest:
    return replace(
        MANIFEST, head_version=HeadVersion(1, version), model=split(model).ref, head=split(head).ref
    )


def expected(weights: np.ndarray) -> np.ndarray:
    LOADED.set_weights(weights)
    return LOADED.infer(X)


def test_before_the_first_head_there_is_a_sentence(tmp_path) -> None:
    (tmp_path / "current").mkdir()
    for state in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(NoModelYet):
            fedclient.load_model(state)


def test_it_predicts_with_the_current_head(tmp_path) -> None:
    weights = adopt(tmp_path, 1)
    model = fedclient.load_model(str(tmp_path))
    assert model.version == HeadVersion(1, 1)
    assert model.labels == MANIFEST.labels
    np.testing.assert_array_equal(model.predict(X), expected(weights))
    np.testing.assert_array_equal(model.predict(X[0]), expected(weights)[0])
    assert model.predict(X.astype(np.int64)).dtype == np.float32


def test_refresh_takes_up_the_next_head(tmp_path) -> None:
    first = adopt(tmp_path, 1)
    model = fedclient.load_model(tmp_path)
    assert not model.refresh()
    second = adopt(tmp_path, 2)
    np.testing.assert_array_equal(model.predict(X), expected(first))  # until it is asked to
    assert model.refresh()
    assert model.version == HeadVersion(1, 2)
    np.testing.assert_array_equal(model.predict(X), expected(second))
    Slots(tmp_path / "current").fall_back(HeadVersion(1, 2))
    assert model.refresh()  # back with the agent
    assert model.version == HeadVersion(1, 1)
    assert not model.refresh()


def test_refresh_takes_up_another_model_and_keeps_one_that_stays(tmp_path, monkeypatch) -> None:
    adopt(tmp_path, 1)
    model = fedclient.load_model(tmp_path)
    adopt(tmp_path, 2)
    with monkeypatch.context() as patch:
        patch.setattr("fedclient.app.runtime.load", None)
        assert model.refresh()
    weights = adopt(tmp_path, 3, write_head(2, 3), parameters=9)  # bias [3], kernel [3, 2]
    assert model.refresh()
    wanted = weights[3:].reshape(3, 2) @ np.ones(2) + weights[:3]
    assert model.predict([1.0, 1.0]) == pytest.approx(wanted, rel=1e-5)


def test_a_new_model_that_cannot_be_used_changes_nothing(tmp_path) -> None:
    weights = adopt(tmp_path, 1)
    model = fedclient.load_model(tmp_path)
    adopt(tmp_path, 2, write_head(5, 3), parameters=1)
    for _ in range(2):
        with pytest.raises(ModelError):
            model.refresh()
        assert model.version == HeadVersion(1, 1)
        np.testing.assert_array_equal(model.predict(X), expected(weights))


def test_the_state_folder_follows_the_rules_of_the_commands(tmp_path, monkeypatch) -> None:
    adopt(tmp_path, 5)
    monkeypatch.setenv("FEDCLIENT_STATE", str(tmp_path))
    assert fedclient.load_model().version == HeadVersion(1, 5)


def tune(state: Path, seed: int, weights: np.ndarray | None = None) -> np.ndarray:
    """What a trainer leaves for the head that is active now."""
    if weights is None:
        weights = np.random.default_rng(seed).normal(size=15).astype(np.float32)
    slot = Slots(state / "current").active()
    assert slot is not None
    tuned = Tuned(
        generation=slot.version.generation, version=slot.version.version, adopted_sha256=slot.head_sha256,
        head_sha256=hashlib.sha256(weights.tobytes()).hexdigest(), samples_epoch=0, holdout=20,
        accuracy=0.9, adopted_accuracy=0.8,
    )  # fmt: skip
    TunedHead(state / "current").save(tuned, weights.tobytes())
    return weights


class TestWithATunedHead:
    """A copy of the adopted head that was tuned here is used while that head is the active one."""

    def test_it_is_preferred_and_the_version_stays_the_global_one(self, tmp_path) -> None:
        adopt(tmp_path, 1)
        tuned = tune(tmp_path, 50)
        model = fedclient.load_model(tmp_path)
        assert model.personal
        assert model.version == HeadVersion(1, 1)
        np.testing.assert_array_equal(model.predict(X), expected(tuned))
        assert not model.refresh()

    def test_refresh_notices_a_new_one_and_leaves_it_with_the_next_head(self, tmp_path) -> None:
        first = adopt(tmp_path, 1)
        model = fedclient.load_model(tmp_path)
        assert not model.personal
        for seed in (50, 51):
            tuned = tune(tmp_path, seed)
            assert model.refresh()
            assert model.personal
            assert model.version == HeadVersion(1, 1)
            np.testing.assert_array_equal(model.predict(X), expected(tuned))
            assert not model.refresh()
        second = adopt(tmp_path, 2)
        assert model.refresh()
        assert not model.personal
        np.testing.assert_array_equal(model.predict(X), expected(second))
        Slots(tmp_path / "current").fall_back(HeadVersion(1, 2))
        assert model.refresh()
        assert model.personal  # it was tuned beside the head that serves again
        TunedHead(tmp_path / "current").remove()
        assert model.refresh()
        assert not model.personal
        np.testing.assert_array_equal(model.predict(X), expected(first))

    def test_a_damaged_one_leaves_the_adopted_head(self, tmp_path) -> None:
        weights = adopt(tmp_path, 1)
        tune(tmp_path, 50)
        path = tmp_path / "current" / "personal"
        path.write_bytes(path.read_bytes()[:-1] + b"?")
        model = fedclient.load_model(tmp_path)
        assert not model.personal
        np.testing.assert_array_equal(model.predict(X), expected(weights))
        assert not model.refresh()

    @pytest.mark.parametrize("size", [0, 14, 16])
    def test_one_of_another_size_leaves_the_adopted_head(self, tmp_path, size) -> None:
        weights = adopt(tmp_path, 1)
        tune(tmp_path, 50, np.ones(size, np.float32))
        model = fedclient.load_model(tmp_path)
        assert not model.personal
        np.testing.assert_array_equal(model.predict(X), expected(weights))

    def test_one_that_is_not_finite_leaves_the_adopted_head(self, tmp_path) -> None:
        weights = adopt(tmp_path, 1)
        tune(tmp_path, 50, np.full(15, np.nan, np.float32))
        model = fedclient.load_model(tmp_path)
        assert not model.personal
        np.testing.assert_array_equal(model.predict(X), expected(weights))

    def test_a_head_adopted_again_with_other_bytes_is_taken_up(self, tmp_path) -> None:
        """A personal layer that was trained since is put over the same version."""
        adopt(tmp_path, 1)
        tune(tmp_path, 50)
        model = fedclient.load_model(tmp_path)
        slots = Slots(tmp_path / "current")
        other = np.arange(15, dtype=np.float32)
        slots.adopt(manifest(1, MODEL, other.tobytes()), MODEL, other.tobytes())
        assert model.refresh()
        assert not model.personal  # it was tuned beside other bytes
        np.testing.assert_array_equal(model.predict(X), expected(other))


@pytest.mark.parametrize("x", [[0, 1, 2, 3], (0.0, 1.0, 2.0, 3.0), np.arange(4), np.arange(4, dtype="f8")])
def test_any_numbers_will_do(tmp_path, x) -> None:
    weights = adopt(tmp_path, 1)
    np.testing.assert_array_equal(fedclient.load_model(tmp_path).predict(x), expected(weights)[0])


def test_no_samples_give_no_rows(tmp_path) -> None:
    adopt(tmp_path, 1)
    assert fedclient.load_model(tmp_path).predict(np.zeros((0, 4), np.float32)).shape == (0, 3)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_refused(tmp_path, bad) -> None:
    adopt(tmp_path, 1)
    with pytest.raises(DataError, match="NaN"):
        fedclient.load_model(tmp_path).predict([1, 2, 3, bad])


@pytest.mark.parametrize("shape", [(5,), (2, 5), (2, 2, 2), (), (4, 1), (1, 1, 4), (0,)])
def test_samples_of_another_shape_are_refused(tmp_path, shape) -> None:
    adopt(tmp_path, 1)
    with pytest.raises(DataError, match=r"\[4\]"):
        fedclient.load_model(tmp_path).predict(np.zeros(shape, np.float32))


def test_a_damaged_head_falls_back_and_damage_in_both_is_said(tmp_path) -> None:
    first = adopt(tmp_path, 1)
    adopt(tmp_path, 2)
    slot = Slots(tmp_path / "current").active()
    assert slot is not None
    (tmp_path / "current" / slot.head_file).write_bytes(hashlib.sha256(b"x").digest())
    model = fedclient.load_model(tmp_path)
    assert model.version == HeadVersion(1, 1)
    np.testing.assert_array_equal(model.predict(X), expected(first))
    for path in (tmp_path / "current").glob("*.tflite"):
        path.write_bytes(b"x")
    with pytest.raises(StorageError):
        fedclient.load_model(tmp_path)


@pytest.mark.parametrize("what", ["*.head", "*.tflite", "*.json"])
def test_where_both_slots_are_damaged_it_is_damage_and_not_no_model(tmp_path, what) -> None:
    adopt(tmp_path, 1)
    adopt(tmp_path, 2)
    for path in (tmp_path / "current").glob(what):
        path.write_bytes(b"damaged")
    with pytest.raises(StorageError, match="is not what was written"):
        fedclient.load_model(tmp_path)


@pytest.mark.parametrize("what", ["model", "list"])
def test_a_damaged_model_or_list_leaves_the_slot_before(tmp_path, what) -> None:
    first = adopt(tmp_path, 1)
    new = write_head(5, 3)
    adopt(tmp_path, 2, new)
    path = tmp_path / "current" / f"{split(new).ref.hash[:16].hex()}.tflite"
    (path if what == "model" else tmp_path / "current" / "current.json").write_bytes(b"\xff" * 40)
    model = fedclient.load_model(tmp_path)
    assert model.version == HeadVersion(1, 1)
    np.testing.assert_array_equal(model.predict(X), expected(first))
    assert not model.refresh()
    adopt(tmp_path, 3)  # the next head is taken up as ever
    assert model.refresh()


def test_only_current_is_read(tmp_path) -> None:
    """Neither keys nor database nor config: a program of the app's own sees every file it opens."""
    adopt(tmp_path, 1)
    hook = (
        "import sys; sys.addaudithook(lambda event, args: event in ('open', 'os.listdir', 'os.scandir',"
        " 'sqlite3.connect') and print(args[0]));"
    )
    code = "import sys, fedclient; fedclient.load_model(sys.argv[1]).refresh()"
    done = subprocess.run(
        [sys.executable, "-c", hook + code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    ours = {path for path in done.stdout.splitlines() if path.startswith((str(tmp_path), "/etc/fedclient"))}
    current = {str(path) for path in (tmp_path / "current").iterdir()}
    assert len(current) == 3
    assert ours == current


class TestWithABackbone:
    """A model with `features`: raw samples are uint8 [2, 2], its features their sixteenths."""

    MODEL = build(Foreign(features="dynamic"))
    RAW = np.array([[[0, 16], [32, 255]], [[1, 2], [3, 4]]], np.uint8)

    def test_raw_samples_go_through_it(self, tmp_path) -> None:
        weights = adopt(tmp_path, 1, self.MODEL)
        model = fedclient.load_model(tmp_path)
        features = self.RAW.reshape(2, FEATURES) / 16
        wanted = features @ weights[3:].reshape(3, FEATURES).T + weights[:3]
        assert model.predict(self.RAW) == pytest.approx(wanted, rel=1e-4, abs=1e-4)
        for single in (self.RAW[0], self.RAW[0].tolist()):
            np.testing.assert_array_equal(model.predict(single), model.predict(self.RAW)[0])

    def test_features_are_no_samples(self, tmp_path) -> None:
        adopt(tmp_path, 1, self.MODEL)
        with pytest.raises(DataError, match=r"the model takes \[2, 2\]"):
            fedclient.load_model(tmp_path).predict(np.zeros((1, FEATURES)))

    @pytest.mark.parametrize("bad", [0.5, -1, 256, np.nan])
    def test_values_that_its_type_cannot_hold_are_refused(self, tmp_path, bad) -> None:
        """A picture scaled to 0..1 would be all zeros."""
        adopt(tmp_path, 1, self.MODEL)
        with pytest.raises(DataError, match="uint8"):
            fedclient.load_model(tmp_path).predict([[0, 1], [2, bad]])


def test_without_a_state_the_config_file_says_where_as_for_the_commands(tmp_path, monkeypatch) -> None:
    settings = tmp_path / "config.toml"
    settings.write_text(f'state = "{tmp_path / "elsewhere"}"\n')
    monkeypatch.setenv("FEDCLIENT_CONFIG", str(settings))
    with pytest.raises(NoModelYet, match="elsewhere/current"):
        fedclient.load_model()
    (tmp_path / "elsewhere").mkdir()
    with fedclient.SampleStore() as store:
        assert store.path == tmp_path / "elsewhere" / "samples" / "samples.db"
