from __future__ import annotations

import faulthandler
import json
import os
import random
import re
import signal
import traceback

import numpy as np
import pytest

from fedclient.model import proof
from fedclient.model.head import metadata, write_head
from fedclient.model.proof import prove, prove_json
from fedclient.model.reference import Reference
from fedclient.runtime import TrainableModel
from fedclient.runtime.child import bound_memory
from tests.runtime.models import Foreign, build


@pytest.mark.parametrize(
    "args", [(4, 3), (4, 3, 1), (4, 3, 7), (64, 10, 128), (1, 2), (1280, 10), (20, 2, 500)]
)
def test_our_heads_match_the_reference(args):
    report = prove(write_head(*args))
    assert report.ok, report.reason
    assert report.max_relative_error < 2e-5
    assert report.signatures == ("get_state", "get_weights", "infer", "set_state", "set_weights", "train")


@pytest.mark.parametrize("name", ["output/bias", "output/kernel", "hidden/bias", "hidden/kernel", "loss"])
def test_an_error_in_the_loss_or_in_any_tensor_is_noticed(name, monkeypatch):
    def slightly_off(reference, hyper):
        before = reference.weights.get(name)
        move(reference, hyper)
        if before is not None:
            reference.weights[name] = before + 1.001 * (reference.weights[name] - before)

    look, move = Reference.look, Reference.move
    monkeypatch.setattr(Reference, "move", slightly_off)
    if name == "loss":
        monkeypatch.setattr(Reference, "look", lambda *args: 1.001 * look(*args))
    report = prove(write_head(4, 3, 7))
    assert not report.ok
    assert "differ" in report.reason
    assert report.max_relative_error > proof.TOLERANCE


@pytest.mark.parametrize(
    "kind",
    [
        Foreign(),
        Foreign(rate=None, one_hot=True),
        Foreign(batch=4),
        Foreign(state=True),
        Foreign(features="stubborn"),
    ],
)
def test_others_models_are_proved_without_a_reference(kind):
    report = prove(build(kind))
    assert report.ok, report.reason
    assert report.max_relative_error is None


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (Foreign(broken=True), "does not return what set_weights was given"),
        (Foreign(uphill=True), "loss does not fall"),
        (Foreign(features="infinite"), "features are not finite"),
        (Foreign(swap=True), "'set_weights' takes"),
        (Foreign(extra=(("steps", np.int32),)), "unclear|neither"),
    ],
)
def test_others_models_that_do_not_train_say_why(kind, sentence):
    report = prove(build(kind))
    assert not report.ok
    assert re.search(sentence, report.reason)
    assert "train" in report.signatures


def test_each_learning_rate_starts_from_the_first_weights_and_state(monkeypatch):
    def note(model, state):
        before.append((model.get_weights().any(), model.get_state()["steps"].tolist()))
        real(model, state)
        after.append(model.get_state()["steps"].tolist())

    before, after, real = [], [], TrainableModel.set_state
    monkeypatch.setattr(TrainableModel, "set_state", note)
    prove(build(Foreign(state=True, uphill=True)))
    assert before == [(False, [0]), (False, [20]), (False, [20])]
    assert after == [[0], [0], [0]]


@pytest.mark.parametrize(
    ("false", "sentence"),
    [
        (metadata(None)[:-1] + b" ", "damaged"),
        (metadata(None).replace(b"sgd", b"sgx"), "damaged"),
        (metadata(None).replace(b"2", b"9"), "format 9"),
        (metadata(None).replace(b"null", b"3   "), "not what the metadata"),
    ],
)
def test_metadata_that_is_not_true_is_refused(false, sentence):
    report = prove(write_head(4, 3).replace(metadata(None), false))
    assert not report.ok
    assert sentence in report.reason


def test_a_report_survives_json():
    told = json.loads(prove_json(write_head(4, 3)))
    assert told.keys() == {"ok", "reason", "signatures", "tensors", "max_relative_error"}
    assert told["tensors"][0] == {"name": "output/bias", "shape": [3]}


@pytest.mark.parametrize("hidden", [None, 4])
def test_a_damaged_file_is_a_report_or_a_crash_but_never_a_traceback(hidden, thorough):
    """Each damaged file in a process of its own, as `check` would: the runtime may crash, we may not."""
    model = write_head(6, 3, hidden)
    prove(model)
    counts = {"ok": 0, "refused": 0, "crashed": 0}
    for seed in range(3000 if thorough else 90):
        status = _prove_elsewhere(_damaged(model, seed))
        assert status in {0, 1} or status < 0, f"seed {seed}: a traceback"
        counts["ok" if status == 0 else "refused" if status > 0 else "crashed"] += 1
    print(f"damaged files, hidden={hidden}: {counts}")
    assert counts["refused"]


def _damaged(model: bytes, seed: int) -> bytes:
    rng = random.Random(seed)
    if seed % 3 == 0:
        return model[: rng.randrange(len(model))]
    changed = bytearray(model)
    for _ in range(1 if seed % 3 == 1 else 8):
        changed[rng.randrange(len(model))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _prove_elsewhere(model: bytes) -> int:
    child = os.fork()
    if not child:
        try:
            signal.alarm(20)
            faulthandler.disable()  # a crash is one of the answers
            bound_memory()
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            os._exit(0 if prove(model).ok else 1)
        except BaseException:  # noqa: BLE001 - it is what this test looks for
            traceback.print_exc()
            os._exit(3)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
