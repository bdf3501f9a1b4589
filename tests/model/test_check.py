from __future__ import annotations

import pytest

from fedclient import limits
from fedclient.model.check import check
from fedclient.model.head import write_head
from fedclient.model.proof import prove
from fedclient.runtime import RUNTIME_NAME, child
from fedclient.values import TensorSpec


def test_the_child_reports_what_the_proof_finds():
    model = write_head(4, 3, 5)
    report = check(model)
    assert report == prove(model)
    assert report.ok
    assert report.tensors[0] == TensorSpec(name="hidden/bias", shape=(5,))


@pytest.mark.parametrize("data", [b"", b"hello", b"\0" * 4096, b"TFL3" * 30, write_head(4, 3)[:5000]])
def test_what_crashes_the_runtime_is_a_sentence(data):
    report = check(data)
    assert not report.ok
    assert report.reason
    assert "\n" not in report.reason
    if data == b"TFL3" * 30 and RUNTIME_NAME == "tflite_runtime":
        assert "crashed" in report.reason


def test_shared_models(shared):
    found = {path.stem: check(path.read_bytes()) for path in sorted((shared / "models").glob("*.tflite"))}
    good = found.pop("training_model")
    assert good.ok, good.reason
    assert good.max_relative_error is None
    assert not any(report.ok for report in found.values())
    assert "Flex" in found["training_model_flex"].reason
    assert "train" in found["training_model_flex"].signatures
    assert "no signature train" in found["hello_world_float"].reason


def test_size_and_time_are_bounded_and_garbage_is_not_trusted(monkeypatch):
    assert "did not finish" in check(write_head(4, 3), timeout_s=0.001).reason
    monkeypatch.setattr(child, "run", lambda *_args, **_kwargs: b"\x00not json")
    assert "damaged the process" in check(write_head(4, 3)).reason
    monkeypatch.setattr(limits, "MAX_MODEL_BYTES", 100)
    assert "more than 100 bytes" in check(write_head(4, 3)).reason
