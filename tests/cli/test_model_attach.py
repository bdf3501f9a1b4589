from __future__ import annotations

import json

import numpy as np
import pytest

from fedclient.cli.main import main
from fedclient.errors import ModelError, UsageError
from fedclient.model.attach import NewHead, attach
from fedclient.model.origin import read_origin
from fedclient.runtime import load
from tests.model import backbones, packages
from tests.model.backbones import CHANNELS, SIDE

KEYS = [
    "tap",
    "features",
    "classes",
    "backbone_bytes",
    "file_bytes",
    "max_feature_error",
    "max_training_error",
]


@pytest.fixture
def backbone(tmp_path):
    path = tmp_path / "backbone.tflite"
    metadata = packages.described((127.5,), (127.5,), labels="labels.txt")
    path.write_bytes(packages.on(backbones.classifier, metadata, {"labels.txt": b"cat\ndog\ncow"}))
    return path


def test_the_json_is_what_other_checks_rely_on(run_model, backbone, tmp_path):
    out = tmp_path / "out.tflite"
    code, text = run_model("attach-head", backbone, "--classes", 3, "-o", out, "--json")
    told = json.loads(text)
    assert code == 0
    assert list(told) == KEYS
    assert list(told["tap"]) == ["name", "index", "shape", "dtype", "why"]
    assert told["tap"]["shape"] == [1, 6]
    assert (told["features"], told["classes"]) == (6, 3)
    assert told["backbone_bytes"] == backbone.stat().st_size
    assert told["file_bytes"] == out.stat().st_size
    assert told["max_feature_error"] <= 1e-6
    assert 0 < told["max_training_error"] < 1e-4
    assert out.read_bytes() == attach(backbone.read_bytes(), NewHead(classes=3)).data
    assert read_origin(out.read_bytes()).labels == ("cat", "dog", "cow")


def test_every_option_reaches_the_head(run_model, backbone, tmp_path):
    out = tmp_path / "out.tflite"
    np.savez(tmp_path / "data.npz", x=np.full((2, SIDE, SIDE, CHANNELS), 0.5, np.float32), y=[0, 1])
    words = [
        "--hidden",
        4,
        "--seed",
        3,
        "--tap",
        "map",
        "--optimizer",
        "momentum",
        "--normalize",
        "--personal",
    ]
    code, text = run_model(
        "attach-head",
        backbone,
        "--classes",
        2,
        *words,
        "--labels",
        "a,b",
        "--data",
        tmp_path / "data.npz",
        "-o",
        out,
    )
    assert code == 0
    assert "it was asked for with --tap; averaged over" in text
    assert "6 features -> 2 classes: a, b" in text
    assert "proved    on " in text
    found = load(out.read_bytes())
    assert "momentum" in found.hyper_parameters
    assert {"personal/kernel", "normalize/mean", "hidden/kernel"} <= {tensor.name for tensor in found.tensors}
    other = attach(backbone.read_bytes(), NewHead(classes=2, hidden=4, seed=2)).data
    assert out.read_bytes() != other


def test_a_refusal_is_one_line_and_exit_1_and_writes_nothing(tmp_path, capsys):
    source, out = tmp_path / "source.tflite", tmp_path / "out.tflite"
    for data, said in (
        (backbones.flex(), "operator FlexErf"),
        (backbones.two_outputs(), "--tap"),
        (backbones.classifier()[:-300], "damaged"),
        (b"", "not a .tflite file"),
    ):
        source.write_bytes(data)
        assert main(["model", "attach-head", str(source), "--classes", "3", "-o", str(out)]) == 1
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
        assert str(source) in error
    assert not out.exists()


def test_what_cannot_be_called_so_is_usage(backbone, tmp_path, capsys):
    old = tmp_path / "old.tflite"
    old.write_text("precious")
    line = ["model", "attach-head", str(backbone), "-o", str(tmp_path / "out.tflite"), "--classes"]
    for words in (
        [*line, "1"],
        [*line, "many"],
        [*line, "3", "--optimizer", "lbfgs"],
        [*line, "3", "--labels", "a,b"],
        [*line[:3], "-o", str(old), "--classes", "3"],
        [*line[:3], "-o", str(backbone), "--force", "--classes", "3"],
        [
            "model",
            "attach-head",
            str(tmp_path / "none"),
            "-o",
            str(tmp_path / "out.tflite"),
            "--classes",
            "3",
        ],
    ):
        assert main(words) == 2
        assert "Traceback" not in capsys.readouterr().err
    assert old.read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backbone.tflite", "old.tflite"]


def test_a_file_that_is_there_is_replaced_by_force_only(run_model, backbone, tmp_path):
    out = tmp_path / "out.tflite"
    out.write_text("precious")
    with pytest.raises(UsageError, match="--force"):
        run_model("attach-head", backbone, "--classes", 3, "-o", out)
    assert run_model("attach-head", backbone, "--classes", 3, "-o", out, "--force")[0] == 0
    assert out.read_bytes()[4:8] == b"TFL3"


def test_samples_that_do_not_fit_write_nothing(run_model, backbone, tmp_path):
    np.savez(tmp_path / "data.npz", x=np.zeros((2, 5), np.float32), y=[0, 1])
    with pytest.raises(ModelError, match=r"the samples are \[5\], the model takes \[8, 8, 3\]"):
        run_model(
            "attach-head", backbone, "--classes", 3, "-o", tmp_path / "o", "--data", tmp_path / "data.npz"
        )
