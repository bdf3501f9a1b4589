"""A real agent on a board whose /proc and /sys the test changes: it stops, goes on, and loses nothing."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from fedclient.client.child import Child
from fedclient.device.jobs import JobArguments, TrainerExit
from fedclient.testing.board import VIOLATIONS, Board
from fedclient.testing.broker import Mosquitto
from fedclient.values import Codec, Plan
from tests.system.world import World

PLAN = Plan(epochs=40, batch_size=1, learning_rate=0.01, codec=Codec(density=0.3))
SAMPLES = 3000  # a training of some ten seconds
ASK = """
dwell_s = 0
poll_s = 1
min_spacing_s = 0
daily_training_s = false
min_free_disk_mib = false
max_cpu_percent = 60
"""


@pytest.fixture
def board(tmp_path):
    return Board(tmp_path / "board")


@pytest.fixture
def world(tmp_path, board, mosquitto):
    with Mosquitto(mosquitto) as broker, World(tmp_path, broker.port, plan=PLAN) as made:
        device = made.add_device(SAMPLES)
        device.configure_schedule(ASK)
        device.agent.words += ["--root", str(board.root)]
        made.start()
        yield made


def undisturbed(source: Path, copy: Path) -> tuple:
    """Run the job in hand from its beginning, on a copy, in one go; returns what it leaves."""
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("device.db*", "agent.sock"))
    with (
        closing(sqlite3.connect(source / "device.db")) as old,
        closing(sqlite3.connect(copy / "device.db")) as new,
    ):
        old.backup(new)
        new.execute("DELETE FROM checkpoint")
        new.execute("UPDATE job SET pid = NULL")
        new.commit()
        (token,) = new.execute("SELECT token FROM job").fetchone()
    trainer = Child(
        JobArguments(
            parent=os.getpid(),
            state=str(copy),
            token=token.hex(),
            min_samples=32,
            min_per_class=8,
            share_accuracy=True,
            nice=0,
            idle=False,
            memory_mib=None,
            feature_batch=None,
            verbose=False,
            finetune_epochs=0,
            min_judged=20,
            judges=False,
            margin=0.05,
        ),
        timeout_at_s=0.0,
    )
    assert trainer.finish() == TrainerExit.DONE
    return result(copy)


def result(state: Path) -> tuple:
    """Return what a finished job leaves: the update's body, and the residual."""
    with closing(sqlite3.connect(state / "device.db")) as database:
        (body,) = database.execute("SELECT body FROM outbox ORDER BY counter DESC LIMIT 1").fetchone()
        (residual,) = database.execute("SELECT data FROM residual").fetchone()
    return body, residual


def test_a_training_stops_at_each_violation_goes_on_and_ends_as_if_undisturbed(
    world, board, tmp_path
) -> None:
    (device,) = world.devices
    world.wait_said(device.agent, r"training on head", 0)
    world.gateway.kill()  # so that the update stays where it can be read
    stops_s = {}
    for name, violate in VIOLATIONS.items():
        world.wait(device.trainer, "it trains")
        since = device.agent.said()
        with violate(board):
            began_s = time.monotonic()
            world.wait(lambda: device.trainer() is None, f"{name}: the trainer is gone")
            stops_s[name] = round(time.monotonic() - began_s, 2)
            world.wait_said(device.agent, r"training -> waiting", since)
            if name == "temperature":  # the first: the job is all there, and nobody works on it
                shutil.copytree(device.path, tmp_path / "early", ignore=shutil.ignore_patterns("agent.sock"))
        assert f"not training: {SAYS[name]}" in device.agent.text(since)
    world.wait_said(device.agent, r"-> sending", 0)
    print(f"seconds from a violation to the trainer's end: {stops_s}")  # tools/bench/run --only stops
    assert device.ask("SELECT count(*) FROM history") == [(1,)], "it was one job"
    assert result(device.path) == undisturbed(tmp_path / "early", tmp_path / "copy")


SAYS = {
    "temperature": "the temperature is 79.5 °C",
    "supply": "the supply voltage is too low now",
    "power": "the battery level is 31 %",
    "memory": "free memory is",
    "load": "the processor load is",
}
