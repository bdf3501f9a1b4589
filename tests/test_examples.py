"""The examples, run as they stand."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np

import fedclient
from fedclient.model.head import write_head
from fedclient.testing.inprocess import Federation
from fedclient.values import Codec, Plan

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"


def start(name: str, *words: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, EXAMPLES / name, *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip


def test_there_is_a_test_for_every_example() -> None:
    tested = set(re.findall(r'start\("(\w+\.py)"', Path(__file__).read_text()))
    assert {path.name for path in EXAMPLES.glob("*.py")} == tested


def test_quickstart() -> None:
    with start("quickstart.py") as process:
        out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    right = re.search(r"^head 1\.\d+: (\d+)% of this device's samples right$", out, re.MULTILINE)
    assert right is not None
    assert int(right[1]) >= 90


def test_record_and_predict(tmp_path: Path) -> None:
    """Two devices have samples; the third gets all of its own from the app, and the app its heads."""
    plan = Plan(epochs=5, learning_rate=0.5, codec=Codec(density=1.0))
    federation = Federation(tmp_path, write_head(features=4, classes=2), plan, devices=3)
    rng = np.random.default_rng(7)
    for _ in range(2):
        x = rng.normal(size=(64, 4)).astype(np.float32)
        with fedclient.SampleStore(federation.add_device().samples) as store:
            store.append_many(x, (x.sum(axis=1) > 0).astype(int).tolist())
    device = federation.add_device()
    with start("record_and_predict.py", "--state", device.path, "--every", 0.02) as app:
        assert app.stdout is not None
        said = [app.stdout.readline()]
        assert re.fullmatch(r"sample 1 is [01]; no head yet\n", said[0])
        reader = threading.Thread(target=lambda: said.extend(app.stdout))
        reader.start()
        federation.run_until(lambda: any(re.search(r"head 1\.[3-9] says", line) for line in said))
        app.send_signal(signal.SIGINT)
        assert app.wait(30) == 0
        reader.join()
        assert app.stderr is not None
        assert app.stderr.read() == ""
    assert "head 1.2 took over\n" in said
    with fedclient.SampleStore(device.samples) as store:
        assert len(store) >= 32  # the privacy floor: without the app this device could not have trained
