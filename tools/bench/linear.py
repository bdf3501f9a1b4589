"""Federations of linear heads in a tenth of the time: all devices train at once, in NumPy.

What is computed is what `federation.py` computes: the same batches in the same order, the step that
`fedclient/model/head.py` writes down, the privacy floor, the codec, aggregation and the canonical head.
Only sums are made in another order; `tests/bench/test_linear.py` holds both against each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from federation import Federation, Turn
from numpy.typing import NDArray

from fedclient import codec
from fedclient.trainer.pack import encode_within
from fedclient.training.delta import clip, rare_classes
from fedclient.training.loop import Examples
from fedclient.training.sampling import order
from fedclient.values import Plan

Array = NDArray[np.float32]


@dataclass(kw_only=True)
class LinearFederation(Federation):
    """A federation of heads that `write_head` wrote without a hidden layer; SGD is momentum of 0."""

    _rare: dict[int, NDArray[np.bool_]] = field(default_factory=dict)

    def _turns(self, who: list[int]) -> Iterator[tuple[Turn, bytes]]:
        turns = [self._turn(self.people[index]) for index in who]
        starts = np.stack([self.feedback.start(turn) for turn in turns])
        seeds = [self.round * self.stride + index for index in who]
        trained = train_all(starts, [turn.person.examples for turn in turns], self.plan, seeds)
        for index, turn, weights in zip(who, turns, trained, strict=True):
            yield turn, self._packed(index, turn, weights)

    def _packed(self, index: int, turn: Turn, weights: Array) -> bytes:
        """Do what `trainer/pack.py` does."""
        turn.added = self.feedback.added(turn)
        wanted = clip(weights - turn.head, self.plan.norm_bound) + turn.added
        wanted[self._withheld(index)] = 0.0
        wanted = clip(wanted, self.plan.norm_bound)
        encoded = self._encoded(wanted)
        turn.sent, turn.left = encoded.content, clip(wanted - encoded.decoded, self.plan.norm_bound)
        self.feedback.keep(turn)
        return encoded.body

    def _encoded(self, wanted: Array) -> codec.Encoded:
        return encode_within(wanted, self.model.tensors, self.plan, max_bytes=self.body_bytes)

    def _withheld(self, index: int) -> NDArray[np.bool_]:
        if index not in self._rare:
            examples, classes = self.people[index].examples, self.model.classes
            rare = rare_classes(examples, classes, self.privacy.min_per_class)
            self._rare[index] = np.concatenate([rare, np.repeat(rare, examples.x.shape[1])])
        return self._rare[index]


def fedavg_all(head: Array, everybody: list[Examples], plan: Plan, number: int) -> Array:
    """Average the trained heads of everybody, weighted by samples, as `federation.fedavg`."""
    seeds = [number * len(everybody) + index for index in range(len(everybody))]
    trained = train_all(np.repeat(head[None], len(everybody), axis=0), everybody, plan, seeds)
    shares = np.array([len(one) for one in everybody], np.float64)
    mean: Array = (shares @ trained.astype(np.float64) / shares.sum()).astype(np.float32)
    return mean


def accuracy_of(head: Array, test: Examples) -> float:
    """Return the share of `test` that a flat head predicts right."""
    weights = _as_matrix(head[None], test.x.shape[1])[0]
    scores = test.x @ weights[:, 1:].T + weights[:, 0]
    return float((scores.argmax(axis=1) == test.y).mean())


def train_all(heads: Array, everybody: list[Examples], plan: Plan, seeds: list[int]) -> Array:
    """Train flat `heads` [M, P] for the plan's epochs, each on its examples; returns [M, P].

    The state of momentum begins anew, as in a trainer's process.
    """
    weights = _as_matrix(heads, everybody[0].x.shape[1]).copy()
    velocity = np.zeros_like(weights)
    data = _Padded.of(everybody)
    for epoch in range(plan.epochs):
        rows = data.rows(plan, seeds, epoch)
        for at in range(0, rows.shape[1], plan.batch_size):
            slope = data.slope(weights, rows[:, at : at + plan.batch_size], np.float32(plan.l2))
            velocity = np.float32(plan.momentum) * velocity + np.float32(plan.learning_rate) * slope
            moving = rows[:, at] >= 0  # who has no batch left makes no step
            weights[moving] -= velocity[moving]
    return _as_flat(weights)


@dataclass(frozen=True, kw_only=True)
class _Padded:
    """Everybody's examples in one array, the shorter ones filled up."""

    everybody: list[Examples]
    x: Array  # [M, N, 1 + D], with a 1 for the bias
    y: NDArray[np.int64]  # [M, N]

    @classmethod
    def of(cls, everybody: list[Examples]) -> _Padded:
        longest = max(len(one) for one in everybody)
        x = np.zeros((len(everybody), longest, 1 + everybody[0].x.shape[1]), np.float32)
        y = np.zeros((len(everybody), longest), np.int64)
        for index, one in enumerate(everybody):
            x[index, : len(one), 0], x[index, : len(one), 1:], y[index, : len(one)] = 1, one.x, one.y
        return cls(everybody=everybody, x=x, y=y)

    def rows(self, plan: Plan, seeds: list[int], epoch: int) -> NDArray[np.int64]:
        """Return the order of this epoch [M, N], then -1: each as `training/sampling.py` has it."""
        found = np.full(self.y.shape, -1)
        for index, (one, seed) in enumerate(zip(self.everybody, seeds, strict=True)):
            found[index, : len(one)] = order(one.y, seed, epoch, balanced=plan.balanced)
        return found

    def slope(self, weights: Array, rows: NDArray[np.int64], l2: np.float32) -> Array:
        """Return the slope of the loss of these rows: [M, C, 1 + D]."""
        people = np.arange(len(rows))[:, None]
        x, y = self.x[people, rows], self.y[people, rows]
        scores = x @ weights.transpose(0, 2, 1)
        odds = np.exp(scores - scores.max(axis=2, keepdims=True))
        odds /= odds.sum(axis=2, keepdims=True)
        odds[people, np.arange(rows.shape[1]), y] -= 1
        there = (rows >= 0).astype(np.float32)
        odds *= (there / np.maximum(there.sum(axis=1, keepdims=True), 1))[:, :, None]
        slope: Array = odds.transpose(0, 2, 1) @ x
        slope[:, :, 1:] += l2 * weights[:, :, 1:]
        return slope


def _as_matrix(heads: Array, features: int) -> Array:
    """Return flat heads [M, C + C D], biases first, as [M, C, 1 + D]."""
    classes = heads.shape[1] // (1 + features)
    kernels = heads[:, classes:].reshape(len(heads), classes, features)
    return np.concatenate([heads[:, :classes, None], kernels], axis=2)


def _as_flat(weights: Array) -> Array:
    return np.concatenate([weights[:, :, 0], weights[:, :, 1:].reshape(len(weights), -1)], axis=1)
