"""Does the adoption gate keep broken heads from apps, and how often does it refuse an honest one?

Two federations with the codec on: handwritten digits (10 devices that see three classes each) and WISDM
(`people.py`; people who take part and people who do not).  Every device judges each round's head by
`training/verdict.py`, against the head that it adopted last; on 20 of its samples, and on 100.

    honest    the heads of the federation, in their order
    broken    random weights of seven sizes, permuted labels (no class keeps its own), shuffled weights,
              the head turned round, NaN; against what was adopted by rounds 1, 5 and the last, or nothing

A head that is adopted though it is broken is `harmful` when more of that device's samples, all that were
not judged on, find it worse than the head in use by more than the rule allows: in accuracy, or in loss;
and where none is in use, worse than knowing nothing.  A head that was not adopted does no harm.

    tools/bench/run --only adoption
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from federation import Federation, above_the_floor
from numpy.typing import NDArray
from people import CLASSES, FEATURES, Recordings, data_path

from fedclient import runtime
from fedclient.config import AdoptionSettings
from fedclient.errors import ModelError
from fedclient.model.head import write_head
from fedclient.runtime import TrainableModel
from fedclient.testing import digits
from fedclient.training.loop import Examples
from fedclient.training.verdict import KEPT_SHARE, Measured, decide
from fedclient.training.verdict import measure as measured
from fedclient.values import Plan, Verdict

ROWS = (20, 100)
SCALES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
MARGIN = AdoptionSettings().margin
_LEFT = 20  # a device has at least so many samples that nothing was judged on

Head = NDArray[np.float32]


@dataclass
class Figures:
    """What came of all heads that were judged on so many rows."""

    honest: Counter[str] = field(default_factory=Counter)
    without: int = 0  # devices that have no head in the end
    devices: int = 0
    tried: Counter[str] = field(default_factory=Counter)
    adopted: Counter[str] = field(default_factory=Counter)
    harmful: Counter[str] = field(default_factory=Counter)
    harmful_with_a_head: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return counts, and shares of them."""
        return {
            "devices": self.devices,
            "devices_without_a_head": self.without,
            "honest_heads": self.honest.total(),
            "honest_heads_refused": self.honest["refused"],
            "honest_share_refused": round(self.honest["refused"] / max(1, self.honest.total()), 4),
            "broken_heads": self.tried.total(),
            "broken_heads_adopted": self.adopted.total(),
            "harmful_heads_adopted": self.harmful.total(),
            "harmful_heads_adopted_in_place_of_one": self.harmful_with_a_head,
            "adopted_by_kind": dict(self.adopted),
            "harmful_by_kind": dict(self.harmful),
        }


def measure(rounds: int, seeds: int) -> dict[str, Any]:
    """Run both federations; WISDM only with its data."""
    started = time.monotonic()
    found: dict[str, Any] = {"digits": _digits(rounds, seeds)}
    path = data_path()
    if path is not None:
        found["wisdm"] = _wisdm(Recordings.load(path), rounds, seeds)
    parts = [figures for task in found.values() for figures in task.values()]
    harmful = sum(part["harmful_heads_adopted"] for part in parts)
    tried = sum(part["broken_heads"] for part in parts)
    honest = sum(part["honest_heads"] for part in parts)
    return {
        **found,
        "rounds": rounds,
        "seeds": seeds,
        "margin": MARGIN,
        "broken_heads": tried,
        "harmful_heads_adopted": harmful,
        "in_place_of_a_head": sum(part["harmful_heads_adopted_in_place_of_one"] for part in parts),
        "harmful_percent": round(100 * harmful / tried, 3),
        "honest_percent_refused": round(
            100 * sum(part["honest_heads_refused"] for part in parts) / honest, 2
        ),
        "seconds": round(time.monotonic() - started, 1),
    }


def _digits(rounds: int, seeds: int) -> dict[str, Any]:
    task = digits.task(10, 0)
    everybody = list(task.devices)
    return _gate(task.model, _heads(task.model, digits.PLAN, everybody, rounds), everybody, seeds)


def _wisdm(recordings: Recordings, rounds: int, seeds: int) -> dict[str, Any]:
    seen, _ = next(recordings.folds())
    scaled = recordings.scaled(np.isin(recordings.person, seen))
    people = {int(one): scaled.examples(scaled.person == one) for one in np.unique(scaled.person)}
    model = write_head(FEATURES, CLASSES)
    heads = _heads(model, Plan(), [people[one] for one in seen], rounds)
    return _gate(model, heads, list(people.values()), seeds)


def _heads(model: bytes, plan: Plan, devices: list[Examples], rounds: int) -> list[Head]:
    """Return the head of each round, the untrained one first."""
    fleet = Federation.of(model, plan, above_the_floor(devices))
    heads = [fleet.head]
    for _ in range(rounds):
        fleet.run(1)
        heads.append(fleet.head)
    return heads


# --- the gate ---------------------------------------------------------------------------------------------
def _gate(model: bytes, heads: list[Head], devices: list[Examples], seeds: int) -> dict[str, Any]:
    loaded = runtime.load(model)
    found = {}
    for rows in ROWS:
        figures = Figures()
        for number, own in enumerate(devices):
            if len(own) < rows + _LEFT:
                continue
            for seed in range(seeds):
                source = np.random.default_rng([number, seed, rows])
                _Device(loaded, own, rows, source).judge(heads, figures)
        found[f"on_{rows}_samples"] = figures.as_dict()
    return found


class _Device:
    """One device with so many samples to judge on; the others know better."""

    def __init__(self, model: TrainableModel, own: Examples, rows: int, source: np.random.Generator) -> None:
        order = source.permutation(len(own))
        self._model = model
        self._source = source
        self._judged, self._others = (
            Examples(x=own.x[at], y=own.y[at]) for at in (order[:rows], order[rows:])
        )

    def judge(self, heads: list[Head], figures: Figures) -> None:
        """Judge every head in its order, and broken ones in between."""
        adopted: Head | None = None
        broken_at = {0, 1, 5, len(heads) - 1}
        figures.devices += 1
        for number, head in enumerate(heads):
            if self._adopts(head, adopted, self._judged):
                adopted = head
                figures.honest["adopted"] += 1
            else:
                figures.honest["refused"] += 1
            if number in broken_at:
                self._try_broken(head, adopted if number else None, figures)
        figures.without += adopted is None

    def _try_broken(self, head: Head, adopted: Head | None, figures: Figures) -> None:
        for kind, broken in self._broken(head):
            figures.tried[kind] += 1
            if self._adopts(broken, adopted, self._judged):
                figures.adopted[kind] += 1
                harms = self._harms(broken, adopted)
                figures.harmful[kind] += harms
                figures.harmful_with_a_head += harms and adopted is not None

    def _adopts(self, head: Head, current: Head | None, rows: Examples) -> bool:
        try:
            new = self._measured(head, rows)
        except ModelError:  # NaN: what the judge makes of it too
            return False
        used = None if current is None else self._measured(current, rows)
        return decide(new, used, self._model.classes, MARGIN)[0] is Verdict.ADOPTED

    def _harms(self, head: Head, current: Head | None) -> bool:
        new, nothing = self._measured(head, self._others), math.log(self._model.classes)
        if current is None:
            return new.loss > nothing
        used = self._measured(current, self._others)
        lost = (1 - KEPT_SHARE) * max(0.0, nothing - used.loss)
        return new.accuracy < used.accuracy - MARGIN or new.loss > used.loss + lost

    def _measured(self, head: Head, rows: Examples) -> Measured:
        self._model.set_weights(head)
        return measured(self._model, rows)

    def _broken(self, head: Head) -> Iterator[tuple[str, Head]]:
        source, classes = self._source, self._model.classes
        for scale in SCALES:
            yield f"random_{scale:g}", (source.normal(size=head.shape) * scale).astype(np.float32)
        bias, kernel = head[:classes], head[classes:].reshape(classes, -1)
        order = np.arange(classes)
        while (order == np.arange(classes)).any():
            order = source.permutation(classes)
        yield "not_finite", np.where(np.arange(len(head)) == 0, np.float32(np.nan), head)
        if head.any():  # the untrained one is the same in any order
            yield "permuted_labels", np.concatenate([bias[order], kernel[order].ravel()])
            yield "shuffled", source.permutation(head)
            yield "turned_round", -head
