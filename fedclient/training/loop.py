"""Train a head on features in memory; stop at any batch, and resume to the same result.

The order of samples is a function of (seed, epoch) alone and the learning rate one of (epoch, step), so
(epoch, step, weights, optimiser state, how many epochs fit) is all that a resumed training needs to
go on bit by bit as if it had never been stopped (PROTOCOL 5.1).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import NDArray

from fedclient.runtime import TrainableModel
from fedclient.runtime.batches import class_numbers
from fedclient.training import schedule
from fedclient.training.sampling import order
from fedclient.values import Plan

_INFER_ROWS = 1024  # rows of features at once when only predicting


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Features float32 [N, D] and labels int32 [N]."""

    x: NDArray[np.float32]
    y: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochReport:
    """What one epoch came to; shares are of the epoch's end, in 0..1.

    `worst_recall` is the share that is right of the class where it is least: what an accuracy over
    skewed data does not show.
    """

    loss: float
    accuracy: float
    holdout_accuracy: float | None
    seconds: float
    worst_recall: float | None = None
    holdout_worst_recall: float | None = None

    def as_dict(self) -> dict[str, float | None]:
        return asdict(self)


@dataclass(kw_only=True)
class HeadTraining:
    """One training of `model` in place, from where (epoch, step) says."""

    model: TrainableModel
    examples: Examples
    plan: Plan
    seed: int
    holdout: Examples | None = None
    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0  # of this epoch's steps so far
    seconds: float = 0.0  # that this epoch took so far
    epochs: int = 0  # how many will be done, by the plan's time; 0 until the first one is over
    reports: list[EpochReport] = field(default_factory=list)
    clock: Callable[[], float] = time.monotonic

    def run(self, should_stop: Callable[[], bool], on_epoch: Callable[[EpochReport], None]) -> bool:
        """Train until the epochs are done (True) or `should_stop` says so (False).

        `should_stop` is asked after every batch, `on_epoch` told after every epoch.
        Raises ModelError for a plan that asks for what the model cannot do.
        """
        hyper = schedule.hyper_parameters(self.plan, self.model.hyper_parameters)
        while not self.is_done:
            started = self.clock() - self.seconds
            batches = self._batches()
            while self.step < len(batches):
                rows = batches[self.step]
                hyper[schedule.LEARNING_RATE] = self._rate(len(batches))
                self.loss_sum += self.model.train_step(self.examples.x[rows], self.examples.y[rows], hyper)
                self.step += 1
                if should_stop():
                    self.seconds = self.clock() - started
                    return False
            self._end_epoch(len(batches), started, on_epoch)
        return True

    @property
    def is_done(self) -> bool:
        """Whether all epochs that the plan asks, and its time allows, are behind."""
        return self.epoch >= (self.epochs or self.plan.epochs)

    def _rate(self, steps: int) -> float:
        return schedule.learning_rate(
            self.plan, self.epoch, self.step / steps, self.epochs or self.plan.epochs
        )

    def _batches(self) -> list[NDArray[np.int64]]:
        rows = order(self.examples.y, self.seed, self.epoch, balanced=self.plan.balanced)
        size = self.model.fixed_batch or min(self.plan.batch_size, len(rows))
        if self.model.fixed_batch:
            # a model that takes whole batches only: the last one is filled from the start of the order
            rows = np.resize(rows, -(-len(rows) // size) * size)
        return [rows[at : at + size] for at in range(0, len(rows), size)]

    def _end_epoch(self, steps: int, started: float, on_epoch: Callable[[EpochReport], None]) -> None:
        ours = recalls(self.model, self.examples)
        held = None if self.holdout is None else recalls(self.model, self.holdout)
        report = EpochReport(
            loss=self.loss_sum / steps,
            accuracy=ours.accuracy,
            holdout_accuracy=None if held is None else held.accuracy,
            seconds=self.clock() - started,
            worst_recall=ours.worst,
            holdout_worst_recall=None if held is None else held.worst,
        )
        self.reports.append(report)
        self.epoch, self.step, self.loss_sum, self.seconds = self.epoch + 1, 0, 0.0, 0.0
        self.epochs = self.epochs or schedule.epochs_that_fit(self.plan, report.seconds)
        on_epoch(report)


@dataclass(frozen=True, kw_only=True)
class Recalls:
    """How many examples there are of each class that is there, and how many of them are right."""

    counts: NDArray[np.int64]
    right: NDArray[np.int64]

    @property
    def accuracy(self) -> float:
        return int(self.right.sum()) / int(self.counts.sum())

    @property
    def worst(self) -> float:
        """The least share of a class that is right."""
        return float((self.right / self.counts).min())


def logits_of(
    model: TrainableModel, examples: Examples
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int32]]]:
    """Yield the logits of some rows at a time, and their labels.  Raises ModelError for no finite ones."""
    for at in range(0, len(examples), _INFER_ROWS):
        yield model.infer(examples.x[at : at + _INFER_ROWS]), examples.y[at : at + _INFER_ROWS]


def recalls(model: TrainableModel, examples: Examples) -> Recalls:
    """Count, by class, the rows that `model` takes for what they are."""
    found = np.concatenate([class_numbers(logits) == y for logits, y in logits_of(model, examples)])
    _, classes, counts = np.unique(examples.y, return_inverse=True, return_counts=True)
    return Recalls(counts=counts, right=np.bincount(classes[found], minlength=len(counts)))


def accuracy(model: TrainableModel, examples: Examples) -> float:
    """Share of `examples` that `model` takes for what they are."""
    return recalls(model, examples).accuracy
