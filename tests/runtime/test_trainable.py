from __future__ import annotations

import numpy as np
import pytest

from fedclient import limits
from fedclient.errors import DataError, ModelError
from fedclient.model.head import HeadOptions, Optimizer, write_head
from fedclient.model.reference import Reference
from fedclient.runtime import load, trainable
from fedclient.runtime.tensors import unflatten
from fedclient.values import TensorSpec
from tests.runtime.models import CLASSES, FEATURES, Foreign, build

RATE = {"learning_rate": 0.5}


@pytest.fixture
def data():
    rng = np.random.default_rng(3)
    return rng.normal(size=(6, FEATURES)).astype(np.float32), rng.integers(0, CLASSES, 6)


def random_head(model, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=sum(spec.size for spec in model.tensors)).astype(np.float32)


@pytest.mark.parametrize("hidden", [None, 1, 7, 128])
@pytest.mark.parametrize("rows", [1, 33])
def test_a_step_is_that_of_the_reference(hidden, rows):
    model = load(write_head(FEATURES, CLASSES, hidden))
    rng = np.random.default_rng(rows)
    x, y = rng.normal(size=(rows, FEATURES)).astype(np.float32), rng.integers(0, CLASSES, rows)
    start = random_head(model)
    model.set_weights(start)
    reference = Reference(unflatten(start, model.tensors))
    assert model.train_step(x, y, RATE) == pytest.approx(reference.step(x, y, RATE), rel=1e-5, abs=1e-6)
    after, want = unflatten(model.get_weights(), model.tensors), reference.weights
    assert all(np.allclose(after[name], want[name], rtol=1e-5, atol=1e-6) for name in want)


def test_what_a_model_says_of_itself():
    model = load(write_head(FEATURES, CLASSES, 2))
    assert model.signatures == ("get_state", "get_weights", "infer", "set_state", "set_weights", "train")
    assert [spec.name for spec in model.tensors] == [
        "hidden/bias",
        "hidden/kernel",
        "output/bias",
        "output/kernel",
    ]
    assert (model.features, model.x_shape, model.classes, model.fixed_batch) == (
        FEATURES,
        (FEATURES,),
        3,
        None,
    )
    assert (model.has_features, model.sample_shape, model.sample_dtype) == (False, (FEATURES,), np.float32)
    assert model.hyper_parameters == ("l2", "learning_rate", "mu")
    assert load(build(Foreign())).get_state() == {}


def test_set_then_get_is_exact_and_first_of_all_too():
    model = load(write_head(FEATURES, CLASSES, 5))
    flat = random_head(model)
    flat[:3] = [1e-45, -0.0, 3e38]
    model.set_weights(flat)
    assert model.get_weights().tobytes() == flat.tobytes()


def test_a_head_that_does_not_fit_changes_nothing():
    model = load(write_head(FEATURES, CLASSES))
    flat = random_head(model)
    model.set_weights(flat)
    holed = flat.copy()
    holed[-1] = np.nan
    for wrong in (flat[:-1], flat.astype(np.float64), flat.reshape(1, -1), holed):
        with pytest.raises(ModelError):
            model.set_weights(wrong)
        assert np.array_equal(model.get_weights(), flat)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (np.zeros((2, 5), np.float32), [0, 1]),
        (np.zeros((2, 4)), [0, 1]),
        (np.full((2, 4), np.nan, np.float32), [0, 1]),
        (np.zeros((0, 4), np.float32), []),
        (np.zeros((2, 4), np.float32), [0, 3]),
        (np.zeros((2, 4), np.float32), [-1, 0]),
        (np.zeros((2, 4), np.float32), [0]),
        (np.zeros((2, 4), np.float32), [0.0, 1.0]),
    ],
)
def test_data_that_does_not_fit_is_refused_and_trains_nothing(x, y):
    model = load(write_head(FEATURES, CLASSES))
    with pytest.raises(DataError):
        model.train_step(x, np.array(y), RATE)
    assert not model.get_weights().any()


def test_training_that_diverges_is_an_error_and_not_a_number(data):
    model = load(write_head(FEATURES, CLASSES))
    model.train_step(*data, {"learning_rate": 3e38})
    with pytest.raises(ModelError, match="lower the learning rate"):
        model.train_step(*data, {"learning_rate": 3e38})
    model.set_weights(np.zeros(15, np.float32))
    model.train_step(data[0] * np.float32(1e10), data[1], {"learning_rate": 3e38})
    with pytest.raises(ModelError, match="not finite"):  # TFLite clamped it to the largest float32
        model.get_weights()


def test_infer_takes_any_number_of_rows(data):
    model = load(write_head(FEATURES, CLASSES))
    model.set_weights(random_head(model))
    x = np.random.default_rng(0).normal(size=(600, FEATURES)).astype(np.float32)
    kernel = unflatten(model.get_weights(), model.tensors)
    want = x @ kernel["output/kernel"].T + kernel["output/bias"]
    assert np.allclose(model.infer(x), want, atol=1e-5)
    assert model.infer(x[:0]).shape == (0, CLASSES)
    with pytest.raises(DataError):
        model.infer(x.astype(np.float64))


def test_hyper_parameters_are_honoured_or_refused(data):
    plain, built_in = load(build(Foreign())), load(build(Foreign(rate=None)))
    with pytest.raises(ModelError, match=r"also needs.*learning_rate"):
        plain.train_step(*data, {})
    with pytest.raises(ModelError, match=r"no input for.*momentum"):
        plain.train_step(*data, RATE | {"momentum": 0.9})
    for rate in (float("nan"), 1e39):  # the second is finite until it is a float32
        with pytest.raises(ModelError, match="not finite"):
            plain.train_step(*data, {"learning_rate": rate})
    assert built_in.hyper_parameters == ()
    losses = [built_in.train_step(*data, RATE) for _ in range(5)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    "kind",
    [
        Foreign(x="inputs", y="labels", rate="lr", infer_x="images", loss="cost", logits="scores"),
        Foreign(one_hot=True),
        Foreign(one_hot=True, x="a", y="b"),
        Foreign(rate_shape=()),
    ],
)
def test_other_peoples_models_train(kind, data, monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    model = load(build(kind))
    losses = [model.train_step(*data, {"learning_rate": 0.1}) for _ in range(5)]
    assert losses[-1] < losses[0]
    assert model.infer(data[0]).shape == (6, CLASSES)


def test_a_fixed_batch_trains_on_just_that_and_predicts_on_any(data):
    model = load(build(Foreign(batch=4)))
    x, y = data
    assert model.fixed_batch == 4
    model.train_step(x[:4], y[:4], RATE)
    with pytest.raises(DataError, match="4 rows at a time, not on 6"):
        model.train_step(x, y, RATE)
    free = load(build(Foreign()))
    free.set_weights(model.get_weights())
    assert np.allclose(model.infer(x), free.infer(x), atol=1e-6)


@pytest.mark.parametrize("features", ["dynamic", "stubborn"])
def test_features_come_from_raw_samples_even_row_by_row(features):
    model = load(build(Foreign(features=features)))
    assert (model.has_features, model.sample_shape, model.sample_dtype) == (True, (2, 2), np.uint8)
    raw = np.random.default_rng(0).integers(0, 256, (5, 2, 2), np.uint8)
    for _ in range(2):
        assert np.array_equal(model.extract(raw), raw.reshape(5, 4).astype(np.float32) / 16)
    assert model.extract(raw[:0]).shape == (0, FEATURES)
    with pytest.raises(DataError):
        model.extract(raw.astype(np.float32))
    with pytest.raises(ModelError, match="no signature 'features'"):
        load(build(Foreign())).extract(raw)


def test_the_optimisers_state_goes_out_and_back(data):
    model = load(build(Foreign(state=True)))
    for _ in range(3):
        model.train_step(*data, RATE)
    state = model.get_state()
    assert state["steps"].tolist() == [3]
    assert [spec.name for spec in model.tensors] == ["output/bias", "output/kernel"]
    fresh = load(build(Foreign(state=True)))
    assert fresh.get_state()["steps"].tolist() == [0]
    fresh.set_state(state)
    assert fresh.get_state()["steps"].tolist() == [3]
    for wrong in ({}, {"steps": np.zeros(2, np.float32)}, {"steps": np.array([np.nan], np.float32)}):
        with pytest.raises(ModelError):
            fresh.set_state(wrong)


@pytest.mark.parametrize("optimizer", Optimizer)
def test_a_job_resumed_from_weights_and_state_is_bit_identical(data, optimizer):
    options = HeadOptions(optimizer=optimizer, personal=True, normalize=True)
    through, resumed = (load(write_head(FEATURES, CLASSES, 7, options=options)) for _ in range(2))
    hyper = RATE | {"l2": 0.01, "mu": 0.1} | ({"momentum": 0.9} if optimizer is Optimizer.MOMENTUM else {})
    for _ in range(3):
        through.train_step(*data, hyper)
    resumed.set_weights(through.get_weights())
    resumed.set_state(through.get_state())
    for model in (through, resumed):
        for _ in range(3):
            model.train_step(*data, hyper)
    assert through.get_weights().tobytes() == resumed.get_weights().tobytes()
    state = resumed.get_state()
    assert all(value.tobytes() == state[name].tobytes() for name, value in through.get_state().items())


def test_l2_and_mu_are_0_where_nobody_asks_for_them(data):
    one, two = (load(write_head(FEATURES, CLASSES)) for _ in range(2))
    for model in (one, two):
        model.set_weights(random_head(model))
    for _ in range(2):
        one.train_step(*data, RATE)
        two.train_step(*data, RATE | {"l2": 0.0, "mu": 0.0})
    assert np.array_equal(one.get_weights(), two.get_weights())
    two.train_step(*data, RATE | {"mu": 0.5})
    one.train_step(*data, RATE)
    assert not np.array_equal(one.get_weights(), two.get_weights())
    with pytest.raises(ModelError, match=r"no input for.*momentum"):
        one.train_step(*data, RATE | {"momentum": 0.9})
    with pytest.raises(ModelError, match=r"also needs.*momentum"):
        load(write_head(4, 3, options=HeadOptions(optimizer=Optimizer.MOMENTUM))).train_step(*data, RATE)


def test_shared_models_load_or_say_why_not(shared):
    models = shared / "models"
    model = load(models / "training_model.tflite")
    assert model.tensors == (TensorSpec(name="b", shape=(1,)), TensorSpec(name="w", shape=(1, 1)))
    assert model.fixed_batch == 1
    one = np.ones((1, 1), np.float32)
    losses = [model.train_step(one, one, RATE) for _ in range(3)]
    assert losses == sorted(losses, reverse=True)
    with pytest.raises(ModelError, match=r"Flex ops.*built-in"):
        load(models / "training_model_flex.tflite")
    with pytest.raises(ModelError, match=r"no signature train.*serving_default.*attach-head makes"):
        load(models / "hello_world_float.tflite")


def test_a_model_that_cannot_be_set_is_refused():
    with pytest.raises(ModelError, match="'set_weights' takes"):
        load(build(Foreign(swap=True)))


def test_files_and_bounds(tmp_path, monkeypatch):
    path = tmp_path / "m.tflite"
    with pytest.raises(ModelError, match="cannot read"):
        load(path)
    path.write_bytes(write_head(FEATURES, CLASSES))
    assert load(path, threads=2).classes == CLASSES
    monkeypatch.setattr(limits, "MAX_HEAD_PARAMETERS", 10)
    with pytest.raises(ModelError, match="out of bounds"):
        load(path)
    monkeypatch.setattr(trainable.limits, "MAX_MODEL_BYTES", 100)
    with pytest.raises(ModelError, match="more than 100"):
        load(path)
    with pytest.raises(ModelError, match="more than 100"):
        load(path.read_bytes())
