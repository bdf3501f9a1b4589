from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from fedclient.errors import ModelError
from fedclient.model.attach import NewHead, attach
from fedclient.model.head import write_head
from fedclient.runtime import interpreter
from fedclient.runtime.interpreter import BACKBONES, Port, flex_ops, open_signatures
from tests.model import backbones
from tests.runtime.models import Foreign, build


def open_(model):
    return open_signatures(model, threads=1, delegates=False)


def test_signatures_say_their_ports():
    train = open_(write_head(4, 3))["train"]
    assert set(train.inputs) == {
        Port(name="x", shape=(-1, 4), dtype=np.dtype(np.float32)),
        Port(name="y", shape=(-1,), dtype=np.dtype(np.int32)),
        *(Port(name=n, shape=(1,), dtype=np.dtype(np.float32)) for n in ("learning_rate", "l2", "mu")),
    }
    assert [port.name for port in train.outputs] == ["loss"]


@pytest.mark.parametrize("data", [b"", b"TFL3", b"\0" * 100, b"PK\3\4" * 9])
def test_what_is_no_model_is_refused(data):
    with pytest.raises(ModelError, match="TFL3"):
        open_(data)


def test_our_heads_have_no_scalar_input():
    for hidden in (None, 5):
        for signature in open_(write_head(4, 3, hidden)).values():
            assert all(port.shape for port in signature.inputs)


@pytest.mark.parametrize("machine", ["aarch64", "arm64"])
def test_a_scalar_input_is_refused_on_arm_where_it_crashes_the_process(machine, monkeypatch):
    model = build(Foreign(rate_shape=()))
    open_(model)
    monkeypatch.setattr("platform.machine", lambda: machine)
    with pytest.raises(ModelError, match=r"'learning_rate'.*scalar.*shape \[1\]"):
        open_(model)
    open_(write_head(4, 3))


def test_numpy_2_beside_tflite_runtime_is_named(monkeypatch):
    monkeypatch.setattr(interpreter, "RUNTIME_NAME", "tflite_runtime")
    monkeypatch.setattr(np, "__version__", "2.1.0")
    with pytest.raises(ModelError, match="numpy<2"):
        open_(write_head(4, 3))


def test_no_runtime_and_a_broken_one_are_named(monkeypatch):
    monkeypatch.setattr(interpreter, "RUNTIME_NAME", "")
    with pytest.raises(ModelError, match="pip install"):
        open_(write_head(4, 3))
    monkeypatch.setattr(interpreter, "RUNTIME_NAME", "no_such_runtime")
    with pytest.raises(ModelError, match="does not load"):
        open_(write_head(4, 3))


def test_a_runtimes_error_becomes_one_line():
    train = open_(write_head(4, 3))["train"]
    wrong = {
        "x": np.zeros((3, 4), np.float32),
        "y": np.zeros(2, np.int32),
        "learning_rate": np.ones(1, np.float32),
    }
    with pytest.raises(ModelError, match="'train' does not run here") as caught:
        train(wrong)
    assert "\n" not in str(caught.value)
    assert ".cc:" not in str(caught.value)


def test_results_are_copies():
    signatures = open_(write_head(4, 3))
    first = signatures["get_weights"]({})
    first["output/bias"][:] = 5
    assert not signatures["get_weights"]({})["output/bias"].any()


def test_flex_ops_are_found_by_name(shared):
    model = (shared / "models/training_model_flex.tflite").read_bytes()
    assert flex_ops(model) == ("FlexRestoreV2", "FlexSaveV2")
    assert flex_ops((shared / "models/training_model.tflite").read_bytes()) == ()
    assert flex_ops(b"\x08\0\0\0FlexSave\0\0\0 Flexible\0") == ("FlexSave",)


def test_importing_does_not_import_the_runtime_and_a_head_prints_nothing():
    program = (
        f"import sys; sys.path[:] = {sys.path!r}\n"
        "from fedclient.runtime import load\n"
        "assert not {'tflite_runtime', 'ai_edge_litert'} & sys.modules.keys()\n"
        "from fedclient.model.head import write_head\n"
        "import numpy as np\n"
        "load(write_head(4, 3)).infer(np.zeros((2, 4), np.float32))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("delegates", [False, True])
def test_a_backbone_with_a_state_forgets_the_row_before(delegates):
    """LSTM: its variable tensors keep their values from one call to the next."""
    model = attach(backbones.lstm(), NewHead(classes=3), free_batch=False).data
    signatures = open_signatures(model, threads=1, delegates=delegates)
    one, other = np.random.default_rng(0).random((2, 1, backbones.STEPS, backbones.CHANNELS), np.float32)
    for name in BACKBONES:
        first, _, again = (next(iter(signatures[name]({"x": x}).values())) for x in (one, other, one))
        assert np.abs(first).max() > 0 or name == "predict"  # its head is all zeros
        np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("delegates", [True, False])
def test_a_backbone_has_its_delegate_in_its_signature_too(tmp_path, delegates):
    """tflite-runtime 2.14 gives a signature none unless graph 0 is allocated; told once in a process."""
    path = tmp_path / "model.tflite"
    path.write_bytes(attach(backbones.classifier(), NewHead(classes=3)).data)
    program = (
        f"import sys; sys.path[:] = {sys.path!r}\n"
        "from pathlib import Path\n"
        "from fedclient.runtime.interpreter import open_signatures\n"
        f"open_signatures(Path({str(path)!r}).read_bytes(), threads=1, delegates={delegates})\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ("XNNPACK" in done.stderr) is delegates
