"""`fedclient model export-keras`; what it writes is tested in tests/model/test_keras.py."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from fedclient import runtime
from fedclient.cli import model
from fedclient.errors import ModelError, UsageError

MODELS = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
MODULE = """
def make():
    from tensorflow import keras
    return keras.Sequential([
        keras.Input((6,)), keras.layers.Dense(5, activation="tanh"),
        keras.layers.Dense(3, activation="softmax", name="top"),
    ])

def broken():
    raise RuntimeError("no weights at hand")
"""


@pytest.fixture
def tensorflow():
    return pytest.importorskip(
        "tensorflow", reason="LEFT OUT: TensorFlow is not installed (tools/test --keras)"
    )


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """Run one command line in a folder with a module in it; return its exit code and what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "theirs", raising=False)
    (tmp_path / "theirs.py").write_text(MODULE)
    parser = argparse.ArgumentParser()
    model.add_parser(parser.add_subparsers())

    def run_(*words):
        args = parser.parse_args(["model", "export-keras", *map(str, words)])
        return args.run(args), capsys.readouterr().out

    return run_


def test_a_model_of_a_function_becomes_a_trainable_file(tensorflow, run, tmp_path):
    code, text = run("theirs:make", "--trainable-top", "top", "--labels", "a,b,c", "-o", "m.tflite", "--json")
    assert code == 0
    told = json.loads(text)
    assert told["layers"] == ["top"]
    assert (told["features"], told["classes"]) == (5, 3)
    assert told["max_prediction_error"] <= 1e-4
    assert told["max_feature_error"] <= 1e-6
    assert told["file_bytes"] == (tmp_path / "m.tflite").stat().st_size
    assert runtime.load(tmp_path / "m.tflite").sample_shape == (6,)
    with pytest.raises(UsageError, match="--force"):
        run("theirs:make", "-o", "m.tflite")


def test_the_command_of_the_documentation_runs_as_it_stands(tensorflow, run, tmp_path):
    section = MODELS.split("## A Keras model")[1].split("\n## ")[0]
    (command,) = re.findall(r"```sh\nfedclient model export-keras (.*)\n```", section)
    keras = tensorflow.keras
    x = keras.Input((8, 8, 1))
    features = keras.layers.Flatten()(keras.layers.Conv2D(2, 3, activation="relu")(x))
    top = keras.layers.Dense(26, activation="softmax")(keras.layers.Dense(7, activation="relu")(features))
    keras.Model(x, top).save(tmp_path / "letters.keras")
    code, _ = run(*command.split())
    assert code == 0
    assert runtime.load(tmp_path / "letters.tflite").classes == 26


def test_it_says_what_it_did_in_words(tensorflow, run):
    np.savez("d.npz", x=np.random.default_rng(0).normal(size=(40, 6)), y=np.arange(40) % 3)
    words = ("--optimizer", "adam", "--normalize", "--personal", "--data", "d.npz", "-o", "m.tflite")
    code, text = run("theirs:make", *words)
    assert code == 0
    assert text.startswith("head      top: 5 features -> 3 classes")
    assert "predicts  what the Keras model does" in text
    names = {tensor.name for tensor in runtime.load(Path("m.tflite")).tensors}
    assert {"personal/kernel", "normalize/mean"} <= names


@pytest.mark.parametrize(
    ("words", "kind", "said"),
    [
        (["theirs:broken"], UsageError, "theirs:broken: RuntimeError: no weights at hand"),
        (["theirs:nothing"], UsageError, "has no attribute 'nothing'"),
        (["theirs:make", "--trainable-top", "2"], ModelError, "^theirs:make: the layer .* activation tanh"),
        (["theirs:make", "--labels", "a,b"], UsageError, "2 names, the head has 3 classes"),
        (["theirs:make", "--int8"], UsageError, "--data"),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_no_file(tensorflow, run, tmp_path, words, kind, said):
    with pytest.raises(kind, match=said):
        run(*words, "-o", "m.tflite")
    assert not (tmp_path / "m.tflite").exists()


def test_what_is_no_model_is_said_without_tensorflow(run, tmp_path, monkeypatch):
    for where, said in (("m.onnx", "unknown kind of model"), ("m.keras", "no such file")):
        with pytest.raises(UsageError, match=said):
            run(where, "-o", "m.tflite")
    (tmp_path / "m.tflite").write_text("precious")
    with pytest.raises(UsageError, match="exists"):
        run("theirs:make", "-o", "m.tflite")
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(UsageError, match=r"fedclient\[keras\]"):
        run("theirs:make", "-o", "other.tflite")
