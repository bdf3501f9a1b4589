"""People as devices: WISDM by user, and a federation over them with everything real but the network.

WISDM v1.1 (Kwapisz, Weiss, Moore 2010): 5418 windows of 43 features, 6 activities, 36 people with very
different habits.  The folds split people, not windows.  `wisdm.py` and `personal.py` measure with it.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedclient import codec, runtime
from fedclient.config import GatewaySettings, PrivacySettings
from fedclient.device.personal import extract, overlay
from fedclient.gateway.aggregate import RunningSum, inspect, sample_weight
from fedclient.runtime import TrainableModel
from fedclient.trainer.pack import pack
from fedclient.training.loop import Examples, HeadTraining
from fedclient.values import BlobRef, HeadVersion, Manifest, Plan

SHARED = Path(os.environ.get("FEDCLIENT_SHARED", Path(__file__).parents[3] / "shared"))
FEATURES, CLASSES = 43, 6
FOLDS = 5
_NOTHING = BlobRef(hash=b"", size=0)


def data_path() -> Path | None:
    """Return where the recordings are, or None without the reference data."""
    path = SHARED / "data" / "wisdm" / "har.npz"
    return path if path.exists() else None


@dataclass(frozen=True, kw_only=True)
class Recordings:
    """Everybody's windows, in the order of the recording; `person` says whose each is."""

    x: NDArray[np.float32]
    y: NDArray[np.int32]
    person: NDArray[np.int64]

    @classmethod
    def load(cls, path: Path) -> Recordings:
        with np.load(path, allow_pickle=False) as data:
            return cls(x=data["x"], y=data["y"].astype(np.int32), person=data["client"])

    def folds(self) -> Iterator[tuple[list[int], list[int]]]:
        """Yield (people who take part, people held out)."""
        people = np.random.Generator(np.random.PCG64(0)).permutation(np.unique(self.person))
        for held_out in np.array_split(people, FOLDS):
            yield [int(one) for one in people if one not in held_out], [int(one) for one in held_out]

    def scaled(self, rows: NDArray[np.bool_]) -> Recordings:
        """Return the same with features scaled by mean and deviation of `rows`."""
        mean, deviation = self.x[rows].mean(axis=0), self.x[rows].std(axis=0)
        x = ((self.x - mean) / np.where(deviation > 0, deviation, 1)).astype(np.float32)
        return Recordings(x=x, y=self.y, person=self.person)

    def examples(self, rows: NDArray[np.bool_]) -> Examples:
        return Examples(x=self.x[rows], y=self.y[rows])


@dataclass
class Person:
    """One device: what it trains on, and what it keeps to itself between jobs."""

    examples: Examples
    residual: NDArray[np.float32] | None = None
    layer: bytes | None = None  # personal


def above_the_floor(people: list[Examples]) -> list[Person]:
    """Return those whose owner's privacy floor lets them take part."""
    least = PrivacySettings().min_samples
    return [Person(examples=one) for one in people if len(np.unique(one.x, axis=0)) >= least]


@dataclass(kw_only=True)
class Federation:
    """A gateway and its devices, synchronous; `head` is the head that is current."""

    model: TrainableModel
    plan: Plan
    people: list[Person]
    stride: int  # of seeds from round to round
    round: int = 0
    head: NDArray[np.float32] = field(init=False)

    @classmethod
    def of(cls, model: bytes, plan: Plan, people: list[Person], stride: int | None = None) -> Federation:
        return cls(model=runtime.load(model), plan=plan, people=people, stride=stride or len(people))

    def __post_init__(self) -> None:
        self.head = self.model.get_weights()
        self._manifest = Manifest(
            head_version=HeadVersion(1, 1),
            model=_NOTHING,
            head=_NOTHING,
            tensors=self.model.tensors,
            labels=(),
            plan=self.plan,
            plan_hash=b"",
        )

    def run(self, rounds: int, on_body: Callable[[bytes], None] = lambda _: None) -> None:
        """Let everybody train once in each round, and aggregate; `on_body` sees every update."""
        for _ in range(rounds):
            total = RunningSum(self._manifest)
            for index, person in enumerate(self.people):
                body = self._update(person, self.round * self.stride + index)
                on_body(body)
                decoded = inspect(body, self._manifest)
                assert isinstance(decoded, codec.Decoded), decoded
                bucket = len(person.examples).bit_length() - 1
                total.add(decoded, sample_weight(bucket, GatewaySettings().max_weight_bucket))
            self.head = total.finish(self.head, GatewaySettings().server_learning_rate)
            self.round += 1

    def head_of(self, person: Person) -> NDArray[np.float32]:
        """Return the current head as this person's app gets it."""
        if person.layer is None:
            return self.head
        mixed = overlay(self.head.astype("<f4").tobytes(), self.model.tensors, person.layer)
        return np.frombuffer(mixed, "<f4").astype(np.float32)

    def _update(self, person: Person, seed: int) -> bytes:
        training = train(self.model, self.head_of(person), person.examples, self.plan, seed)
        residual = np.zeros_like(self.head) if person.residual is None else person.residual
        packed = pack(training, self.head, residual, PrivacySettings().min_per_class)
        person.residual = packed.residual
        person.layer = extract(self.model.get_weights().astype("<f4").tobytes(), self.model.tensors) or None
        return packed.body


def train(
    model: TrainableModel, head: NDArray[np.float32], examples: Examples, plan: Plan, seed: int
) -> HeadTraining:
    """Train `model` from `head`, with no state of an optimiser from before."""
    model.set_weights(head)
    state = model.get_state()
    if slots := {name: slot * 0 for name, slot in state.items() if not name.startswith("anchor/")}:
        model.set_state(state | slots)  # a trainer is a new process each time
    training = HeadTraining(model=model, examples=examples, plan=plan, seed=seed)
    training.run(lambda: False, lambda _: None)
    return training


def mean_of(values: list[float]) -> dict[str, float]:
    """Return mean and deviation over the folds."""
    return {"mean": round(statistics.mean(values), 4), "deviation": round(statistics.pstdev(values), 4)}
