"""Train a head on features in memory; stop at any batch, and resume to the same result.

The order of samples is a function of (seed, epoch) alone, so (epoch, step, weights,
optimiser state) is all that a resumed training needs to go on bit by bit as if it had
never been stopped (PROTOCOL 5.1).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import NDArray

from fedclient.runtime import TrainableModel
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
    """What one epoch came to; accuracy is of the epoch's end, in 0..1."""

    loss: float
    accuracy: float
    holdout_accuracy: float | None
    seconds: float

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
    reports: list[EpochReport] = field(default_factory=list)

    def run(self, should_stop: Callable[[], bool], on_epoch: Callable[[EpochReport], None]) -> bool:
        """Train until the plan's epochs are done (True) or `should_stop` says so (False).

        `should_stop` is asked after every batch, `on_epoch` told after every epoch.
        """
        hyper = {"learning_rate": self.plan.learning_rate}
        while self.epoch < self.plan.epochs:
            started = time.monotonic()
            batches = self._batches()
            while self.step < len(batches):
                rows = batches[self.step]
                self.loss_sum += self.model.train_step(self.examples.x[rows], self.examples.y[rows], hyper)
                self.step += 1
                if should_stop():
                    return False
            self._end_epoch(len(batches), started, on_epoch)
        return True

    def _batches(self) -> list[NDArray[np.int64]]:
        order = np.random.Generator(np.random.PCG64([self.seed, self.epoch])).permutation(len(self.examples))
        size = self.model.fixed_batch or min(self.plan.batch_size, len(order))
        if self.model.fixed_batch:
            # a model that takes whole batches only: the last one is filled from the start of the order
            order = np.resize(order, -(-len(order) // size) * size)
        return [order[at : at + size] for at in range(0, len(order), size)]

    def _end_epoch(self, steps: int, started: float, on_epoch: Callable[[EpochReport], None]) -> None:
        report = EpochReport(
            loss=self.loss_sum / steps,
            accuracy=accuracy(self.model, self.examples),
            holdout_accuracy=None if self.holdout is None else accuracy(self.model, self.holdout),
            seconds=time.monotonic() - started,
        )
        self.reports.append(report)
        self.epoch, self.step, self.loss_sum = self.epoch + 1, 0, 0.0
        on_epoch(report)


def accuracy(model: TrainableModel, examples: Examples) -> float:
    """Share of `examples` whose largest logit is their label's."""
    right = 0
    for at in range(0, len(examples), _INFER_ROWS):
        logits = model.infer(examples.x[at : at + _INFER_ROWS])
        right += int(np.count_nonzero(np.argmax(logits, axis=1) == examples.y[at : at + _INFER_ROWS]))
    return right / len(examples)
