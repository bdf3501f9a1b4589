"""Deltas of real federations, as the codec gets them: with what earlier updates left out, in several rounds.

    digits, i.i.d.           ten devices with all classes each; 12,810 parameters (`digits.py`)
    digits, two classes      ten devices with two of the ten classes each
    activities               the people of WISDM, each with their own mix of six; 264 (`people.py`)
    letters                  drawers, each with one image of 26 letters; 33,306 (`omniglot.py`)

The last two need ../shared and are left out without it.  The codec is signs at 1 %, as in most of the tables.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import budgets
import digits
import numpy as np
import omniglot
import people
from federation import above_the_floor
from linear import LinearFederation
from numpy.typing import NDArray

from fedclient import codec
from fedclient.config import PrivacySettings
from fedclient.training.loop import Examples
from fedclient.values import Codec, CodecMode, Plan, TensorSpec

ROUNDS: Final = (1, 3, 10, 20)  # whose deltas are taken, counted from 1
DEVICES: Final = 5
PLAN: Final = Plan(
    learning_rate=0.1, norm_bound=100.0, momentum=0.0, codec=Codec(mode=CodecMode.TOPK_SIGN, density=0.01)
)

Array = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Deltas:
    """Some deltas of one federation."""

    tensors: tuple[TensorSpec, ...]
    by_round: dict[int, list[Array]]


@dataclass(kw_only=True)
class _Overheard(LinearFederation):
    """A federation that keeps what is about to be encoded."""

    wanted: list[Array] = field(default_factory=list)

    def _encoded(self, wanted: Array) -> codec.Encoded:
        self.wanted.append(wanted.copy())
        return super()._encoded(wanted)


def real() -> Iterator[tuple[str, Deltas]]:
    """Train the federations, one after the other."""
    for name, split in (("digits, i.i.d.", "iid"), ("digits, two classes", "two_classes")):
        task = digits.task("features", split, 0)
        yield name, _deltas(task.model, task.devices, PLAN, PrivacySettings())
    if people.data_path() is not None:
        fold = budgets.load("wisdm", 0, Path())
        yield "activities", _deltas(fold.model, fold.devices, PLAN, PrivacySettings())
    if omniglot.Drawings.load() is not None and omniglot.backbone() is not None:
        with tempfile.TemporaryDirectory() as path:
            budgets.prepare(Path(path))
            fold = budgets.load("omniglot", 0, Path(path))
        plan = replace(omniglot.PLAN, codec=PLAN.codec)
        yield "letters", _deltas(fold.model, fold.devices, plan, omniglot.OWNER)


def _deltas(model: bytes, devices: list[Examples], plan: Plan, privacy: PrivacySettings) -> Deltas:
    above = above_the_floor(devices, privacy)[:DEVICES]
    federation = _Overheard.of(model, plan, above, privacy=privacy)
    by_round = {}
    for number in range(1, max(ROUNDS) + 1):
        federation.wanted.clear()
        federation.run(1)
        if number in ROUNDS:
            by_round[number] = federation.wanted[:]
    return Deltas(tensors=federation.model.tensors, by_round=by_round)
