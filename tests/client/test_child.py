"""The trainer from outside: started, seen ending, stopped, and ended when it is an orphan (PROTOCOL 5.6)."""

from __future__ import annotations

import math
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fedclient.client.child import Child, describe, end_orphan
from fedclient.device.database import open_database
from fedclient.device.jobs import JobArguments, Jobs, Lease, TrainerExit
from tests.client.harness import V1


def arguments(device, token: str = "00" * 16) -> JobArguments:
    return JobArguments(
        parent=os.getpid(), state=str(device.folder.path), token=token, min_samples=32, min_per_class=8,
        share_accuracy=False, nice=0, idle=False, memory_mib=None, feature_batch=None, verbose=False,
        finetune_epochs=0, min_judged=20, judges=False, margin=0.05,
    )  # fmt: skip


def test_its_end_can_be_waited_for_like_any_descriptor(device) -> None:
    trainer = Child(arguments(device), timeout_at_s=50.0)
    assert not select.select([trainer.gone_descriptor], [], [], 0)[0]
    assert select.select([trainer.gone_descriptor], [], [], 60)[0]
    assert trainer.finish() == TrainerExit.STOPPED  # there is no job with this token


def test_asking_to_stop_sets_the_time_to_kill_once(device) -> None:
    trainer = Child(arguments(device), timeout_at_s=50.0)
    assert (trainer.kill_at_s, trainer.asked) == (50.0, False)
    trainer.ask_to_stop(10.0, 5.0)
    trainer.ask_to_stop(12.0, 5.0)
    assert (trainer.kill_at_s, trainer.asked) == (15.0, True)
    trainer.kill()
    assert trainer.finish() in {-signal.SIGKILL, -signal.SIGTERM, TrainerExit.STOPPED}


def test_one_that_does_not_stop_in_time_is_ended(device) -> None:
    trainer = Child(arguments(device), timeout_at_s=50.0)
    os.kill(trainer.pid, signal.SIGSTOP)
    trainer.stop(0.1)
    assert Lease.of(trainer.pid) is None


def test_one_that_was_killed_and_is_not_gone_yet_keeps_nobody_awake(device) -> None:
    trainer = Child(arguments(device), timeout_at_s=50.0)
    trainer.kill()
    assert trainer.kill_at_s == math.inf
    trainer.finish()


def test_one_that_cannot_be_started_leaves_no_descriptor(device, monkeypatch) -> None:
    monkeypatch.setattr(sys, "executable", str(device.folder.path / "nothing"))
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(OSError, match="No such file"):
        Child(arguments(device), timeout_at_s=50.0)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_ends_are_told_in_words() -> None:
    assert describe(-9) == "ended by signal SIGKILL"
    assert describe(TrainerExit.DATA) != describe(TrainerExit.MODEL)
    assert "137" in describe(137)


@pytest.fixture
def jobs(device):
    database = open_database(device.folder)
    yield Jobs(database)
    database.close()


def test_rule_5_6_an_orphan_is_ended_and_gone_when_this_returns(jobs) -> None:
    job = jobs.new(V1, 1)
    orphan = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        lease = Lease.of(orphan.pid)
        assert lease is not None
        assert jobs.take_lease(job, lease)
        end_orphan(jobs._database)
        assert orphan.poll() == -signal.SIGKILL
    finally:
        orphan.kill()
        orphan.wait()
    end_orphan(jobs._database)  # nobody there any more


def test_rule_5_6_a_process_that_only_has_the_same_number_is_left_alone(jobs) -> None:
    job = jobs.new(V1, 1)
    stranger = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        lease = Lease.of(stranger.pid)
        assert lease is not None
        assert jobs.take_lease(job, lease)
        jobs._database.execute("UPDATE job SET start_time = start_time - 1")
        end_orphan(jobs._database)
        jobs._database.execute("UPDATE job SET start_time = start_time + 1, boot_id = 'another boot'")
        end_orphan(jobs._database)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()
