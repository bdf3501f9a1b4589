"""Accuracy against bytes: federations of people and of drawers under byte budgets from 200 B to 20 kB.

    wisdm      activities of 36 people (`people.py`), a linear head: 264 parameters
    omniglot   26 letters of 20 drawers on a MobileNet's features (`omniglot.py`): 33,306 parameters

The budget is the plan's `max_update_bytes`: of the whole MQTT PUBLISH, header, topic, envelope, signature and
seal included.  The codec is `fitted`.  Beside it: plain FedAvg in fp32, and the same federation with the
codec as a plan has it by default.  Accuracy is on people that no device has seen, at the end.

    tools/bench/run --only budgets

Training is NumPy's (`linear.py`), all else the real thing.  Hyper-parameters are those of `wisdm.py` and
`omniglot.py`: not tuned for a budget.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import omniglot
import people
from federation import Post, above_the_floor
from linear import LinearFederation, accuracy_of, fedavg_all
from parallel import spread, together

from fedclient import runtime
from fedclient.config import PrivacySettings
from fedclient.model.attach_check import attach_proved
from fedclient.model.head import write_head
from fedclient.training.loop import Examples
from fedclient.values import Codec, CodecMode, Plan, parameters

BUDGETS: Final = (200, 300, 500, 1_000, 2_000, 5_000, 10_000, 20_000)
ENOUGH: Final = {"wisdm": 500}  # for all of its elements: with more it sends the same
FOLDS: Final = 2
FP32: Final = "fp32 FedAvg"
DEFAULT: Final = "default plan"


@dataclass(frozen=True, kw_only=True)
class Task:
    """A federation without its codec."""

    plan: Plan
    rounds: int
    privacy: PrivacySettings


TASKS: Final = {
    "wisdm": Task(plan=Plan(momentum=0.0), rounds=40, privacy=PrivacySettings()),
    "omniglot": Task(plan=omniglot.PLAN, rounds=40, privacy=omniglot.OWNER),
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One federation to run; `data` is the folder with what is computed once for all."""

    task: str
    setting: str | int  # FP32, DEFAULT or a budget in bytes
    fold: int
    rounds: int
    data: Path


@dataclass(frozen=True, kw_only=True)
class Fold:
    """Who takes part, and samples of those who do not."""

    model: bytes
    devices: list[Examples]
    test: Examples


@dataclass(frozen=True, kw_only=True)
class Found:
    """Accuracy at the end, and what one device sent and fetched in a round on average."""

    accuracy: float
    bytes_up: float
    bytes_down: float


def run(case: Case) -> Found:
    task, fold = TASKS[case.task], load(case.task, case.fold, case.data)
    if case.setting == FP32:
        return _fp32(fold, task.plan, case.rounds)
    plan = task.plan
    if isinstance(case.setting, int):
        codec = Codec(mode=CodecMode.FITTED, density=1.0)
        plan = replace(plan, codec=codec, max_update_bytes=case.setting)
    people_above = above_the_floor(fold.devices, task.privacy)
    federation = LinearFederation.of(fold.model, plan, people_above, privacy=task.privacy)
    sizes: list[int] = []
    post = Post("lab")
    federation.run(case.rounds, lambda body: sizes.append(post.wire_bytes(body)))
    return Found(
        accuracy=accuracy_of(federation.head, fold.test),
        bytes_up=statistics.mean(sizes),
        bytes_down=statistics.mean(map(len, federation.versions)),
    )


def _fp32(fold: Fold, plan: Plan, rounds: int) -> Found:
    model = runtime.load(fold.model)
    head, size = model.get_weights(), 4 * parameters(model.tensors)
    for number in range(rounds):
        head = fedavg_all(head, fold.devices, plan, number)
    sent = Post("lab").wire_bytes(bytes(size))
    return Found(accuracy=accuracy_of(head, fold.test), bytes_up=sent, bytes_down=size)


@lru_cache(maxsize=1)
def load(task: str, fold: int, data: Path) -> Fold:
    """Return who is who, from the reference data or from what `prepare` made of it."""
    if task == "omniglot":
        with np.load(data / "letters.npz") as found:
            x, y, drawer = found["x"], found["y"], found["drawer"]
        drawings = omniglot.Drawings(x=x, letter=y, drawer=drawer)
        seen, unseen = list(drawings.folds())[fold]
        model = (data / "letters.tflite").read_bytes()
        devices = [Examples(x=x[drawer == one], y=y[drawer == one]) for one in seen]
        rows = drawings.of(unseen)
        return Fold(model=model, devices=devices, test=Examples(x=x[rows], y=y[rows]))
    path = people.data_path()
    assert path is not None
    recordings = people.Recordings.load(path)
    seen, unseen = list(recordings.folds())[fold]
    scaled = recordings.scaled(np.isin(recordings.person, seen))
    return Fold(
        model=write_head(people.FEATURES, people.CLASSES),
        devices=[scaled.examples(scaled.person == one) for one in seen],
        test=scaled.examples(np.isin(scaled.person, unseen)),
    )


def prepare(data: Path) -> None:
    """Run the letters through the backbone, once: only its features are needed then."""
    drawings, parent = omniglot.Drawings.load(), omniglot.backbone()
    assert drawings is not None
    assert parent is not None
    attached, _ = attach_proved(parent, omniglot.HEAD)
    model = runtime.load(attached.data)
    np.savez(data / "letters.npz", x=model.extract(drawings.x), y=drawings.letter, drawer=drawings.drawer)
    head = write_head(model.features, omniglot.LETTERS, options=omniglot.HEAD.options)
    (data / "letters.tflite").write_bytes(head)


def measure(folds: int = FOLDS, longest: int = 40) -> dict[str, Any] | None:
    """Run the first `folds` folds; None without the reference data."""
    if people.data_path() is None or omniglot.Drawings.load() is None or omniglot.backbone() is None:
        return None
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as path:
        prepare(Path(path))
        cases = [
            Case(task=name, setting=setting, fold=fold, rounds=min(task.rounds, longest), data=Path(path))
            for name, task in TASKS.items()
            for fold in range(folds)
            for setting in (FP32, DEFAULT, *BUDGETS)
            if not (isinstance(setting, int) and setting > ENOUGH.get(name, setting))
        ]
        found = dict(zip(cases, together(run, cases), strict=True))
    return {
        "folds": folds,
        **{name: _digest({case: one for case, one in found.items() if case.task == name}) for name in TASKS},
        "seconds": round(time.monotonic() - started, 1),
    }


def _digest(found: dict[Case, Found]) -> dict[str, Any]:
    settings: dict[str, list[Found]] = {}
    for case, one in found.items():
        name = f"{case.setting:,} B" if isinstance(case.setting, int) else str(case.setting)
        settings.setdefault(name, []).append(one)
    plain = settings[FP32]
    return {
        "rounds": next(iter(found)).rounds,
        "settings": {
            name: {
                "accuracy": spread([one.accuracy for one in ones]),
                "points_below_fp32": round(
                    100 * statistics.mean(b.accuracy - a.accuracy for a, b in zip(ones, plain, strict=True)),
                    2,
                ),
                "bytes_per_round": round(statistics.mean(one.bytes_up for one in ones)),
                "bytes_down_per_round": round(statistics.mean(one.bytes_down for one in ones)),
            }
            for name, ones in settings.items()
        },
    }
