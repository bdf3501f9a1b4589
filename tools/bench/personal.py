"""What is a head of one's own worth?  WISDM by user: people who take part, and people nobody has seen.

Each person of WISDM is a device (`people.py`), five folds of people.  Of everybody who takes part the last
30 % of each activity are kept to test with: a split in time, as windows beside each other are nearly
equal and a random split would reward learning them by heart (it is reported too, for the four
heads).  Features are scaled by mean and deviation of what is trained on, which is what a plan with
`statistics` computes without collecting anything.  The codec is on in everything.

    global          the head of a federation, as it comes: 1 epoch in each of 40 rounds
    local_only      trained from nothing on one person's own windows, as many epochs
    fine_tuned      `[adoption] personal = "finetune"`: one more job, then 5 epochs for the app alone
    personal_layer  another federation, whose head was written with a personal layer; 40 rounds

    tools/bench/run --only personal

Accuracies are shares of all test windows; `worst_user` is the person for whom it is least.  Beside
that: momentum, Adam, balanced sampling, and FedProx, also with 5 local epochs, where devices drift apart.
The hyper-parameters are the ones below, for all folds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from typing import Any

import numpy as np
from federation import Federation, Person, above_the_floor, train
from numpy.typing import NDArray
from people import CLASSES, FEATURES, FOLDS, Recordings, data_path

from fedclient.config import AdoptionSettings
from fedclient.model.head import HeadOptions, Optimizer, write_head
from fedclient.runtime import TrainableModel
from fedclient.training.loop import Examples
from fedclient.values import Plan

ROUNDS = 40
TRAINED_SHARE = 0.7
_PLAIN, _MOMENTUM = HeadOptions(), HeadOptions(optimizer=Optimizer.MOMENTUM)
_AS_IT_COMES = Plan()
_ADAM, _PERSONAL = HeadOptions(optimizer=Optimizer.ADAM), HeadOptions(personal=True)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to federate; `rounds` is a share of the rounds of plain FedAvg."""

    options: HeadOptions = _PLAIN
    plan: Plan = _AS_IT_COMES
    rounds: float = 1.0


FEDAVG = Variant()
PERSONAL_LAYER = Variant(options=_PERSONAL)
OTHERS = {
    "balanced": Variant(plan=Plan(balanced=True)),
    "momentum": Variant(options=_MOMENTUM, plan=Plan(learning_rate=0.02)),
    "adam": Variant(options=_ADAM, plan=Plan(learning_rate=0.01)),
    "fedprox": Variant(plan=Plan(mu=0.1)),
    "fedavg_5_epochs": Variant(plan=Plan(epochs=5), rounds=0.5),
    "fedprox_5_epochs": Variant(plan=Plan(epochs=5, mu=1.0), rounds=0.5),
}


@dataclass
class Score:
    """What heads did on their people's windows."""

    users: list[float] = field(default_factory=list)
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(CLASSES, np.int64))
    right: NDArray[np.int64] = field(default_factory=lambda: np.zeros(CLASSES, np.int64))

    def add(self, model: TrainableModel, head: NDArray[np.float32], test: Examples) -> None:
        """Judge one person's head on that person's windows."""
        model.set_weights(head)
        hits = model.infer(test.x).argmax(axis=1) == test.y
        self.users.append(float(hits.mean()))
        self.counts += np.bincount(test.y, minlength=CLASSES)
        self.right += np.bincount(test.y[hits], minlength=CLASSES)

    @classmethod
    def of(cls, parts: Iterable[Score]) -> Score:
        """Put the scores of several folds together."""
        whole = cls()
        for part in parts:
            whole.users += part.users
            whole.counts += part.counts
            whole.right += part.right
        return whole

    @property
    def accuracy(self) -> float:
        return round(float(self.right.sum() / self.counts.sum()), 4)

    def as_dict(self) -> dict[str, Any]:
        recalls = self.right / np.maximum(self.counts, 1)
        return {
            "accuracy": self.accuracy,
            "mean_of_users": round(statistics.mean(self.users), 4),
            "worst_user": round(min(self.users), 4),
            "recall_by_class": [round(float(one), 3) for one in recalls],
            "mean_recall": round(float(recalls.mean()), 4),
        }


Scores = dict[str, Score]


@dataclass
class Fold:
    """People who take part, each with windows to train on and to test with, and people who do not."""

    people: list[Examples]
    tests: list[Examples]
    unseen: list[Examples]

    @classmethod
    def of(cls, recordings: Recordings, test: NDArray[np.bool_], who: tuple[list[int], list[int]]) -> Fold:
        seen, unseen = who
        scaled = recordings.scaled(np.isin(recordings.person, seen) & ~test)
        masks = [scaled.person == one for one in seen]
        return cls(
            people=[scaled.examples(mask & ~test) for mask in masks],
            tests=[scaled.examples(mask & test) for mask in masks],
            unseen=[scaled.examples(scaled.person == one) for one in unseen],
        )

    def federated(self, variant: Variant, rounds: int) -> tuple[Federation, list[Examples]]:
        """Federate those above the privacy floor; returns it with the windows to test each of them with."""
        people = above_the_floor(self.people)
        tests = [test for one, test in zip(self.people, self.tests, strict=True) if _takes_part(one, people)]
        head = write_head(FEATURES, CLASSES, options=variant.options)
        federation = Federation.of(head, variant.plan, people)
        federation.run(max(1, round(rounds * variant.rounds)))
        return federation, tests


def measure(folds: int = FOLDS, rounds: int = ROUNDS, *, others: bool = True) -> dict[str, Any] | None:
    """Run the first `folds` folds; None without the data."""
    path = data_path()
    if path is None:
        return None
    started, recordings = time.monotonic(), Recordings.load(path)
    splits = list(recordings.folds())[:folds]
    in_time, at_random = (
        [Fold.of(recordings, test_windows(recordings, shuffled=shuffled), who) for who in splits]
        for shuffled in (False, True)
    )
    with ProcessPoolExecutor(mp_context=get_context("fork")) as pool:  # each fold by itself
        pending = [pool.submit(heads, fold, rounds) for fold in in_time]
        shuffled = [pool.submit(heads, fold, rounds) for fold in at_random if others]
        varied = {
            name: [pool.submit(compared, fold, variant, rounds) for fold in in_time if others]
            for name, variant in OTHERS.items()
        }
        found = _heads([one.result() for one in pending])
        if others:
            found["seen_split_at_random"] = _heads([one.result() for one in shuffled])["seen"]
            found["others"] = {
                name: _compared(OTHERS[name], rounds, [one.result() for one in parts])
                for name, parts in varied.items()
            }
    setting = {
        "rounds": rounds,
        "folds": len(splits),
        "split": f"in time: the first {TRAINED_SHARE:.0%} of each activity of each person are trained on",
        "scaling": "mean and deviation of the windows trained on",
    }
    return {**setting, **found, "seconds": round(time.monotonic() - started, 1)}


def test_windows(recordings: Recordings, *, shuffled: bool) -> NDArray[np.bool_]:
    """Mark, of each person and activity, the last windows (or as many at random)."""
    marked = np.zeros(len(recordings.y), bool)
    for person in np.unique(recordings.person):
        for activity in range(CLASSES):
            rows = np.flatnonzero((recordings.person == person) & (recordings.y == activity))
            if shuffled:
                rows = np.random.Generator(np.random.PCG64([person, activity])).permutation(rows)
            marked[rows[round(TRAINED_SHARE * len(rows)) :]] = True
    return marked


def heads(fold: Fold, rounds: int) -> tuple[Scores, Scores]:
    """Return what the four heads do for people who take part, and the global ones for all others."""
    seen = {name: Score() for name in ("global", "local_only", "fine_tuned", "personal_layer")}
    unseen = {name: Score() for name in ("global", "personal_layer")}
    federation, tests = fold.federated(FEDAVG, rounds)
    nothing = np.zeros_like(federation.head)
    for seed, (person, test) in enumerate(zip(federation.people, tests, strict=True)):
        local = _trained(federation, nothing, person, seed, epochs=rounds)
        tuned = _tuned(federation, person, seed)
        for name, head in (("global", federation.head), ("local_only", local), ("fine_tuned", tuned)):
            seen[name].add(federation.model, head, test)
    layered, tests = fold.federated(PERSONAL_LAYER, rounds)
    for person, test in zip(layered.people, tests, strict=True):
        seen["personal_layer"].add(layered.model, layered.head_of(person), test)
    for test in fold.unseen:
        unseen["global"].add(federation.model, federation.head, test)
        unseen["personal_layer"].add(layered.model, layered.head, test)
    return seen, unseen


def compared(fold: Fold, variant: Variant, rounds: int) -> tuple[Score, Score]:
    """Return what the global head of another federation does for people who take part, and for others."""
    seen, unseen = Score(), Score()
    federation, tests = fold.federated(variant, rounds)
    for test in tests:
        seen.add(federation.model, federation.head, test)
    for test in fold.unseen:
        unseen.add(federation.model, federation.head, test)
    return seen, unseen


def _heads(folds: list[tuple[Scores, Scores]]) -> dict[str, Any]:
    seen, unseen = (
        {name: Score.of(one[part][name] for one in folds) for name in folds[0][part]} for part in (0, 1)
    )
    return {
        "seen": {name: score.as_dict() for name, score in seen.items()},
        "unseen": {name: score.as_dict() for name, score in unseen.items()},
        "gain_of_fine_tuning": round(seen["fine_tuned"].accuracy - seen["global"].accuracy, 4),
        "gain_of_personal_layer": round(seen["personal_layer"].accuracy - seen["global"].accuracy, 4),
    }


def _compared(variant: Variant, rounds: int, folds: list[tuple[Score, Score]]) -> dict[str, Any]:
    return {
        "epochs": variant.plan.epochs,
        "learning_rate": variant.plan.learning_rate,
        "mu": variant.plan.mu,
        "rounds": max(1, round(rounds * variant.rounds)),
        "seen": Score.of(seen for seen, _ in folds).as_dict(),
        "unseen": Score.of(unseen for _, unseen in folds).as_dict(),
    }


def _takes_part(examples: Examples, people: list[Person]) -> bool:
    return any(person.examples is examples for person in people)


def _tuned(federation: Federation, person: Person, seed: int) -> NDArray[np.float32]:
    """Do what a trainer does: the job, and then some epochs for the app (`trainer/tuning.py`)."""
    after = _trained(federation, federation.head, person, seed, epochs=federation.plan.epochs)
    return _trained(federation, after, person, seed + 1, epochs=AdoptionSettings().finetune_epochs)


def _trained(
    federation: Federation, head: NDArray[np.float32], person: Person, seed: int, *, epochs: int
) -> NDArray[np.float32]:
    plan = replace(federation.plan, epochs=epochs)
    return train(federation.model, head, person.examples, plan, seed).model.get_weights()
