"""What a MobileNet below the head costs: time and memory of a job, with its features cached and not.

The model is that of `omniglot.py`.  A pass is the trainer's own way from the sample store to features; the
second one finds them in the cache.  Epochs are those of the real training loop, over these features.
Times are of the processor, which does one thing at a time here: they do not depend on what else runs.
The trainer's memory is of a real job: the agent's children, looked at from outside while they run.  The first
of them to need features computes them: the one that judges the head, where there are enough samples.

    tools/bench/run --only backbone [--backbone-samples 520]
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import process
from omniglot import HEAD, LETTERS, OWNER, PLAN, Drawings, backbone
from rig import start_broker

from fedclient import runtime
from fedclient.config import GatewaySettings
from fedclient.model.attach import NewHead
from fedclient.model.attach_check import attach_proved
from fedclient.model.head import write_head
from fedclient.runtime import TrainableModel
from fedclient.samples.features import FeatureCache
from fedclient.samples.store import SampleStore
from fedclient.testing.fleet import Device, Fleet
from fedclient.training.dataset import Features, Prepared, prepare
from fedclient.training.loop import HeadTraining
from fedclient.values import Broker

SAMPLES = 520  # all there are
HIDDEN = 128
_HASH = bytes(32)  # of the model: only that it is one
_JOB_S = 300.0
_LOOK_S = 0.005


def measure(samples: int = SAMPLES, broker_kind: str = "mosquitto") -> dict[str, Any] | None:
    """Return all of it; None without the reference data."""
    drawings, parent = Drawings.load(), backbone()
    if drawings is None or parent is None:
        return None
    attached, _ = attach_proved(parent, HEAD)
    deep, _ = attach_proved(parent, NewHead(classes=LETTERS, hidden=HIDDEN, options=HEAD.options))
    rows = np.arange(samples) % len(drawings.x)
    with tempfile.TemporaryDirectory() as path:
        with SampleStore(Path(path) / "samples") as store:
            store.append_many(drawings.x[rows], drawings.letter[rows].tolist())
        found = _times(Path(path), attached.data, deep.data)
    head = write_head(attached.tap.features, LETTERS, options=HEAD.options)
    return {
        **found,
        "file": {
            "backbone_bytes": len(parent),
            "head_bytes": len(head),
            "file_bytes": len(attached.data),
            "growth_percent": round(100 * (len(attached.data) / (len(parent) + len(head)) - 1), 2),
        },
        "trainer": _job(attached.data, drawings, rows, broker_kind),
    }


def _times(path: Path, linear: bytes, deep: bytes) -> dict[str, Any]:
    model, cache = runtime.load(linear), FeatureCache(path / "features.db")
    prepared, first = _pass(model, path, cache)
    again, second = _pass(model, path, cache)
    assert np.array_equal(prepared.examples.x, again.examples.x)
    cache.close()
    size = sum(file.stat().st_size for file in path.glob("features.db*"))
    epochs = {
        "linear": _epochs(model, prepared),
        f"hidden_{HIDDEN}": _epochs(runtime.load(deep), prepared),
    }
    return {
        "samples": len(prepared.examples),
        "backbone_pass_cpu_s": round(first, 3),
        "backbone_cpu_ms_per_sample": round(1e3 * first / len(prepared.examples), 2),
        "cached_pass_cpu_s": round(second, 3),
        "cache_bytes_per_sample": round(size / len(prepared.examples)),
        "epochs": PLAN.epochs,
        "epochs_cpu_s": {name: round(seconds, 3) for name, seconds in epochs.items()},
        "epochs_per_backbone_pass": {name: round(seconds / first, 3) for name, seconds in epochs.items()},
    }


def _pass(model: TrainableModel, path: Path, cache: FeatureCache) -> tuple[Prepared, float]:
    started = time.process_time()
    with SampleStore(path / "samples") as store:
        ids = store.usable(10**6, ())
        prepared = prepare(store.read(tuple(ids)), model, (), Features(model, _HASH, cache))
    return prepared, time.process_time() - started


def _epochs(model: TrainableModel, prepared: Prepared) -> float:
    training = HeadTraining(model=model, examples=prepared.examples, plan=PLAN, seed=1)
    started = time.process_time()
    training.run(lambda: False, lambda _: None)
    return time.process_time() - started


def _job(file: bytes, drawings: Drawings, rows: Any, broker_kind: str) -> dict[str, Any]:
    """Let an agent's trainer do a job that begins with no features."""
    with tempfile.TemporaryDirectory() as path:
        broker = start_broker(broker_kind, None)
        try:
            address = Broker(host="127.0.0.1", port=broker.port)
            gateway = GatewaySettings(cohort=2, min_devices=2)  # so it is one job, and no other follows
            with Fleet(Path(path) / "fleet", address, gateway, privacy=OWNER) as fleet:
                fleet.publish(file, PLAN)
                device = fleet.add_device(drawings.x[rows], drawings.letter[rows].tolist())
                fleet.start()
                seen = _watch(fleet, device)
                (round_,) = device.history()
        finally:
            broker.kill()
    kinds = next(iter(seen.values()))
    return {
        **{f"peak_{kind}": max(peak[kind] for peak in seen.values()) for kind in kinds},
        "peak_pss_mib_by_verb": {verb: peak["pss_mib"] for verb, peak in seen.items()},
        "peak_pss_mib_as_it_saw_itself": round(round_.report["peak_pss_mib"], 2),
        "backbone_s": round(round_.report["backbone_seconds"], 3),
        "head_s": round(round_.report["head_seconds"], 3),
        "seconds": round(round_.report["seconds"], 3),
    }


def _watch(fleet: Fleet, device: Device) -> dict[str, dict[str, float]]:
    """Look at the agent's children until a job is done; return by verb the most of each kind of memory."""
    seen: dict[str, dict[str, float]] = {}
    until_s = time.monotonic() + _JOB_S
    while not device.history():
        if time.monotonic() > until_s:
            raise TimeoutError(f"no job was done in {_JOB_S} s: {device.process.last_line()}")
        fleet.gateway.check()
        device.process.check()
        for pid in process.children(device.process.pid or 0):
            try:
                verb = process.words(pid)[3]  # python -m fedclient.trainer VERB
                now = process.memory(pid).as_dict()
            except (OSError, IndexError):  # it has not begun, or has just ended
                continue
            peak = seen.setdefault(verb, now)
            seen[verb] = {kind: max(value, peak[kind]) for kind, value in now.items()}
        time.sleep(_LOOK_S)
    return seen
