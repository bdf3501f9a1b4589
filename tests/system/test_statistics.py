"""Features of very different scales: standardised by statistics that no one place ever saw the samples of.

A federation in one process, real agents and trainers: the first version collects the statistics, those after
it train.  Beside it the same training, simulated, on features that were scaled centrally, and on raw ones.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np

from fedclient import runtime
from fedclient.config import GatewaySettings
from fedclient.gateway.desk import manifest_of
from fedclient.gateway.server import open_desk
from fedclient.model.head import HeadOptions, write_head
from fedclient.samples.store import SampleStore
from fedclient.testing.inprocess import Federation
from fedclient.training.loop import Examples, HeadTraining, accuracy
from fedclient.values import MEAN, MEAN_SQUARE, Codec, HeadVersion, Plan

FEATURES, CLASSES, DEVICES, ROUNDS = 20, 4, 3, 1
PLAN = Plan(epochs=12, batch_size=16, learning_rate=0.1, codec=Codec(density=1.0))
LAST = HeadVersion(1, 2 + ROUNDS)  # the first one collects, the second begins the training


def rows(seed: int, count: int) -> Examples:
    """Each class is a little different in each feature; scales go from 1e-3 to 1e4, offsets are as large."""
    rng = np.random.default_rng(seed)
    task = np.random.default_rng(99)
    centres = task.normal(size=(CLASSES, FEATURES)) * 0.8
    scales = np.logspace(-3, 4, FEATURES)
    offsets = task.normal(size=FEATURES) * 10 * scales
    y = rng.integers(0, CLASSES, count).astype(np.int32)
    x = (centres[y] + rng.normal(size=(count, FEATURES))) * scales + offsets
    return Examples(x=x.astype(np.float32), y=y)


PARTS = [rows(seed, 128 << (seed == 0)) for seed in range(DEVICES)]
HELD_OUT = rows(1000, 1000)


def simulated(parts: list[Examples], held_out: Examples) -> float:
    """Accuracy of plain federated averaging over as many rounds."""
    model = runtime.load(write_head(FEATURES, CLASSES))
    head = model.get_weights()
    for number in range(ROUNDS):
        trained = []
        for device, own in enumerate(parts):
            model.set_weights(head)
            seed = number * DEVICES + device
            HeadTraining(model=model, examples=own, plan=PLAN, seed=seed).run(lambda: False, lambda _: None)
            trained.append(model.get_weights())
        head = np.average(trained, axis=0, weights=[len(own) for own in parts]).astype(np.float32)
    model.set_weights(head)
    return accuracy(model, held_out)


def federated(folder: Path) -> tuple[list[bool], dict[str, np.ndarray], float]:
    """Which versions collected; the statistics in the last head; its accuracy."""
    model = write_head(FEATURES, CLASSES, options=HeadOptions(normalize=True))
    federation = Federation(folder, model, replace(PLAN, statistics=True), devices=DEVICES)
    for part in PARTS:
        with SampleStore(federation.add_device().samples) as store:
            store.append_many(part.x, part.y.tolist())
    federation.run_until(lambda: federation.version >= LAST)
    desk = open_desk(folder / "gateway", GatewaySettings())
    with closing(desk.store):
        manifests = [manifest_of(release) for release in desk.store.releases(99)][::-1]
        last = next(one for one in manifests if one.head_version == LAST)
        head = np.frombuffer(desk.store.blob(last.head.hash), "<f4")
    loaded = runtime.load(model)
    loaded.set_weights(head)
    found, at = {}, 0
    for tensor in last.tensors:
        found[tensor.name] = head[at : at + tensor.size].astype(float)
        at += tensor.size
    return [one.plan.statistics for one in manifests], found, accuracy(loaded, HELD_OUT)


def test_a_federation_scales_its_features_without_seeing_them_together(tmp_path) -> None:
    collected, tensors, reached = federated(tmp_path)
    assert collected == [True] + [False] * (len(collected) - 1)
    everything = np.concatenate([part.x for part in PARTS]).astype(float)
    mean, deviation = everything.mean(axis=0), everything.std(axis=0)
    # Not exactly: each device keeps a part of its samples to judge heads on, and measures the rest.
    pooled = np.sqrt(tensors[MEAN_SQUARE] - tensors[MEAN] ** 2)
    assert np.allclose((tensors[MEAN] - mean) / deviation, 0, atol=0.1)
    assert np.allclose(pooled / deviation, 1, atol=0.1)

    def scaled(part: Examples) -> Examples:
        return Examples(x=((part.x - mean) / deviation).astype(np.float32), y=part.y)

    centrally = simulated([scaled(part) for part in PARTS], scaled(HELD_OUT))
    raw = simulated(PARTS, HELD_OUT)
    print(f"accuracy {reached:.3f} federated, {centrally:.3f} scaled centrally, {raw:.3f} unscaled")
    assert reached > centrally - 0.03
    assert reached > raw + 0.2
