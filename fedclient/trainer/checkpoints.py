"""What a stopped job leaves for the next trainer, and how that one goes on from it (PROTOCOL 5.1)."""

from __future__ import annotations

import json
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedclient.device.jobs import Checkpoint, Job
from fedclient.runtime import TrainableModel
from fedclient.trainer.spent import Spent
from fedclient.trainer.workplace import Workplace
from fedclient.training.loop import EpochReport, HeadTraining, accuracy

# what a checkpoint of an older fedclient does not have: an upgrade may come in the middle of a job
_ADDED_LATER: Final = {
    "epoch_seconds": 0.0,
    "epochs_that_fit": 0,
    "backbone_seconds": 0.0,
    "backbone_samples": 0,
}


def begin_or_resume(
    place: Workplace, job: Job, training: HeadTraining, start: NDArray[np.float32], spent: Spent
) -> float:
    """Put `training` where the job's checkpoint says, or at `start` if there is none.

    Returns the accuracy of the published head, which the model holds, on this device's examples: what
    its personal layer makes of that head in `start` is nobody's business.
    """
    saved = place.jobs.checkpoint(job)
    model = training.model
    if saved is None:
        reached = accuracy(model, training.examples)
        model.set_weights(start)
        return reached
    report = {**_ADDED_LATER, **json.loads(saved.report)}
    model.set_weights(np.frombuffer(saved.weights, "<f4").astype(np.float32))
    if saved.state:  # after the weights: what a step pulls towards is a part of it
        model.set_state(_unpack_state(saved.state, model))
    training.epoch, training.step = saved.epoch, saved.step
    training.loss_sum, training.seconds = report["loss_sum"], report["epoch_seconds"]
    training.epochs = report["epochs_that_fit"]
    training.reports = [EpochReport(**epoch) for epoch in report["epochs"]]
    spent.backbone_seconds += report["backbone_seconds"]
    spent.backbone_samples += report["backbone_samples"]
    return float(report["base_accuracy"])


def save(place: Workplace, job: Job, training: HeadTraining, base_accuracy: float, spent: Spent) -> None:
    """Write down all that `begin_or_resume` needs; raises Superseded."""
    report = {
        "loss_sum": training.loss_sum,
        "epoch_seconds": training.seconds,
        "epochs_that_fit": training.epochs,
        "base_accuracy": base_accuracy,
        "backbone_seconds": spent.backbone_seconds,
        "backbone_samples": spent.backbone_samples,
        "epochs": [epoch.as_dict() for epoch in training.reports],
    }
    state = training.model.get_state()
    checkpoint = Checkpoint(
        epoch=training.epoch,
        step=training.step,
        weights=training.model.get_weights().tobytes(),
        state=b"".join(state[name].tobytes() for name in sorted(state)),
        report=json.dumps(report),
    )
    with place.owned(job):
        place.jobs.save_checkpoint(job, checkpoint)


def _unpack_state(data: bytes, model: TrainableModel) -> dict[str, NDArray[np.generic]]:
    state, at = {}, 0
    for name, like in sorted(model.get_state().items()):
        part = data[at : at + like.nbytes]
        state[name] = np.frombuffer(part, like.dtype).reshape(like.shape)
        at += like.nbytes
    return state
