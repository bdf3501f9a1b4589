"""Keras models: most of it only where TensorFlow is, which `tools/test --keras` sees to."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from fedclient import runtime
from fedclient.errors import ModelError, UsageError
from fedclient.model import keras
from fedclient.model.head import HeadOptions, Optimizer
from fedclient.model.keras_layers import Split
from fedclient.runtime.interpreter import open_signatures
from fedclient.values import MEAN, MEAN_SQUARE

RNG = np.random.default_rng(3)
PICTURES = (255 * RNG.random((64, 12, 12, 3))).astype(np.float32)
SIGNALS = RNG.normal(size=(64, 10, 6)).astype(np.float32)


@pytest.fixture(scope="module")
def k():
    tensorflow = pytest.importorskip(
        "tensorflow", reason="LEFT OUT: TensorFlow is not installed (tools/test --keras)"
    )
    tensorflow.keras.utils.set_random_seed(0)
    return tensorflow.keras


def cnn(k, *top):
    layers = k.layers
    return k.Sequential(
        [
            k.Input(PICTURES.shape[1:]),
            layers.Rescaling(1 / 127.5, -1),
            layers.Conv2D(8, 3, strides=2, activation="relu"),
            layers.BatchNormalization(),
            layers.GlobalAveragePooling2D(),
            layers.Dropout(0.2),
            *(top or [layers.Dense(5, activation="softmax")]),
        ]
    )


def functional(k):
    layers = k.layers
    x = k.Input(PICTURES.shape[1:])
    below = layers.Flatten()(layers.Conv2D(4, 3, activation="relu")(x))
    below = layers.Dropout(0.3)(layers.ReLU()(layers.Dense(9, name="low")(below)))
    return k.Model(x, layers.Softmax()(layers.Dense(4, use_bias=False, name="top")(below)))


def logits(file: bytes, rows) -> np.ndarray:
    predict = open_signatures(file, threads=1, delegates=False)["predict"]
    return np.concatenate([predict({"x": row[None]})["logits"] for row in rows])


def odds(values: np.ndarray) -> np.ndarray:
    exponents = np.exp(values - values.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


def assert_equal(found: np.ndarray, wanted: np.ndarray) -> None:
    assert np.abs(found - wanted).max() <= 1e-4 * np.abs(wanted).max()


def test_a_cnn_predicts_what_it_did_and_trains(k):
    model = cnn(k)
    exported = keras.export(
        keras.split(model), keras.Wanted(options=HeadOptions(optimizer=Optimizer.ADAM), labels=tuple("abcde"))
    )
    assert exported.max_prediction_error <= 1e-4
    assert exported.proved.ok
    assert_equal(odds(logits(exported.attached.data, PICTURES)), model.predict(PICTURES, verbose=0))
    loaded = runtime.load(exported.attached.data)
    assert exported.attached.labels == tuple("abcde")
    assert loaded.extract(PICTURES).shape == (64, 8)
    y = np.arange(64, dtype=np.int32) % 5
    losses = [
        loaded.train_step(loaded.extract(PICTURES), y, {"learning_rate": 0.1, "l2": 0, "mu": 0})
        for _ in range(5)
    ]
    assert losses[-1] < losses[0]


def test_a_hidden_layer_on_top_becomes_the_heads(k):
    model = functional(k)
    exported = keras.export(keras.split(model, ["low", "top"]), keras.Wanted())
    assert {one.name: one.shape for one in runtime.load(exported.attached.data).tensors} == {
        "hidden/bias": (9,), "hidden/kernel": (9, 400), "output/bias": (4,), "output/kernel": (4, 9)
    }  # fmt: skip
    assert_equal(odds(logits(exported.attached.data, PICTURES)), model.predict(PICTURES, verbose=0))


def test_a_dense_layer_below_the_cut_stays_in_the_backbone(k):
    model = functional(k)
    exported = keras.export(keras.split(model, 1), keras.Wanted())
    assert exported.attached.tap.features == 9
    assert_equal(odds(logits(exported.attached.data, PICTURES)), model.predict(PICTURES, verbose=0))


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_a_loop_takes_one_sample_at_a_time(k, kind):
    model = k.Sequential([k.Input((10, 6)), getattr(k.layers, kind)(12), k.layers.Dense(4)])
    exported = keras.export(keras.split(model), keras.Wanted(samples=SIGNALS))
    assert exported.attached.tap.shape[0] == 1
    assert_equal(logits(exported.attached.data, SIGNALS), model.predict(SIGNALS, verbose=0))
    with pytest.raises(ModelError, match="in a loop"):
        keras.export(keras.split(model), keras.Wanted(samples=SIGNALS, int8=True))


def test_in_int8_the_head_has_its_weights_and_features_are_a_little_off(k):
    model = cnn(k)
    exported = keras.export(keras.split(model), keras.Wanted(samples=PICTURES, int8=True))
    assert 1e-6 < exported.max_prediction_error < 0.05
    assert len(exported.parent) < len(keras.convert(keras.split(model).backbone))
    kernel, bias = model.layers[-1].get_weights()
    loaded = runtime.load(exported.attached.data)
    assert np.array_equal(loaded.get_weights(), np.concatenate([bias, kernel.T.ravel()]))
    wanted = loaded.extract(PICTURES) @ kernel + bias
    assert_equal(loaded.infer(loaded.extract(PICTURES)), wanted)
    found = odds(logits(exported.attached.data, PICTURES))
    assert np.abs(found - model.predict(PICTURES, verbose=0)).max() < 0.05


def test_normalised_it_predicts_the_same_with_the_samples_statistics(k):
    model = functional(k)
    exported = keras.export(
        keras.split(model, 2), keras.Wanted(samples=PICTURES, options=HeadOptions(normalize=True))
    )
    assert {MEAN, MEAN_SQUARE} <= {one.name for one in runtime.load(exported.attached.data).tensors}
    assert_equal(odds(logits(exported.attached.data, PICTURES)), model.predict(PICTURES, verbose=0))


def test_a_saved_model_is_loaded_and_what_is_none_refused(k, tmp_path):
    path = tmp_path / "m.keras"
    model = cnn(k)
    model.save(path)
    again = keras.load(str(path))
    assert_equal(again.predict(PICTURES, verbose=0), model.predict(PICTURES, verbose=0))
    path.write_bytes(b"no zip")
    with pytest.raises(ModelError, match="Keras cannot load it"):
        keras.load(str(path))


def test_an_op_that_no_runtime_has_is_named(k):
    ops = pytest.importorskip("tensorflow").raw_ops
    x = k.Input((8,))
    odd = k.layers.Lambda(lambda t: ops.Betainc(a=t * t + 1, b=t * t + 1, x=0 * t + 0.5))(x)
    made = k.Model(x, k.layers.Dense(3)(odd))
    with pytest.raises(ModelError, match=r"ops that TFLite runtimes do not have \(Betainc\)"):
        keras.export(keras.split(made), keras.Wanted())


def test_other_heads_are_refused(k):
    for top, said in (
        ([k.layers.Dense(3, activation="sigmoid", name="s")], "'s' .Dense. has the activation sigmoid"),
        (
            [k.Sequential([k.Input((8,)), k.layers.Dense(3)], name="n")],
            "'n' .Sequential. cannot be in a head",
        ),
    ):
        with pytest.raises(ModelError, match=said):
            keras.split(cnn(k, *top))


def test_a_head_of_other_weights_is_not_written(k, monkeypatch):
    parts = keras.split(cnn(k))
    parts.weights["output/bias"][0] += 0.01
    with pytest.raises(ModelError, match="predicts otherwise than the Keras model"):
        keras.export(parts, keras.Wanted())


# --- without TensorFlow ---------------------------------------------------------------------------------


def test_without_tensorflow_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(UsageError, match=r"pip install 'fedclient\[keras\]'"):
        keras.split(None)


def parts_of(features: np.ndarray) -> Split:
    weights = {
        "output/kernel": RNG.normal(size=(3, 4)).astype(np.float32),
        "output/bias": np.ones(3, np.float32),
    }
    backbone = SimpleNamespace(predict=lambda rows, **_: features[: len(rows)])
    return Split(model=None, backbone=backbone, layers=("top",), weights=weights, ends_in_softmax=False)


def test_what_is_measured_needs_samples():
    for wanted in (keras.Wanted(int8=True), keras.Wanted(options=HeadOptions(normalize=True))):
        with pytest.raises(UsageError, match="--data"):
            keras.export(parts_of(np.zeros((1, 4))), wanted)


def test_normalisation_is_folded_into_the_lowest_layer():
    x = (5 + RNG.normal(size=(50, 4))).astype(np.float32)
    x[:, 2] = 7  # a feature that says nothing
    parts = parts_of(x)
    given = keras._normalized(parts, keras.Wanted(samples=x))
    scaled = (x - given[MEAN]) / np.sqrt(given[MEAN_SQUARE] - given[MEAN] ** 2)
    wanted = x @ parts.weights["output/kernel"].T + parts.weights["output/bias"]
    np.testing.assert_allclose(scaled @ given["output/kernel"].T + given["output/bias"], wanted, rtol=1e-3)
    assert np.allclose(scaled.std(axis=0), [1, 1, 0, 1], atol=1e-3)
    assert {value.dtype for value in given.values()} == {np.dtype(np.float32)}


def test_a_failed_conversion_is_one_line():
    said = "failed: \nSome ops ...\nFlex ops: FlexErf, FlexFoo\n\nDetails:\n\tCustom ops: Betainc\n"
    assert "(Betainc, FlexErf, FlexFoo)" in keras._why_not(RuntimeError(said))
    assert keras._why_not(RuntimeError("a\nb")).endswith("built-in ops: a b")
