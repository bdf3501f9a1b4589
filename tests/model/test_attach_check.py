from __future__ import annotations

import numpy as np
import pytest

from fedclient import limits
from fedclient.errors import ModelError, UsageError
from fedclient.model import attach_check
from fedclient.model.attach import NewHead, attach
from fedclient.model.attach_check import MAX_SAMPLES, Proved, attach_proved, check_attached, spread
from fedclient.model.attach_proof import prove
from fedclient.model.document import Document
from fedclient.runtime import child
from tests.model import backbones


@pytest.mark.parametrize(("make", "batch"), [(backbones.classifier, -1), (backbones.stubborn, 1)])
def test_the_file_takes_as_many_samples_as_is_proved(make, batch):
    parent = make()
    attached, found = attach_proved(parent, NewHead(classes=3))
    assert found == prove(attached.data, parent)
    assert found.ok
    document = Document.read(attached.data)
    features = next(one for one in document.signatures if one.key == "features")
    assert document.graphs[features.graph].tensors[features.inputs["x"]].shape_signature[0] == batch


def test_what_is_not_proved_is_not_written(monkeypatch):
    monkeypatch.setattr(attach_check, "check_attached", lambda *_: Proved(ok=False, reason="it is wrong"))
    with pytest.raises(ModelError, match="nothing is written, as this is not proved: it is wrong"):
        attach_proved(backbones.classifier(), NewHead(classes=3))
    with pytest.raises(UsageError, match="classes"):
        attach_proved(backbones.classifier(), NewHead(classes=0))


def test_samples_reach_the_proof():
    file = attach(backbones.classifier(), NewHead(classes=3)).data
    assert "the samples are [2, 2, 2]" in check_attached(file, b"", np.zeros((1, 2, 2, 2), np.float32)).reason


def test_damage_is_a_sentence(monkeypatch):
    file = attach(backbones.classifier(), NewHead(classes=3)).data
    for data in (b"", b"hello", b"TFL3" * 30, file[:-400]):
        found = check_attached(data)
        assert not found.ok
        assert found.reason
        assert "\n" not in found.reason
    monkeypatch.setattr(child, "run", lambda *_args, **_kwargs: b"\x00not json")
    assert "damaged the process" in check_attached(file).reason
    monkeypatch.setattr(limits, "MAX_MODEL_BYTES", 100)
    assert "more than 100 bytes" in check_attached(file).reason


@pytest.mark.parametrize("count", [1, MAX_SAMPLES, MAX_SAMPLES + 1, 1000])
def test_some_samples_stand_for_all(count):
    chosen = spread(np.arange(count))
    assert 1 <= len(chosen) <= MAX_SAMPLES
    assert chosen[0] == 0
    assert chosen[-1] >= count / 2 or count == 1
