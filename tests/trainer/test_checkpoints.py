"""A checkpoint holds all that a new process needs to go on."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fedclient import runtime
from fedclient.device.jobs import Checkpoint
from fedclient.trainer import checkpoints
from fedclient.trainer.spent import Spent
from fedclient.trainer.workplace import Superseded, Workplace
from fedclient.training.loop import Examples, HeadTraining, accuracy
from fedclient.values import HeadVersion
from tests.trainer.setup import PLAN, Bench, samples

V1 = HeadVersion(1, 1)


def training(device: Bench) -> HeadTraining:
    x, y = samples(60)
    examples = Examples(x=np.array(x, np.float32), y=np.array(y, np.int32))
    return HeadTraining(model=runtime.load(device.model), examples=examples, plan=PLAN, seed=1)


@pytest.fixture
def place(device: Bench) -> Workplace:
    device.publish(V1)
    return Workplace(device.arguments(device.jobs.new(V1, threads=1)))


def test_without_a_checkpoint_it_begins_and_measures_the_base(device, place) -> None:
    job, work = place.take_job(), training(device)
    expected = accuracy(work.model, work.examples)
    own = np.arange(18, dtype=np.float32)
    assert checkpoints.begin_or_resume(place, job, work, own, Spent()) == expected  # of the published head
    assert work.model.get_weights().tobytes() == own.tobytes()
    assert (work.epoch, work.step, work.reports) == (0, 0, [])


def test_place_loss_reports_and_weights_come_back(device, place) -> None:
    job, work = place.take_job(), training(device)
    asked = iter(range(100))
    assert not work.run(lambda: next(asked) == 5, lambda _: None)
    work.epochs = 7
    checkpoints.save(place, job, work, 0.25, Spent(backbone_seconds=2.5, backbone_samples=60))
    then, spent = training(device), Spent(backbone_seconds=1.0, backbone_samples=1)
    assert checkpoints.begin_or_resume(place, job, then, np.zeros(18, np.float32), spent) == 0.25
    assert (spent.backbone_seconds, spent.backbone_samples) == (3.5, 61)
    assert then.epochs == 7
    assert then.seconds == work.seconds > 0
    assert (then.epoch, then.step) == (1, 2)  # the sixth of four batches an epoch
    assert then.loss_sum == work.loss_sum > 0
    assert then.reports == work.reports
    assert then.model.get_weights().tobytes() == work.model.get_weights().tobytes()


def test_rule_5_2_nothing_is_saved_for_a_job_that_is_gone(device, place) -> None:
    job, work = place.take_job(), training(device)
    device.jobs.drop()
    with pytest.raises(Superseded):
        checkpoints.save(place, job, work, 0.0, Spent())
    assert device.jobs.checkpoint(job) is None


def test_a_checkpoint_of_before_the_upgrade_is_gone_on_from(device, place) -> None:
    job, work = place.take_job(), training(device)
    old = {"loss": 1.5, "accuracy": 0.5, "holdout_accuracy": None, "seconds": 2.0}
    report = json.dumps({"loss_sum": 0.5, "base_accuracy": 0.25, "epochs": [old]})
    weights = np.arange(18, dtype=np.float32)
    saved = Checkpoint(epoch=1, step=2, weights=weights.tobytes(), state=b"", report=report)
    with place.owned(job):
        place.jobs.save_checkpoint(job, saved)
    assert checkpoints.begin_or_resume(place, job, work, 0 * weights, Spent()) == 0.25
    assert (work.epoch, work.step, work.loss_sum, work.epochs) == (1, 2, 0.5, 0)
    assert work.reports[0].as_dict().items() >= old.items()
    assert work.model.get_weights().tobytes() == weights.tobytes()
