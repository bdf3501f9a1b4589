"""A federation in one process: everything is real but the network.

The TFLite head and its training loop, the privacy floor, error feedback and packing, decoding and
aggregation; `fedavg` is what it is compared with, in fp32 and without any of these.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fedclient import codec, runtime
from fedclient.config import GatewaySettings, PrivacySettings
from fedclient.crypto.keys import SealingKey, SigningKey
from fedclient.device.personal import extract, overlay
from fedclient.gateway import canonical
from fedclient.gateway.aggregate import RunningSum, inspect, sample_weight
from fedclient.gateway.collection import usual_budget
from fedclient.runtime import TrainableModel
from fedclient.trainer.pack import pack
from fedclient.training.loop import Examples, HeadTraining, accuracy
from fedclient.uplink import DeviceUplink
from fedclient.values import BlobRef, HeadVersion, Manifest, Plan, Update

_NOTHING = BlobRef(hash=b"", size=0)
_UPDATE = Update(counter=40, head_version=HeadVersion(1, 40), bucket=7, accuracy_percent=70, body=b"")


@dataclass
class Person:
    """One device: what it trains on, and what it keeps to itself between jobs."""

    examples: Examples
    residual: NDArray[np.float32] | None = None
    layer: bytes | None = None  # personal
    velocity: NDArray[np.float32] | None = None  # of a feedback with momentum
    rounds: int = 0  # that were over when it last took part


@dataclass(kw_only=True)
class Turn:
    """One training of one person, and what was sent of it."""

    person: Person
    head: NDArray[np.float32]
    missed: int  # rounds since its last turn, or the beginning, in which it had none
    added: NDArray[np.float32] = field(init=False)  # to the delta, before it was encoded
    sent: codec.Decoded = field(init=False)
    left: NDArray[np.float32] = field(init=False)  # of the delta and what was added


class Feedback:
    """What becomes of what a codec leaves out: as in `trainer/pack.py`, all of it is added to the next delta.

    Stich et al. 2018, Karimireddy et al. 2019.  `feedback.py` has others.
    """

    def start(self, turn: Turn) -> NDArray[np.float32]:
        """Return the weights to train from."""
        return turn.head

    def added(self, turn: Turn) -> NDArray[np.float32]:
        """Return what is added to the delta before it is encoded."""
        return np.zeros_like(turn.head) if turn.person.residual is None else turn.person.residual

    def keep(self, turn: Turn) -> None:
        """Note what was left when the update had gone."""
        turn.person.residual = turn.left

    def counted(self, turns: list[Turn]) -> Iterable[tuple[Person, codec.Decoded]]:
        """Return what the gateway averages."""
        return [(turn.person, turn.sent) for turn in turns]


def above_the_floor(people: list[Examples], privacy: PrivacySettings | None = None) -> list[Person]:
    """Return those whose owner's privacy floor lets them take part."""
    least = (privacy or PrivacySettings()).min_samples
    return [Person(examples=one) for one in people if len(np.unique(one.x, axis=0)) >= least]


@dataclass(kw_only=True)
class Federation:
    """A gateway and its devices, synchronous; `head` is the head that is current."""

    model: TrainableModel
    plan: Plan
    people: list[Person]
    stride: int  # of seeds from round to round
    privacy: PrivacySettings = field(default_factory=PrivacySettings)
    feedback: Feedback = field(default_factory=Feedback)
    share: float = 1.0  # of the people take part in a round, drawn by chance
    max_delta_bytes: int | None = None
    rounds_heads: bool = True  # to a canonical head; else the gateway has fp32, and nothing is fetched
    round: int = 0
    head: NDArray[np.float32] = field(init=False)
    body_bytes: int | None = field(init=False)  # that an update may have at most
    versions: list[bytes] = field(default_factory=list)  # a delta, or a whole head: what a device fetches

    @classmethod
    def of(
        cls,
        model: bytes,
        plan: Plan,
        people: list[Person],
        *,
        stride: int | None = None,
        privacy: PrivacySettings | None = None,
    ) -> Federation:
        return cls(
            model=runtime.load(model),
            plan=plan,
            people=people,
            stride=stride or len(people),
            privacy=privacy or PrivacySettings(),
        )

    def __post_init__(self) -> None:
        self.canonical = canonical.begin(self.model.get_weights(), self.model.tensors)
        self.head = self.canonical.head
        self.body_bytes = Post("lab").body_bytes(self.plan)
        self._manifest = Manifest(
            head_version=HeadVersion(1, 1),
            model=_NOTHING,
            head=_NOTHING,
            full=_NOTHING,
            tensors=self.model.tensors,
            labels=(),
            plan=self.plan,
            plan_hash=b"",
        )

    def run(self, rounds: int, on_body: Callable[[bytes], None] = lambda _: None) -> None:
        """Let people train once in each round, and aggregate; `on_body` sees every update."""
        for _ in range(rounds):
            turns, sizes = [], []
            for turn, body in self._turns(drawn(self.round, len(self.people), self.share)):
                turns.append(turn)
                sizes.append(len(body))
                on_body(body)
            budget = self.max_delta_bytes or usual_budget(sum(sizes), len(sizes))
            self._publish(turns, budget)
            self.round += 1

    def _publish(self, turns: list[Turn], budget_bytes: int) -> None:
        total = RunningSum(self._manifest)
        for person, decoded in self.feedback.counted(turns):
            bucket = len(person.examples).bit_length() - 1
            total.add(decoded, sample_weight(bucket, GatewaySettings().max_weight_bucket))
        change = total.change(GatewaySettings().server_learning_rate)
        if not self.rounds_heads:
            self.head = (self.head + change).astype(np.float32)
            return
        self.canonical, delta = canonical.advance(self.canonical, change, self.model.tensors, budget_bytes)
        self.head = self.canonical.head
        self.versions.append(self.canonical.full if delta is None else delta)

    def head_of(self, person: Person) -> NDArray[np.float32]:
        """Return the current head as this person's app gets it."""
        if person.layer is None:
            return self.head
        mixed = overlay(self.head.astype("<f4").tobytes(), self.model.tensors, person.layer)
        return np.frombuffer(mixed, "<f4").astype(np.float32)

    def _turns(self, who: list[int]) -> Iterator[tuple[Turn, bytes]]:
        for index in who:
            yield self._update(self._turn(self.people[index]), self.round * self.stride + index)

    def _turn(self, person: Person) -> Turn:
        missed, person.rounds = self.round - person.rounds, self.round + 1
        return Turn(person=person, head=self.head_of(person), missed=missed)

    def _update(self, turn: Turn, seed: int) -> tuple[Turn, bytes]:
        person = turn.person
        training = train(self.model, self.feedback.start(turn), person.examples, self.plan, seed)
        person.layer = extract(self.model.get_weights().astype("<f4").tobytes(), self.model.tensors) or None
        turn.added = self.feedback.added(turn)
        packed = pack(training, self.head, turn.added, self.privacy.min_per_class, self.body_bytes)
        decoded = inspect(packed.body, self._manifest)
        assert isinstance(decoded, codec.Decoded), decoded
        turn.sent, turn.left = decoded, packed.residual
        self.feedback.keep(turn)
        return turn, packed.body


def drawn(number: int, people: int, share: float) -> list[int]:
    """Return who takes part in a round: all, or a `share` of them by chance, at least one."""
    if share == 1:
        return list(range(people))
    order = np.random.Generator(np.random.PCG64([number, people])).permutation(people)
    return sorted(order[: max(1, round(share * people))].tolist())


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


def fedavg(
    model: TrainableModel, head: NDArray[np.float32], everybody: list[Examples], plan: Plan, number: int
) -> NDArray[np.float32]:
    """Average the trained heads of everybody, weighted by samples: McMahan et al. 2017."""
    total, weight = np.zeros(len(head)), 0
    for index, examples in enumerate(everybody):
        train(model, head, examples, plan, number * len(everybody) + index)
        total += len(examples) * model.get_weights().astype(np.float64)
        weight += len(examples)
    mean: NDArray[np.float32] = (total / weight).astype(np.float32)
    return mean


class Post:
    """Knows what travels: signed, sealed, with the MQTT header and the topic."""

    def __init__(self, federation: str) -> None:
        self._uplink = DeviceUplink(
            federation=federation,
            key=SigningKey.generate(),
            gateway_sealing_key=SealingKey.generate().public,
        )

    def wire_bytes(self, body: bytes) -> int:
        """Size of the PUBLISH that carries `body`."""
        return len(body) + self._uplink.overhead_bytes(_UPDATE, len(body))

    def body_bytes(self, plan: Plan) -> int | None:
        """Return how long a body may be under the plan's bound on the PUBLISH, None: as long as it is."""
        most = plan.max_update_bytes
        return most - self._uplink.overhead_bytes(_UPDATE, most) if most else None


def accuracy_of(model: TrainableModel, head: NDArray[np.float32], test: Examples) -> float:
    """Return the share of `test` that `head` predicts right."""
    model.set_weights(head)
    return accuracy(model, test)


def mean_of(values: list[float]) -> dict[str, float]:
    """Return mean and deviation over the folds."""
    return {"mean": round(statistics.mean(values), 4), "deviation": round(statistics.pstdev(values), 4)}
