"""Federated activity recognition: does the codec cost accuracy on people that no device has seen?

WISDM v1.1 (Kwapisz, Weiss, Moore 2010): 5418 windows of 43 features, 6 activities, 36 people with very
different habits.  Each person is a device; the folds split people, not windows; features are scaled by
mean and deviation of the training people.  Everything but the network is the real thing: the TFLite
head and its training loop, the privacy floor, error feedback and packing, decoding and aggregation.
Beside it the same federation without codec and floor: plain FedAvg, fp32, weighted by samples.

    tools/bench/run --only wisdm

The hyper-parameters are the ones below, for all folds.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedclient import codec, runtime
from fedclient.config import GatewaySettings, PrivacySettings
from fedclient.crypto.keys import SealingKey, SigningKey
from fedclient.gateway.aggregate import RunningSum, inspect, sample_weight
from fedclient.model.head import write_head
from fedclient.runtime import TrainableModel
from fedclient.trainer.pack import pack
from fedclient.training.loop import Examples, HeadTraining, accuracy
from fedclient.transport.base import publish_wire_bytes
from fedclient.uplink import DeviceUplink
from fedclient.values import Base, BlobRef, HeadVersion, Manifest, MessageType, Plan, Update, parameters
from fedclient.wire.topics import Topics

SHARED = Path(os.environ.get("FEDCLIENT_SHARED", Path(__file__).parents[3] / "shared"))
FOLDS, ROUNDS = 5, 40
PLAN = Plan()  # as it comes: 1 epoch, batches of 16, learning rate 0.1, int8 at 1 %
_NOTHING = BlobRef(hash=b"", size=0)
_FP32 = 4


@dataclass
class Person:
    """One device."""

    examples: Examples
    residual: NDArray[np.float32]


@dataclass(kw_only=True)
class Fold:
    """What one split of the people came to."""

    accuracy: float
    fp32_accuracy: float
    devices: int
    left_out: int  # below the privacy floor
    update_bytes: list[int] = field(default_factory=list)  # encoded
    wire_bytes: list[int] = field(default_factory=list)  # signed, sealed, with the MQTT header


def measure(folds: int = FOLDS, rounds: int = ROUNDS) -> dict[str, Any] | None:
    """Run the first `folds` folds; None without the data."""
    path = SHARED / "data" / "wisdm" / "har.npz"
    if not path.exists():
        return None
    started = time.monotonic()
    found = [_fold(*split, rounds) for split in list(_splits(path))[:folds]]
    sizes = [size for fold in found for size in fold.update_bytes]
    wire = [size for fold in found for size in fold.wire_bytes]
    model = runtime.load(write_head(43, 6))
    fp32 = _FP32 * parameters(model.tensors)
    return {
        "accuracy": _mean([fold.accuracy for fold in found]),
        "fp32_fedavg_accuracy": _mean([fold.fp32_accuracy for fold in found]),
        "folds": [
            {
                "accuracy": round(fold.accuracy, 4),
                "fp32_fedavg_accuracy": round(fold.fp32_accuracy, 4),
                "devices": fold.devices,
                "below_the_privacy_floor": fold.left_out,
            }
            for fold in found
        ],
        "rounds": rounds,
        "parameters": parameters(model.tensors),
        "plan": {
            "epochs": PLAN.epochs,
            "batch_size": PLAN.batch_size,
            "learning_rate": PLAN.learning_rate,
            "codec": PLAN.codec.mode.name.lower(),
            "density": PLAN.codec.density,
            "norm_bound": PLAN.norm_bound,
        },
        "encoded_bytes_per_device_and_round": round(statistics.mean(sizes), 1),
        "bytes_up_per_device_and_round": round(statistics.mean(wire), 1),
        "bytes_up_total": sum(wire),
        "fp32_bytes_up_per_device_and_round": fp32,
        "fp32_bytes_up_total": fp32 * rounds * sum(fold.devices + fold.left_out for fold in found),
        "seconds": round(time.monotonic() - started, 1),
    }


def _mean(values: list[float]) -> dict[str, float]:
    return {"mean": round(statistics.mean(values), 4), "deviation": round(statistics.pstdev(values), 4)}


def _splits(path: Path) -> Iterator[tuple[list[Examples], Examples]]:
    """Yield (the training people, everything of the people held out)."""
    with np.load(path, allow_pickle=False) as data:
        x, y, client = data["x"], data["y"].astype(np.int32), data["client"]
    people = np.random.Generator(np.random.PCG64(0)).permutation(np.unique(client))
    for held_out in np.array_split(people, FOLDS):
        held = np.isin(client, held_out)
        mean, deviation = x[~held].mean(axis=0), x[~held].std(axis=0)
        scaled = ((x - mean) / np.where(deviation > 0, deviation, 1)).astype(np.float32)
        train = [
            Examples(x=scaled[client == one], y=y[client == one]) for one in people if one not in held_out
        ]
        yield train, Examples(x=scaled[held], y=y[held])


def _fold(train: list[Examples], test: Examples, rounds: int) -> Fold:
    model = runtime.load(write_head(43, 6))
    start = model.get_weights()
    floor = PrivacySettings()
    people = [
        Person(examples=one, residual=np.zeros_like(start))
        for one in train
        if len(np.unique(one.x, axis=0)) >= floor.min_samples
    ]
    fold = Fold(accuracy=0.0, fp32_accuracy=0.0, devices=len(people), left_out=len(train) - len(people))
    manifest = Manifest(
        head_version=HeadVersion(1, 1),
        model=_NOTHING,
        head=_NOTHING,
        tensors=model.tensors,
        labels=(),
        plan=PLAN,
        plan_hash=b"",
    )
    head, plain, post = start, start, _Post()
    for number in range(rounds):
        total = RunningSum(manifest)
        for index, person in enumerate(people):
            body = _update(model, head, person, number * len(train) + index)
            fold.update_bytes.append(len(body))
            fold.wire_bytes.append(post.wire_bytes(body))
            decoded = inspect(body, manifest)
            assert isinstance(decoded, codec.Decoded), decoded
            bucket = len(person.examples).bit_length() - 1
            total.add(decoded, sample_weight(bucket, GatewaySettings().max_weight_bucket))
        head = total.finish(head, GatewaySettings().server_learning_rate)
        plain = _fedavg(model, plain, train, number)
    fold.accuracy = _accuracy(model, head, test)
    fold.fp32_accuracy = _accuracy(model, plain, test)
    return fold


class _Post:
    """Signs and seals, to know what travels."""

    def __init__(self) -> None:
        key = SigningKey.generate()
        self._topic = Topics("wisdm").up(key.device_id, MessageType.UPDATE)
        self._uplink = DeviceUplink(
            federation="wisdm", key=key, gateway_sealing_key=SealingKey.generate().public
        )

    def wire_bytes(self, body: bytes) -> int:
        """Size of the PUBLISH that carries `body`."""
        version = HeadVersion(1, 1)
        update = Update(counter=40, head_version=version, bucket=7, accuracy_percent=70, body=body)
        base = Base(head_version=version, head_hash=bytes(32), plan_hash=bytes(32))
        return publish_wire_bytes(self._topic, len(self._uplink.update(update, base)), qos=1)


def _trained(model: TrainableModel, head: NDArray[np.float32], examples: Examples, seed: int) -> HeadTraining:
    model.set_weights(head)
    training = HeadTraining(model=model, examples=examples, plan=PLAN, seed=seed)
    training.run(lambda: False, lambda _: None)
    return training


def _update(model: TrainableModel, head: NDArray[np.float32], person: Person, seed: int) -> bytes:
    training = _trained(model, head, person.examples, seed)
    packed = pack(training, head, person.residual, PrivacySettings().min_per_class)
    person.residual = packed.residual
    return packed.body


def _fedavg(
    model: TrainableModel, head: NDArray[np.float32], train: list[Examples], number: int
) -> NDArray[np.float32]:
    """Average the trained heads of everybody, weighted by samples: McMahan et al. 2017."""
    total, weight = np.zeros(len(head)), 0
    for index, examples in enumerate(train):
        _trained(model, head, examples, number * len(train) + index)
        total += len(examples) * model.get_weights().astype(np.float64)
        weight += len(examples)
    mean: NDArray[np.float32] = (total / weight).astype(np.float32)
    return mean


def _accuracy(model: TrainableModel, head: NDArray[np.float32], test: Examples) -> float:
    model.set_weights(head)
    return accuracy(model, test)
