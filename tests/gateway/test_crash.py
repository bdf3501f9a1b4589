"""PROTOCOL 4: kill -9 at any moment, and nothing is lost or counted twice."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from fedclient import codec
from fedclient.gateway import aggregate, canonical
from fedclient.gateway.collection import usual_budget
from fedclient.gateway.desk import manifest_of
from fedclient.gateway.server import open_desk
from tests.gateway.crash_child import DEVICES, sent
from tests.gateway.harness import NORMALIZED, SETTINGS, normalized

ROOT = Path(__file__).parents[2]


def child(folder: Path, steps: int, version: int) -> int:
    command = [sys.executable, "-m", "tests.gateway.crash_child", str(folder), str(steps), str(version)]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def survive(folder: Path, kills: int, seed: int) -> None:
    numbers, killed = random.Random(seed), 0
    while killed < kills:  # a version costs some 150 steps: most kills come in the middle of one
        code = child(folder, numbers.randrange(1, 600), 10**6)
        assert code == -signal.SIGKILL
        killed += 1
    version = version_of(folder) + 2
    assert child(folder, 0, version) == 0, "it carries on by itself"
    check(folder)


def version_of(folder: Path) -> int:
    desk = open_desk(folder / "gateway", SETTINGS)
    version = desk.store.current().version
    desk.store.close()
    return version


def check(folder: Path) -> None:
    desk = open_desk(folder / "gateway", SETTINGS)
    ledger = desk.store.ledger()
    told = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
    assert len(told) == DEVICES
    for device, saved in told.items():
        counted = [counter for name, _, counter, _ in ledger if name == device]
        assert len(counted) == len(set(counted)), "counted twice"
        promised = {int(counter) for counter, (status, _) in saved["settled"].items() if status == "COUNTED"}
        open_ = {saved["counter"]} if saved["envelope"] else set()
        assert promised <= set(counted) <= promised | open_, "counted and receipts differ"
        assert set(map(int, saved["settled"])) | open_ == set(range(1, saved["counter"] + 1)), "one is lost"
        reasons = {reason for _, reason in saved["settled"].values()}
        assert reasons <= {"NONE", "LATE"}, reasons
    print(f"{len(ledger)} updates counted, head {desk.store.current()}, alarms {desk.store.alarms()}")
    assert desk.store.alarms() == []
    check_heads(desk, ledger)
    desk.store.close()


def check_heads(desk, ledger) -> None:
    """Every head is, bit for bit, the aggregate of exactly the updates the ledger says it is made of."""
    rows = defaultdict(list)
    for device, _, counter, went_into in ledger:
        rows[went_into].append((device, counter))
    heads = {one.head_version.version: manifest_of(one) for one in desk.store.releases(10**6)}
    now = canonical.begin(normalized().head, NORMALIZED)
    assert [heads[version].plan.statistics for version in sorted(heads)] == [True] + [False] * (
        len(heads) - 1
    )
    for version in sorted(heads)[1:]:
        manifest, plan = heads[version], heads[version - 1].plan
        running, sizes = aggregate.RunningSum(heads[version - 1]), []
        assert len(rows[version]) >= SETTINGS.min_devices
        for device, counter in rows[version]:
            update = sent(device, counter, plan)
            decoded = codec.decode(update["body"], manifest.tensors, plan.body_codec)
            weight = aggregate.sample_weight(5, SETTINGS.max_weight_bucket)
            running.add(decoded, weight, update["epochs"] or plan.epochs)
            sizes.append(len(update["body"]))
        if plan.statistics:
            now = canonical.with_statistics(now, running.statistics(now.head), NORMALIZED)
        else:
            change = running.change(SETTINGS.server_learning_rate)
            now, delta = canonical.advance(now, change, NORMALIZED, usual_budget(sum(sizes), len(sizes)))
            assert (delta is not None) == bool(manifest.deltas)
            assert delta is None or desk.store.blob(manifest.deltas[0].hash) == delta
        assert desk.store.blob(manifest.full.hash) == now.full
        assert desk.store.blob(manifest.head.hash) == now.head.astype("<f4").tobytes()
        assert np.isfinite(now.head).all()
    assert desk.store.remainder.of(desk.store.current(), now.head.size).tobytes() == now.remainder.tobytes()
    assert now.remainder.any()


def test_rule_4_4_kill_9_at_random_moments(tmp_path):
    survive(tmp_path, kills=10, seed=1)


@pytest.mark.thorough
@pytest.mark.parametrize("seed", range(2, 8))
def test_rule_4_4_kill_9_at_many_random_moments(tmp_path, seed):
    survive(tmp_path, kills=30, seed=seed)
