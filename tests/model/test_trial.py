"""The trial head: what is shipped is what we write, and a runtime that does not train is found out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fedclient.errors import ModelError
from fedclient.model import trial
from fedclient.model.head import write_head
from fedclient.runtime.trainable import TrainableModel

SHIPPED = Path(trial.__file__).with_name("trial.tflite")


def test_the_shipped_head_is_what_write_head_writes() -> None:
    assert SHIPPED.read_bytes() == write_head(trial.FEATURES, trial.CLASSES)


def test_the_installed_runtime_trains_as_numpy_computes() -> None:
    found = json.loads(trial.train_json(SHIPPED.read_bytes()))
    assert found["first_loss"] == pytest.approx(np.log(trial.CLASSES), rel=1e-6)
    assert 0 < found["last_loss"] < found["first_loss"]
    assert found["runtime"] in {"tflite_runtime", "ai_edge_litert"}
    assert found["seconds"] > 0


@pytest.mark.parametrize(("off", "refused"), [(1e-2, True), (float("nan"), True), (1e-6, False)])
def test_a_runtime_that_computes_something_else_is_refused(monkeypatch, off, refused) -> None:
    step = TrainableModel.train_step
    monkeypatch.setattr(TrainableModel, "train_step", lambda *args: step(*args) + off)
    if not refused:
        trial.train(SHIPPED.read_bytes())
        return
    with pytest.raises(ModelError, match="differs from what NumPy computes"):
        trial.train(SHIPPED.read_bytes())


def test_what_is_wrong_comes_through_the_pipe_as_a_sentence() -> None:
    told = json.loads(trial.train_json(b"not a model"))
    assert told == {"reason": "this is not a .tflite file: it does not carry the identifier TFL3"}


def test_weights_that_do_not_move_are_refused(monkeypatch) -> None:
    start = np.zeros((trial.FEATURES + 1) * trial.CLASSES, np.float32)
    monkeypatch.setattr(TrainableModel, "get_weights", lambda _: start)
    with pytest.raises(ModelError, match="differs"):
        trial.train(SHIPPED.read_bytes())


def test_it_needs_nothing_that_writes_models() -> None:
    program = "import sys; from fedclient.model import trial; sys.exit('flatbuffers' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
