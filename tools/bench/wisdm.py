"""Federated activity recognition: does the codec cost accuracy on people that no device has seen?

Each person of WISDM is a device (`people.py`); features are scaled by mean and deviation of the training
people.  Everything but the network is the real thing: the TFLite head and its training loop, the
privacy floor, error feedback and packing, decoding and aggregation.  Beside it the same federation
without codec and floor: plain FedAvg, fp32, weighted by samples.

    tools/bench/run --only wisdm

The hyper-parameters are the ones below, for all folds.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from federation import Federation, Post, above_the_floor, accuracy_of, fedavg, mean_of
from people import CLASSES, FEATURES, FOLDS, Recordings, data_path

from fedclient import runtime
from fedclient.model.head import write_head
from fedclient.values import Plan, parameters

ROUNDS = 40
PLAN = Plan()  # as it comes: 1 epoch, batches of 16, learning rate 0.1, int8 at 1 %
_FP32 = 4


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
    path = data_path()
    if path is None:
        return None
    started, recordings = time.monotonic(), Recordings.load(path)
    found = [_fold(recordings, *split, rounds) for split in list(recordings.folds())[:folds]]
    sizes = [size for fold in found for size in fold.update_bytes]
    wire = [size for fold in found for size in fold.wire_bytes]
    model = runtime.load(write_head(FEATURES, CLASSES))
    fp32 = _FP32 * parameters(model.tensors)
    return {
        "accuracy": mean_of([fold.accuracy for fold in found]),
        "fp32_fedavg_accuracy": mean_of([fold.fp32_accuracy for fold in found]),
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


def _fold(recordings: Recordings, seen: list[int], unseen: list[int], rounds: int) -> Fold:
    everybody = np.isin(recordings.person, seen)
    scaled = recordings.scaled(everybody)
    examples = [scaled.examples(scaled.person == one) for one in seen]
    test = scaled.examples(np.isin(scaled.person, unseen))
    people = above_the_floor(examples)
    fold = Fold(accuracy=0.0, fp32_accuracy=0.0, devices=len(people), left_out=len(examples) - len(people))
    federation = Federation.of(write_head(FEATURES, CLASSES), PLAN, people, stride=len(examples))
    plain, post = federation.head, Post("wisdm")

    def on_body(body: bytes) -> None:
        fold.update_bytes.append(len(body))
        fold.wire_bytes.append(post.wire_bytes(body))

    for number in range(rounds):
        federation.run(1, on_body)
        plain = fedavg(federation.model, plain, examples, PLAN, number)
    fold.accuracy = accuracy_of(federation.model, federation.head, test)
    fold.fp32_accuracy = accuracy_of(federation.model, plain, test)
    return fold
