from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fedclient.errors import DataError
from fedclient.gateway import releases
from fedclient.gateway.holdout import Holdout
from fedclient.model.head import write_head
from fedclient.runtime import load
from tests.gateway.harness import PLAN, SETTINGS, Farm

FEATURES, CLASSES = 6, 3


@pytest.fixture(scope="module")
def model() -> bytes:
    return write_head(FEATURES, CLASSES)


def data(rows: int = 90):
    y = np.arange(rows) % CLASSES
    x = np.eye(FEATURES, dtype=np.float32)[y] + 0.01
    return x, y


def perfect(model: bytes):
    """Weights that predict class c from feature c."""
    opened = load(model)
    flat, at = np.zeros(sum(tensor.size for tensor in opened.tensors), dtype=np.float32), 0
    for tensor in opened.tensors:
        if tensor.size == FEATURES * CLASSES:
            kernel = np.eye(*tensor.shape, dtype=np.float32)
            flat[at : at + tensor.size] = kernel.ravel()
        at += tensor.size
    return flat


def test_accuracy_is_the_share_that_is_predicted_right(model):
    x, y = data()
    assert Holdout(model, x, y).accuracy(perfect(model)) == 1.0
    y = y.copy()
    y[:9] = (y[:9] + 1) % CLASSES
    assert Holdout(model, x, y).accuracy(perfect(model)) == pytest.approx(0.9)


@pytest.mark.parametrize("wrong", [(0, 0), (90, 89)])
def test_data_that_does_not_fit_is_refused(model, wrong):
    x, y = data()
    with pytest.raises(DataError, match="held-out data"):
        Holdout(model, x[: wrong[0]], y[: wrong[1]])
    with pytest.raises(DataError, match="integers"):
        Holdout(model, x, y.astype(np.float32))


def test_every_new_head_is_measured(tmp_path, model):
    x, y = data()
    np.savez(tmp_path / "holdout.npz", x=x, y=y)
    farm = Farm(tmp_path / "gateway", replace(SETTINGS, holdout=tmp_path / "holdout.npz"), publish=False)
    opened = load(model)
    releases.publish(
        farm.desk,
        releases.Content(model=model, head=perfect(model), tensors=opened.tensors, labels=(), plan=PLAN),
    )
    devices = farm.devices(3)
    for device in devices:
        device.update(body=b"\x20")  # nothing changes
    farm.settle(*devices)
    ((_, made),) = farm.store.rounds()
    assert made.accuracy == 1.0


@pytest.mark.parametrize("broken", [b"no npz", None])
def test_holdout_data_that_cannot_be_read_costs_the_accuracy_and_no_round(tmp_path, model, broken, caplog):
    path = tmp_path / "holdout.npz"
    if broken is not None:
        path.write_bytes(broken)
    farm = Farm(tmp_path / "gateway", replace(SETTINGS, holdout=path))
    devices = farm.devices(3)
    for device in devices:
        device.update()
    farm.settle(*devices)
    ((_, made),) = farm.store.rounds()
    assert made.accuracy is None
    assert "no accuracy" in caplog.text
