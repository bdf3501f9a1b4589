"""Kilobytes that ten devices send until a head is right on 95 % of held-out digits, and where it ends.

Plain FedAvg in fp32 and federations with the codec, side by side: same data, plan and number of rounds.
Bytes are those of a device's MQTT PUBLISH packets: header, topic, envelope, signature, seal and body; of
fp32, four bytes a parameter in the same envelope.  Training is NumPy's (`linear.py`); all else is the real
thing, the privacy floor with its defaults too; fp32 has no floor.

    tools/bench/run --only bytes
    tools/bench/run --only tuning      # other learning rates, epochs and batches

`PLANS` has three learning rates: `quick` is the one with the fewest rounds for fp32, `usual` is the
default of a plan, and `slow` makes fp32 take the 3 to 5 MB that a badly chosen plan costs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, product
from typing import Any, Final

from digits import DEVICES, HEADS, SPLITS, Task, task
from federation import Post, above_the_floor
from linear import LinearFederation, accuracy_of, fedavg_all
from parallel import spread, together

from fedclient import runtime
from fedclient.config import PrivacySettings
from fedclient.testing.digits import CLASSES
from fedclient.values import Codec, CodecMode, Plan, parameters

REACHED: Final = 0.95
LAST: Final = 5
NOT_SLOW: Final = 1.5  # times the rounds of fp32
FEW: Final = 50  # times fewer bytes than fp32
SEEDS: Final = 3
TUNING_SEEDS: Final = (100,)
TUNED_RATES: Final = (0.05, 0.2, 1.0, 2.0)
PLANS: Final = {
    name: Plan(learning_rate=rate, norm_bound=100.0, momentum=0.0)  # the bound is never reached
    for name, rate in (("quick", 1.0), ("usual", 0.1), ("slow", 0.02))
}
ROUNDS: Final = {"quick": 20, "usual": 50, "slow": 100}
FP32: Final = "fp32 FedAvg"
SETTINGS: Final[dict[str, dict[str, Any]]] = {
    "sign 1 %": {"codec": Codec(mode=CodecMode.TOPK_SIGN, density=0.01)},
    "sign 5 %": {"codec": Codec(mode=CodecMode.TOPK_SIGN, density=0.05)},
    "8 bit 1 %": {"codec": Codec(density=0.01)},
    "8 bit 5 %": {"codec": Codec(density=0.05)},
    "dense int8": {"codec": Codec(mode=CodecMode.DENSE_INT8)},
    "300 B": {"codec": Codec(mode=CodecMode.FITTED, density=1.0), "max_update_bytes": 300},
    "1,000 B": {"codec": Codec(mode=CodecMode.FITTED, density=1.0), "max_update_bytes": 1000},
    "3,000 B": {"codec": Codec(mode=CodecMode.FITTED, density=1.0), "max_update_bytes": 3000},
}
_FAST: Final = ("sign 1 %", "sign 5 %", "8 bit 1 %")
_USUAL: Final = (*_FAST, "300 B", "1,000 B", "dense int8")
_QUICK: Final = (*_FAST, "1,000 B", "3,000 B", "dense int8")
NO_FLOOR: Final = ", no floor"
TABLES: Final = {  # (head, split, plan): settings
    ("features", "iid", "usual"): _USUAL,
    ("features", "iid", "quick"): _QUICK,
    ("features", "two_classes", "usual"): (*_USUAL, f"1,000 B{NO_FLOOR}"),
    ("features", "two_classes", "quick"): (*_QUICK, f"1,000 B{NO_FLOOR}"),
    **{("features", split, "slow"): ("sign 1 %",) for split in SPLITS[:2]},
    ("features", "dirichlet", "usual"): _FAST,
    **{("pixels", split, "usual"): ("8 bit 5 %",) for split in SPLITS[:2]},
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One federation to run."""

    head: str
    split: str
    plan: Plan
    setting: str  # of SETTINGS, or FP32
    seed: int
    rounds: int
    until_reached: bool = False  # and no further


@dataclass(frozen=True, kw_only=True)
class Course:
    """What came of it, round by round."""

    accuracy: list[float]
    bytes_up: list[float]  # of a device, on average
    bytes_down: list[int]  # of the head's change, or of the head

    def goes_on(self, case: Case) -> bool:
        return len(self.accuracy) < case.rounds and not (case.until_reached and self.rounds)

    @property
    def rounds(self) -> int | None:
        """How many it took until REACHED."""
        return next((number for number, one in enumerate(self.accuracy, 1) if one >= REACHED), None)

    @property
    def final(self) -> float:
        """Accuracy at the end, of the last rounds on average: a held-out sample is 0.28 points."""
        return statistics.mean(self.accuracy[-LAST:])

    @property
    def kilobytes(self) -> float | None:
        """What a device had sent by then."""
        return None if self.rounds is None else sum(self.bytes_up[: self.rounds]) / 1000


def run(case: Case) -> Course:
    digits = task(case.head, case.split, case.seed)
    if case.setting == FP32:
        return _fp32(digits, case)
    plan = replace(case.plan, **SETTINGS[case.setting.removesuffix(NO_FLOOR)])
    federation = LinearFederation.of(digits.model, plan, above_the_floor(digits.devices))
    if case.setting.endswith(NO_FLOOR):  # which no owner can choose: 1 of each class is the least
        federation.privacy = PrivacySettings(min_per_class=0)
    post, course = Post("lab"), Course(accuracy=[], bytes_up=[], bytes_down=[])
    while course.goes_on(case):
        sizes: list[int] = []
        federation.run(1, lambda body, sizes=sizes: sizes.append(post.wire_bytes(body)))
        course.accuracy.append(accuracy_of(federation.head, digits.holdout))
        course.bytes_up.append(statistics.mean(sizes))
        course.bytes_down.append(len(federation.versions[-1]))
    return course


def _fp32(digits: Task, case: Case) -> Course:
    model = runtime.load(digits.model)
    head, size = model.get_weights(), 4 * parameters(model.tensors)
    course, sent = Course(accuracy=[], bytes_up=[], bytes_down=[]), Post("lab").wire_bytes(bytes(size))
    while course.goes_on(case):
        head = fedavg_all(head, digits.devices, case.plan, len(course.accuracy))
        course.accuracy.append(accuracy_of(head, digits.holdout))
        course.bytes_up.append(sent)
        course.bytes_down.append(size)
    return course


def measure(seeds: int = SEEDS, longest: int = 100) -> dict[str, Any]:
    """Run every setting under every plan; `longest` bounds the rounds."""
    started = time.monotonic()
    cases = {
        (head, split, plan, setting, seed): Case(
            head=head,
            split=split,
            plan=PLANS[plan],
            setting=setting,
            seed=seed,
            rounds=min(ROUNDS[plan], longest),
        )
        for (head, split, plan), settings in TABLES.items()
        for setting in (FP32, *settings)
        for seed in range(seeds)
    }
    courses = dict(zip(cases, together(run, list(cases.values())), strict=True))
    found: dict[str, Any] = {}
    for (head, split, plan), settings in TABLES.items():
        found.setdefault(head, {}).setdefault(split, {})[plan] = _digest(
            {
                setting: [courses[head, split, plan, setting, seed] for seed in range(seeds)]
                for setting in (FP32, *settings)
            }
        )
    return {
        "devices": DEVICES,
        "seeds": seeds,
        "rounds": {plan: min(rounds, longest) for plan, rounds in ROUNDS.items()},
        "learning_rates": {name: plan.learning_rate for name, plan in PLANS.items()},
        "parameters": {head: (width + 1) * CLASSES for head, width in HEADS.items()},
        **found,
        "best": {split: best(plans, floor=True) for split, plans in found["features"].items()},
        "best_without_floor": {split: best(plans, floor=False) for split, plans in found["features"].items()},
        "seconds": round(time.monotonic() - started, 1),
    }


def best(plans: dict[str, Any], *, floor: bool) -> dict[str, Any]:
    """Name for each plan the setting of the fewest kilobytes, and the one of few bytes that ends best."""
    found: dict[str, Any] = {}
    for plan, table in plans.items():
        real = {
            name: one for name, one in table.items() if name != FP32 and name.endswith(NO_FLOOR) is not floor
        }
        if real and table[FP32]["rounds_until_95"]:
            found[plan] = {"until_95": _soonest(real, table[FP32]), "final": _nearest(real)}
    return found


def _soonest(table: dict[str, Any], fp32: dict[str, Any]) -> dict[str, Any]:
    """Where none is as soon as it should be, all that reach it count; where none does, all their rounds."""
    reached = {name: one for name, one in table.items() if one["rounds_over_fp32"]}
    soon = {name: one for name, one in reached.items() if one["rounds_over_fp32"] <= NOT_SLOW}
    for some in filter(None, (soon, reached)):
        name = min(some, key=lambda one, some=some: some[one]["kilobytes_until_95"]["mean"])
        kilobytes, over = some[name]["kilobytes_until_95"]["mean"], some[name]["rounds_over_fp32"]
        return {"setting": name, "kilobytes": kilobytes, "rounds_over_fp32": over}
    name = min(table, key=lambda one: table[one]["points_below_fp32"])
    sent = table[name]["course"]["kilobytes"]
    over = round(len(sent) / fp32["rounds_until_95"]["mean"], 2)
    return {"setting": f"{name}, not reached", "kilobytes": sent[-1], "rounds_over_fp32": over}


def _nearest(table: dict[str, Any]) -> dict[str, Any]:
    small = {name: one for name, one in table.items() if one["times_fewer_bytes"] >= FEW}
    name = min(small, key=lambda one: small[one]["points_below_fp32"])
    return {"setting": name, **{key: small[name][key] for key in ("points_below_fp32", "times_fewer_bytes")}}


def _digest(table: dict[str, list[Course]]) -> dict[str, Any]:
    """Return what the courses of each setting came to, beside those of fp32."""
    fp32 = table[FP32]
    return {
        setting: {
            "reached": sum(one.rounds is not None for one in courses),
            "rounds_until_95": _if_all([one.rounds for one in courses]),
            "rounds_over_fp32": _over([one.rounds for one in courses], [one.rounds for one in fp32]),
            "kilobytes_until_95": _if_all([one.kilobytes for one in courses]),
            "bytes_per_round": round(_mean(one.bytes_up for one in courses)),
            "bytes_down_per_round": round(_mean(one.bytes_down for one in courses)),
            "times_fewer_bytes": round(
                _mean(one.bytes_up for one in fp32) / _mean(one.bytes_up for one in courses), 1
            ),
            "final_accuracy": spread([one.final for one in courses]),
            "points_below_fp32": round(
                100 * statistics.mean(b.final - a.final for a, b in zip(courses, fp32, strict=True)), 2
            ),
            "course": _course(courses),
        }
        for setting, courses in table.items()
    }


def _course(courses: list[Course]) -> dict[str, list[float]]:
    """Return the mean of the seeds, round by round."""
    sent = [list(accumulate(one.bytes_up)) for one in courses]
    return {
        "kilobytes": [round(statistics.mean(one) / 1000, 3) for one in zip(*sent, strict=True)],
        "accuracy_percent": [
            round(100 * statistics.mean(one), 1)
            for one in zip(*(one.accuracy for one in courses), strict=True)
        ],
    }


def _over(rounds: list[int | None], others: list[int | None]) -> float | None:
    """Return the ratio of the means."""
    if None in rounds or None in others:
        return None
    return round(sum(filter(None, rounds)) / sum(filter(None, others)), 2)


def _if_all(values: list[Any]) -> dict[str, float] | None:
    return None if None in values else spread(values)


def _mean(series: Iterable[Sequence[float]]) -> float:
    return statistics.mean(value for one in series for value in one)


def tune() -> dict[str, Any]:
    """Try plans on splits that `measure` does not use: rounds and kilobytes until REACHED."""
    cases = [
        Case(
            head="features",
            split=split,
            plan=Plan(epochs=epochs, batch_size=batch, learning_rate=rate, norm_bound=100.0, momentum=0.0),
            setting=setting,
            seed=seed,
            rounds=40,
            until_reached=True,
        )
        for split, rate, epochs, batch, setting, seed in product(
            SPLITS[:2], TUNED_RATES, (1, 5), (16, 64), (FP32, *_FAST), TUNING_SEEDS
        )
    ]
    found: dict[tuple[Any, ...], list[Course]] = {}
    for case, course in zip(cases, together(run, cases), strict=True):
        plan = case.plan
        key = (case.split, case.setting, plan.learning_rate, plan.epochs, plan.batch_size)
        found.setdefault(key, []).append(course)
    tried = [
        {
            **dict(zip(("split", "setting", "learning_rate", "epochs", "batch_size"), key, strict=True)),
            "rounds": _if_all([one.rounds for one in courses]),
            "kilobytes": _if_all([one.kilobytes for one in courses]),
        }
        for key, courses in found.items()
    ]
    return {"seeds": TUNING_SEEDS, "tried": tried}
