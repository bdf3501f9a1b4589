"""Error feedback in other ways than the project's own, and a federation of digits with each.

    none       what a codec leaves out is lost
    plain      all of it is added to the next delta (Karimireddy et al. 2019): `trainer/pack.py`
    decay      the same, times a factor for each round that the device missed
    fade       the same, times a factor in every round, missed or not
    ahead      trains from the head plus a part of what was left out (step-ahead error feedback: Xu et al.
               2021): what it learned already then has smaller gradients
    momentum   momentum correction (Lin et al. 2018): what is left out is a sum of velocities
    masked     momentum correction with momentum factor masking: what is sent has no velocity any more
    ef21       the gateway has an estimate of each device's delta, and the device sends the difference to
               it (Richtarik et al. 2021); those who miss a round count with their estimate

Training is NumPy's (`linear.py`), all else the real thing; a variant changes what is added before packing.

    tools/bench/run --only feedback

Figures are of the head of 12,810 parameters (`digits.py`), with as many rounds for all.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
from digits import Task, task
from federation import Feedback, Person, Turn, above_the_floor, drawn
from linear import LinearFederation, accuracy_of, fedavg_all
from numpy.typing import NDArray
from parallel import spread, together

from fedclient import codec, runtime
from fedclient.values import Codec, CodecMode, Plan

FP32 = "fp32 FedAvg"
ROUNDS = 40
SPLITS = ("iid", "two_classes")
LAST = 5  # rounds that the final accuracy is the mean of
SEEDS = 2
SHARES = (1.0, 0.3)
RATES = (0.05, 0.2, 1.0)
PLAN = Plan(norm_bound=100.0, momentum=0.0)  # never reached here
CODECS = {
    "sign_0.2%": Codec(mode=CodecMode.TOPK_SIGN, density=0.002),
    "sign_1%": Codec(mode=CodecMode.TOPK_SIGN, density=0.01),
}


class NoFeedback(Feedback):
    """What is left out is lost."""

    def added(self, turn: Turn) -> NDArray[np.float32]:
        return np.zeros_like(turn.head)


@dataclass
class Decay(Feedback):
    """Less of it comes back, by a factor for each round missed, and one for every round."""

    missed: float = 1.0
    always: float = 1.0

    def added(self, turn: Turn) -> NDArray[np.float32]:
        return super().added(turn) * np.float32(self.always * self.missed**turn.missed)


@dataclass
class Ahead(Feedback):
    """Trains from the head plus a part of what is left out; the delta then has that part in it."""

    part: float

    def start(self, turn: Turn) -> NDArray[np.float32]:
        return turn.head + np.float32(self.part) * super().added(turn)

    def added(self, turn: Turn) -> NDArray[np.float32]:
        return super().added(turn) * np.float32(1 - self.part)


@dataclass
class Momentum(Feedback):
    """Velocities are summed up, not deltas."""

    factor: float
    masked: bool = False

    def added(self, turn: Turn) -> NDArray[np.float32]:
        residual, velocity = super().added(turn), turn.person.velocity
        return residual if velocity is None else residual + np.float32(self.factor) * velocity

    def keep(self, turn: Turn) -> None:
        sent = vector(turn)
        velocity = turn.left + sent - super().added(turn)  # factor * velocity + delta
        turn.person.velocity = np.where(self.masked & (sent != 0), np.float32(0), velocity)
        turn.person.residual = turn.left


class EF21(Feedback):
    """Both ends have an estimate of a device's delta; here `residual` is the negative of it."""

    def __init__(self) -> None:
        self._known: list[Person] = []  # who ever sent something

    def keep(self, turn: Turn) -> None:
        if turn.person.residual is None:
            self._known.append(turn.person)
        turn.person.residual = turn.added - vector(turn)

    def counted(self, turns: list[Turn]) -> Iterable[tuple[Person, codec.Decoded]]:
        assert turns
        return [
            (person, codec.Decoded(indices=None, values=-person.residual))
            for person in self._known
            if person.residual is not None
        ]


VARIANTS: dict[str, Callable[[], Feedback]] = {
    "none": NoFeedback,
    "plain": Feedback,
    "decay 0.9": partial(Decay, missed=0.9),
    "decay 0.7": partial(Decay, missed=0.7),
    "decay 0.5": partial(Decay, missed=0.5),
    "fade 0.9": partial(Decay, always=0.9),
    "fade 0.7": partial(Decay, always=0.7),
    "ahead 0.3": partial(Ahead, 0.3),
    "ahead 1.0": partial(Ahead, 1.0),
    "momentum 0.5": partial(Momentum, 0.5),
    "momentum 0.9": partial(Momentum, 0.9),
    "masked 0.5": partial(Momentum, 0.5, masked=True),
    "masked 0.9": partial(Momentum, 0.9, masked=True),
    "ef21": EF21,
}


def vector(turn: Turn) -> NDArray[np.float32]:
    """Return what was sent, as all elements."""
    total = np.zeros(len(turn.head))
    turn.sent.add_to(total, 1.0)
    return total.astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Case:
    """What to federate; picklable."""

    variant: str  # of VARIANTS, or FP32
    codec: str
    rate: float
    split: str
    share: float
    seed: int
    rounds: int

    def is_in(self, variant: str, codec: str, share: float, rate: float) -> bool:
        """Tell whether this is one of a cell's seeds and splits; fp32 is in the cells of all codecs."""
        same = (self.variant, self.share, self.rate) == (variant, share, rate)
        return same and (self.codec == codec or variant == FP32)


def measure(seeds: int = SEEDS, longest: int = ROUNDS) -> dict[str, Any]:
    """Run every variant at every learning rate and codec, with all devices in a round and with a few."""
    started = time.monotonic()
    cases = [
        Case(variant=variant, codec=coding, rate=rate, split=split, share=share, seed=seed, rounds=longest)
        for coding, share, rate, variant, split, seed in product(
            CODECS, SHARES, RATES, (FP32, *VARIANTS), SPLITS, range(seeds)
        )
        if variant != FP32 or coding == next(iter(CODECS))  # it has none
    ]
    found: dict[Case, list[float]] = dict(zip(cases, together(run, cases), strict=True))
    tables: dict[str, Any] = {}
    for coding, share, rate in product(CODECS, SHARES, RATES):
        table = tables.setdefault(coding, {}).setdefault(f"{share:.0%} take part", {})
        table[f"rate {rate:g}"] = {
            variant: _digest([found[case] for case in cases if case.is_in(variant, coding, share, rate)])
            for variant in (FP32, *VARIANTS)
        }
    return {
        "seeds": seeds,
        "rounds": longest,
        "splits": SPLITS,
        **tables,
        "seconds": round(time.monotonic() - started, 1),
    }


def _digest(courses: list[list[float]]) -> dict[str, Any]:
    return {
        "final_accuracy": spread([statistics.mean(one[-LAST:]) for one in courses]),
        "mean_of_all_rounds": spread([statistics.mean(one) for one in courses]),
    }


def run(case: Case) -> list[float]:
    """Return held-out accuracy after each round."""
    digits = task("features", case.split, case.seed)
    plan = replace(PLAN, learning_rate=case.rate)
    if case.variant == FP32:
        return _fp32(digits, plan, case)
    federation = LinearFederation.of(
        digits.model, replace(plan, codec=CODECS[case.codec]), above_the_floor(digits.devices)
    )
    federation.feedback, federation.share = VARIANTS[case.variant](), case.share
    federation.rounds_heads = False  # what is left out there would hide what is left out here
    found = []
    for _ in range(case.rounds):
        federation.run(1)
        found.append(accuracy_of(federation.head, digits.holdout))
    return found


def _fp32(digits: Task, plan: Plan, case: Case) -> list[float]:
    head, found = runtime.load(digits.model).get_weights(), []
    for number in range(case.rounds):
        people = [digits.devices[one] for one in drawn(number, len(digits.devices), case.share)]
        head = fedavg_all(head, people, plan, number)
        found.append(accuracy_of(head, digits.holdout))
    return found
