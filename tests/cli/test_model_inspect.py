from __future__ import annotations

import json

from fedclient.cli.main import main
from fedclient.model.attach import NewHead, attach
from tests.model import backbones, packages


def test_a_backbone_and_what_was_made_of_it(tmp_path, capsys):
    metadata = packages.described((127.5,), (127.5,), labels="l")
    parent = packages.on(backbones.classifier, metadata, {"l": b"cat\ndog\ncow"})
    for name, data in (("parent", parent), ("made", attach(parent, NewHead(classes=3)).data)):
        (tmp_path / name).write_bytes(data)
        assert main(["model", "inspect", str(tmp_path / name), "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["trainable"] is (name == "made")
        assert told["labels"] == ["cat", "dog", "cow"]
        assert told["preprocessing"] == {"scale": [1 / 127.5], "offset": [-1.0]}
        assert told["tap"]["name"] == "mean"
        assert told["bytes"] == len(data)
        assert main(["model", "inspect", str(tmp_path / name)]) == 0
        text = capsys.readouterr().out
        assert "labels         cat, dog, cow\n" in text
        assert "preprocessing  raw value * 0.00784314 + -1\n" in text
        assert ("MEAN float32" in text) is (name == "parent")  # what --tap can name
        assert ("head           no hidden layer, optimizer sgd\n" in text) is (name == "made")
    assert "signature      train: x float32[-1, 6], y int32[-1], learning_rate float32[1]" in text
    assert "weight float32[3, 6] output/kernel" in text
    assert "made of        the model with SHA-256 " + told["parent"] in text


def test_a_name_cannot_steer_a_terminal(tmp_path, capsys):
    model = backbones.Backbone(backbones.Layers())
    long = model.mean(model.picture(), 3, "x" * 500)
    data = model.finish(out=model.graph.op(backbones.Op.NEG, [long], (1, 3)))
    (tmp_path / "file").write_bytes(data.replace(b"serving_default_image", b"\x1b[2Jing_default_image"))
    assert main(["model", "inspect", str(tmp_path / "file")]) == 0
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert "\\x1b[2Jing_default_image" in text
    assert "x" * 65 not in text
    assert "trainable      no\ntap            none: the model's output comes from NEG" in text


def test_what_is_no_model_is_one_line(tmp_path, capsys):
    for data in (b"", b"hello", backbones.int8()[:500], b"TFL3" * 50):
        (tmp_path / "file").write_bytes(data)
        assert main(["model", "inspect", str(tmp_path / "file")]) == 1
        assert capsys.readouterr().err.count("\n") == 1
    assert main(["model", "inspect", str(tmp_path)]) == 1
