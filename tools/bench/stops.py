"""How soon a training stops after each kind of violation: a real agent on a board whose files change."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fedclient.config import BrokerSettings, GatewaySettings, TrainerSettings
from fedclient.model.head import write_head
from fedclient.scheduler.schedule import Policy
from fedclient.testing.board import VIOLATIONS, Board
from fedclient.testing.broker import EmbeddedBroker, Mosquitto, find_mosquitto
from fedclient.testing.fleet import Device, Fleet, as_toml
from fedclient.values import Broker, Plan

PLAN = Plan(epochs=100, batch_size=1, learning_rate=0.01)
FEATURES, CLASSES, SAMPLES = 8, 3, 4000
PATIENCE_S = 60.0
# the machine's own disk is no board's
POLICY = replace(Policy(), dwell_s=0.0, poll_s=1.0, min_free_disk_mib=None, daily_training_s=None)


def measure(broker: str) -> dict[str, Any]:
    found = find_mosquitto()
    running = Mosquitto(found) if broker == "mosquitto" and found else EmbeddedBroker()
    with tempfile.TemporaryDirectory() as path, running:
        root = Path(path)
        address = Broker(host="127.0.0.1", port=running.port)
        with Fleet(root, address, GatewaySettings()) as fleet:
            fleet.publish(write_head(features=FEATURES, classes=CLASSES), PLAN)
            board = Board(root / "board")
            device = _device(fleet, board)
            fleet.start()
            return {"stop_s": {name: _stop_s(fleet, device, board, name) for name in VIOLATIONS}}


def _device(fleet: Fleet, board: Board) -> Device:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(SAMPLES, FEATURES)).astype(np.float32)
    device = fleet.add_device(x, np.argmax(x[:, :CLASSES], axis=1).tolist())
    settings = as_toml(
        broker=BrokerSettings(allow_plaintext=True),
        schedule=POLICY,
        trainer=TrainerSettings(nice=0, idle=False),
    )
    (fleet.root / "device-1.toml").write_text(settings)
    device.process.words = [*device.process.words, "--root", str(board.root)]
    return device


def _stop_s(fleet: Fleet, device: Device, board: Board, name: str) -> float:
    """Wait for a trainer, break one condition, and time the trainer's end."""
    fleet.wait_until(lambda: _trains(device), PATIENCE_S, "a trainer")
    time.sleep(1.0)  # it has begun
    with VIOLATIONS[name](board):
        began_s = time.monotonic()
        fleet.wait_until(lambda: not _trains(device), PATIENCE_S, f"the end of the trainer after {name}")
        return round(time.monotonic() - began_s, 2)


def _trains(device: Device) -> bool:
    pid = device.process.pid
    return bool(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
