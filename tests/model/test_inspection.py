from __future__ import annotations

from hashlib import sha256

import pytest

from fedclient.errors import ModelError
from fedclient.model.attach import NewHead, attach
from fedclient.model.head import HeadOptions, Optimizer, write_head
from fedclient.model.inspection import Part, Port, inspect
from tests.model import backbones


def test_a_deployed_model_shows_what_attach_head_would_take():
    data = backbones.int8()
    found = inspect(data)
    assert not found.trainable
    assert (found.bytes, found.sha256) == (len(data), sha256(data).hexdigest())
    assert (found.head, found.parent, found.why_not) == (None, None, "")
    assert (found.tap.name, found.tap.dtype) == ("mean", "int8")
    assert [part.made_by for part in found.tensors] == ["", "CONV_2D", "MEAN", "FULLY_CONNECTED", "SOFTMAX"]
    assert found.tensors[2] == Part(
        name="mean", shape=(1, 6), dtype="int8", index=found.tap.index, made_by="MEAN"
    )


def test_an_attached_head_shows_where_it_comes_from():
    parent = backbones.int8()
    options = HeadOptions(optimizer=Optimizer.ADAM, normalize=True)
    found = inspect(
        attach(parent, NewHead(classes=3, hidden=4, labels=("a", "b", "c"), options=options)).data
    )
    assert found.trainable
    assert found.parent == sha256(parent).hexdigest()
    assert found.labels == ("a", "b", "c")
    assert found.head == {"hidden": 4, "optimizer": "adam", "normalize": True, "personal": False}
    assert found.tap.name == "mean"
    assert found.signatures["features"].outputs == {"features": Port(shape=(-1, 6), dtype="float32")}
    weights = {part.name: part.shape for part in found.tensors if part.index is None}
    assert weights["output/kernel"] == (3, 4)


def test_a_head_alone_has_no_tap():
    found = inspect(write_head(4, 3))
    assert (found.trainable, found.tap, found.why_not, found.parent) == (True, None, "", None)
    assert found.head["optimizer"] == "sgd"


def test_why_a_model_cannot_be_taken_is_said():
    for make, said in ((backbones.two_outputs, "2 outputs"), (backbones.flex, "Flex")):
        found = inspect(make())
        assert found.tap is None
        assert said in found.why_not


@pytest.mark.parametrize("data", [b"", b"TFL3" * 20, backbones.classifier()[:900]])
def test_damage_is_refused(data):
    with pytest.raises(ModelError):
        inspect(data)
