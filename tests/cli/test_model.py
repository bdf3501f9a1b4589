from __future__ import annotations

import json

import numpy as np
import pytest

from fedclient.errors import UsageError
from fedclient.model.attach import NewHead, attach
from fedclient.model.head import HeadOptions, Optimizer, write_head
from tests.model import backbones


def test_a_new_head_is_written_and_passes_its_check(run_model, tmp_path):
    out = tmp_path / "head.tflite"
    code, text = run_model("new-head", "--features", 4, "--classes", 3, "--hidden", 7, "--seed", 2, "-o", out)
    assert (code, text.count("\n")) == (0, 1)
    assert out.read_bytes() == write_head(4, 3, 7, 2)
    code, text = run_model("check", out)
    assert code == 0
    assert text.startswith("ok: ")
    assert "tensor: hidden/kernel [7, 4]" in text


def test_nothing_is_overwritten_without_force(run_model, tmp_path):
    out = tmp_path / "head.tflite"
    out.write_text("precious")
    with pytest.raises(UsageError, match="exists"):
        run_model("new-head", "--features", 4, "--classes", 3, "-o", out)
    assert out.read_text() == "precious"
    run_model("new-head", "--features", 4, "--classes", 3, "-o", out, "--force")
    assert out.read_bytes() == write_head(4, 3)
    assert list(tmp_path.iterdir()) == [out]


def test_bad_numbers_write_nothing(run_model, tmp_path):
    with pytest.raises(UsageError, match="classes must be between 2 and"):
        run_model("new-head", "--features", 4, "--classes", 1, "-o", tmp_path / "head.tflite")
    with pytest.raises(UsageError, match="cannot write"):
        run_model("new-head", "--features", 4, "--classes", 3, "-o", tmp_path / "no" / "head.tflite")
    assert not list(tmp_path.iterdir())


def test_json_is_one_object_and_the_exit_code_says_ok(run_model, tmp_path):
    good, bad = tmp_path / "good.tflite", tmp_path / "bad.tflite"
    good.write_bytes(write_head(4, 3))
    bad.write_bytes(b"TFL3" * 30)
    code, text = run_model("check", good, "--json")
    told = json.loads(text)
    assert code == 0
    features = ["max_feature_error", "max_delegate_error", "delegate_drift"]
    assert list(told) == ["ok", "reason", "signatures", "tensors", "max_relative_error", *features]
    assert [told[name] for name in features] == [None] * 3
    assert told["ok"]
    assert told["max_relative_error"] < 1e-5
    code, text = run_model("check", bad, "--json")
    assert (code, json.loads(text)["ok"], json.loads(text)["max_relative_error"]) == (1, False, None)
    assert run_model("check", bad)[0] == 1
    with pytest.raises(UsageError, match="cannot read"):
        run_model("check", tmp_path / "none.tflite")


def test_a_head_has_the_options_that_it_is_asked_for(run_model, tmp_path):
    out = tmp_path / "head.tflite"
    words = ["--optimizer", "adam", "--normalize", "--personal"]
    assert run_model("new-head", "--features", 4, "--classes", 3, *words, "-o", out)[0] == 0
    options = HeadOptions(optimizer=Optimizer.ADAM, normalize=True, personal=True)
    assert out.read_bytes() == write_head(4, 3, None, 0, options)


def test_the_parent_is_compared_when_it_is_given(run_model, tmp_path):
    parent, other, out = (tmp_path / name for name in ("parent", "other", "out"))
    parent.write_bytes(backbones.classifier())
    other.write_bytes(backbones.embedder())
    out.write_bytes(attach(parent.read_bytes(), NewHead(classes=3)).data)
    code, text = run_model("check", out, "--parent", parent, "--json")
    told = json.loads(text)
    assert (code, told["ok"], told["max_feature_error"]) == (0, True, 0.0)
    assert 0 <= told["delegate_drift"] < 1e-5
    code, text = run_model("check", out)
    assert (code, "not compared" in text) == (0, True)
    code, text = run_model("check", out, "--parent", other)
    assert (code, "made of another model" in text) == (1, True)
    head = tmp_path / "head"
    head.write_bytes(write_head(4, 3))
    code, text = run_model("check", head, "--parent", parent)
    assert (code, "attach-head did not write it" in text) == (1, True)
    np.savez(tmp_path / "data.npz", x=np.zeros((2, 5), np.float32), y=[0, 1])
    code, text = run_model("check", out, "--data", tmp_path / "data.npz")
    assert (code, "the samples are [5]" in text) == (1, True)
