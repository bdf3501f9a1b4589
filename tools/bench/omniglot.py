"""Letters by hand on a frozen MobileNet: does a federation with the codec learn what one computer would?

Omniglot's Latin alphabet (Lake, Salakhutdinov, Tenenbaum 2015): 26 letters, 20 drawers, one image per
letter and drawer, scaled to 96 x 96 RGB in 0..1.  The model is the embedder in ../shared with a head of 26
classes, attached and proved by `attach.py` as `fedclient model attach-head` does.  Each drawer is a device;
the folds split drawers.  As in `wisdm.py`, everything but the network is the real thing.

The default privacy floor would keep every drawer out (32 samples, 8 of each class): here its owner lowers it
to `OWNER`, which lets the row of a letter tell nearly all about the one image of it, and keeps none of the 26
images from training to judge heads on (`ADOPTION`).

Beside it, on the same folds: plain FedAvg in fp32 without codec, and logistic regression on all
training drawers' features in one place.

The hyper-parameters are `PLAN` and `ROUNDS`, for all folds.  They were chosen by the mean over 4 folds
within the training drawers of each fold, so never by the drawers that the figures are of.

    tools/bench/run --only omniglot                       # 5 folds
    tools/bench/run --only omniglot --omniglot-fleet 5    # and 5 rounds of real processes on a real broker
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from federation import Federation, Post, above_the_floor, accuracy_of, fedavg, mean_of
from numpy.typing import NDArray
from people import FOLDS, SHARED
from rig import start_broker

from fedclient import runtime
from fedclient.config import AdoptionSettings, GatewaySettings, PrivacySettings
from fedclient.model.attach import NewHead
from fedclient.model.attach_check import attach_proved
from fedclient.model.head import HeadOptions, Optimizer
from fedclient.testing.fleet import Fleet
from fedclient.training.loop import Examples
from fedclient.values import Broker, Plan, parameters

SIDE, LETTERS = 96, 26
ROUNDS = 60
PLAN = Plan(
    epochs=5, learning_rate=0.01, momentum=0.9, l2=0.03
)  # else as it comes: batches of 16, int8 at 1 %
OWNER = PrivacySettings(min_samples=LETTERS, min_per_class=1)
ADOPTION = AdoptionSettings(holdout=0.0)
HEAD = NewHead(classes=LETTERS, options=HeadOptions(optimizer=Optimizer.MOMENTUM))
L2, STEPS = 0.01, 300  # of the logistic regression
_FP32 = 4
_FLEET_ROUND_S = 120.0


@dataclass(frozen=True, kw_only=True)
class Drawings:
    """All images float32 [N, 96, 96, 3], which letter each is, and who drew it."""

    x: NDArray[np.float32]
    letter: NDArray[np.int32]
    drawer: NDArray[np.int64]

    @classmethod
    def load(cls) -> Drawings | None:
        """Return them scaled, or None without the reference data."""
        path = SHARED / "data" / "omniglot_latin" / "latin.npz"
        if not path.exists():
            return None
        with np.load(path, allow_pickle=False) as data:
            ink = scaled(data["x"].astype(np.float32))
            return cls(
                x=np.repeat(ink[..., None], 3, axis=3),
                letter=data["y"].astype(np.int32),
                drawer=data["client"].astype(np.int64),
            )

    def folds(self) -> Iterator[tuple[list[int], list[int]]]:
        """Yield (drawers who take part, drawers held out)."""
        drawers = np.random.Generator(np.random.PCG64(0)).permutation(np.unique(self.drawer))
        for held_out in np.array_split(drawers, FOLDS):
            yield [int(one) for one in drawers if one not in held_out], [int(one) for one in held_out]

    def of(self, drawers: list[int]) -> NDArray[np.bool_]:
        """Mark the images of these drawers."""
        return np.isin(self.drawer, drawers)


def scaled(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return square images [N, S, S] as [N, 96, 96], each pixel the mean of the area it covers."""
    size = images.shape[1]
    edges = np.arange(SIDE + 1) * size / SIDE
    cover = np.minimum(edges[1:, None], np.arange(1, size + 1)) - np.maximum(
        edges[:-1, None], np.arange(size)
    )
    weights = (np.maximum(cover, 0) * SIDE / size).astype(np.float32)
    return weights @ images @ weights.T


def backbone() -> bytes | None:
    """Return the embedder, or None without the reference data."""
    path = SHARED / "models" / "mobilenet_v2_035_96_embedder_with_metadata.tflite"
    return path.read_bytes() if path.exists() else None


def measure(
    folds: int = FOLDS, rounds: int = ROUNDS, fleet_rounds: int = 0, broker_kind: str = "mosquitto"
) -> dict[str, Any] | None:
    """Run the first `folds` folds; with `fleet_rounds`, the first one with real processes as well."""
    drawings, parent = Drawings.load(), backbone()
    if drawings is None or parent is None:
        return None
    started = time.monotonic()
    attached, _ = attach_proved(parent, HEAD)
    file = attached.data
    model = runtime.load(file)
    letters = Examples(x=model.extract(drawings.x), y=drawings.letter)
    found = [_fold(file, letters, drawings, fold, rounds) for fold in list(drawings.folds())[:folds]]
    bodies = [size for fold in found for size in fold["update_bytes"]]
    wire = [size for fold in found for size in fold["wire_bytes"]]
    fp32 = _FP32 * parameters(model.tensors)
    return {
        **{
            name: mean_of([fold[name] for fold in found])
            for name in ("accuracy", "fp32_fedavg_accuracy", "centralised_accuracy")
        },
        "folds": [{name: value for name, value in fold.items() if "bytes" not in name} for fold in found],
        "rounds": rounds,
        "parameters": parameters(model.tensors),
        "plan": {
            "epochs": PLAN.epochs,
            "batch_size": PLAN.batch_size,
            "learning_rate": PLAN.learning_rate,
            "momentum": PLAN.momentum,
            "l2": PLAN.l2,
            "codec": PLAN.codec.mode.name.lower(),
            "density": PLAN.codec.density,
            "norm_bound": PLAN.norm_bound,
        },
        "privacy_floor": {
            "min_samples": OWNER.min_samples,
            "min_per_class": OWNER.min_per_class,
            "adoption_holdout": ADOPTION.holdout,
            "note": "lowered by the owner's setting: a drawer has one image per letter",
        },
        "encoded_bytes_per_device_and_round": round(statistics.mean(bodies), 1),
        "bytes_up_per_device_and_round": round(statistics.mean(wire), 1),
        "bytes_up_total": sum(wire),
        "fp32_bytes_up_per_device_and_round": fp32,
        "fp32_bytes_up_total": fp32 * len(wire),
        "seconds": round(time.monotonic() - started, 1),
        **({"fleet": with_processes(file, drawings, fleet_rounds, broker_kind)} if fleet_rounds else {}),
    }


def _fold(
    file: bytes, letters: Examples, drawings: Drawings, fold: tuple[list[int], list[int]], rounds: int
) -> dict[str, Any]:
    def examples(drawers: list[int]) -> Examples:
        rows = drawings.of(drawers)
        return Examples(x=letters.x[rows], y=letters.y[rows])

    taking_part, held_out = fold
    test, devices = examples(held_out), [examples([one]) for one in taking_part]
    people = above_the_floor(devices, OWNER)
    federation = Federation.of(file, PLAN, people, privacy=OWNER)
    post, model, plain = Post("omniglot"), federation.model, federation.head
    bodies: list[bytes] = []
    for number in range(rounds):
        federation.run(1, bodies.append)
        plain = fedavg(model, plain, devices, PLAN, number)
    return {
        "accuracy": round(accuracy_of(model, federation.head, test), 4),
        "fp32_fedavg_accuracy": round(accuracy_of(model, plain, test), 4),
        "centralised_accuracy": _centralised(examples(taking_part), test),
        "devices": len(people),
        "update_bytes": [len(body) for body in bodies],
        "wire_bytes": [post.wire_bytes(body) for body in bodies],
    }


def _centralised(train: Examples, test: Examples) -> float:
    """Fit softmax(W [x, 1]) with L2 by Nesterov's gradient descent, float64: convex, so the optimum."""
    x = np.c_[train.x, np.ones(len(train))].astype(np.float64)
    truth = np.eye(LETTERS)[train.y]
    rate = 1 / (0.5 * np.linalg.norm(x, 2) ** 2 / len(x) + L2)
    weights = ahead = np.zeros((LETTERS, x.shape[1]))
    for step in range(STEPS):
        scores = x @ ahead.T
        odds = np.exp(scores - scores.max(axis=1, keepdims=True))
        slope = (odds / odds.sum(axis=1, keepdims=True) - truth).T @ x / len(x) + L2 * ahead
        weights, before = ahead - rate * slope, weights
        ahead = weights + step / (step + 3) * (weights - before)
    right = np.argmax(np.c_[test.x, np.ones(len(test))] @ weights.T, axis=1) == test.y
    return round(float(right.mean()), 4)


def with_processes(file: bytes, drawings: Drawings, rounds: int, broker_kind: str) -> dict[str, Any]:
    """Run the first fold as processes: agents, their trainers and a gateway, on a broker."""
    taking_part, held_out = next(drawings.folds())
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as path:
        holdout = Path(path) / "held_out.npz"
        rows = drawings.of(held_out)
        np.savez(holdout, x=drawings.x[rows], y=drawings.letter[rows])
        broker = start_broker(broker_kind, None)
        try:
            address = Broker(host="127.0.0.1", port=broker.port)
            size = len(taking_part)
            settings = GatewaySettings(cohort=size, min_devices=size, holdout=holdout)
            with Fleet(Path(path) / "fleet", address, settings, privacy=OWNER, adoption=ADOPTION) as fleet:
                fleet.publish(file, PLAN)
                for drawer in taking_part:
                    mine = drawings.of([drawer])
                    fleet.add_device(drawings.x[mine], drawings.letter[mine].tolist())
                fleet.start()
                fleet.wait_until(
                    lambda: len(fleet.rounds()) >= rounds, _FLEET_ROUND_S * rounds, f"{rounds} rounds"
                )
                made = fleet.rounds()[:rounds]
        finally:
            broker.kill()
    return {
        "broker": type(broker).__name__.lower(),
        "devices": size,
        "updates_counted": sum(one.counted for one in made),
        "accuracy_by_round": [one.accuracy for one in made],
        "bytes_up": sum(one.bytes_up for one in made),
        "seconds": round(time.monotonic() - started, 1),
    }
