"""The job in hand: what it fixes, who works on it, its checkpoint (PROTOCOL 5.1, 5.6)."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from fedclient.device.jobs import Checkpoint, Jobs, Lease
from fedclient.values import HeadVersion

V1, V2 = HeadVersion(1, 1), HeadVersion(1, 2)
CHECKPOINT = Checkpoint(epoch=1, step=2, weights=b"w" * 8, state=b"s", report='{"loss_sum": 0.5}')
OURS = Lease.of(os.getpid())


@pytest.fixture
def jobs(database) -> Jobs:
    return Jobs(database)


def test_rule_5_1_a_job_fixes_everything_at_its_start(jobs) -> None:
    job = jobs.new(V1, threads=2)
    assert jobs.current() == job
    assert (job.head_version, job.threads, job.sample_ids) == (V1, 2, None)
    jobs.fix_samples(job, (9, 2**40, 4), epoch=7)
    assert jobs.current() == replace(job, sample_ids=(9, 2**40, 4), epoch=7)


def test_rule_5_1_each_job_has_a_token_and_a_seed_of_its_own(jobs) -> None:
    found = [jobs.new(V1, 1) for _ in range(20)]
    assert len({job.token for job in found}) == len({job.seed for job in found}) == 20
    assert jobs.current() == found[-1]


def test_rule_5_1_a_checkpoint_belongs_to_its_job(jobs) -> None:
    job = jobs.new(V1, 1)
    jobs.save_checkpoint(job, CHECKPOINT)
    assert jobs.checkpoint(job) == CHECKPOINT
    later = jobs.new(V1, 1)
    assert jobs.checkpoint(later) is jobs.checkpoint(job) is None


def test_rule_5_1_other_samples_end_the_checkpoint(jobs) -> None:
    job = jobs.new(V1, 1)
    jobs.save_checkpoint(job, CHECKPOINT)
    jobs.fix_samples(job, (1,), 2)
    assert jobs.checkpoint(job) is None


@pytest.mark.parametrize(
    "damage", ["epoch = 2", "step = 3", "weights = x'00'", "state = x''", "report = '{}'", "hash = x''"]
)
def test_rule_5_1_a_damaged_checkpoint_is_none(jobs, database, damage) -> None:
    job = jobs.new(V1, 1)
    jobs.save_checkpoint(job, CHECKPOINT)
    database.execute(f"UPDATE checkpoint SET {damage}")  # noqa: S608
    assert jobs.checkpoint(job) is None


def test_rule_5_6_a_lease_names_one_process(jobs) -> None:
    assert OURS is not None
    job = jobs.new(V1, 1)
    assert jobs.lease() is None
    assert jobs.take_lease(job, OURS)
    assert jobs.take_lease(job, OURS)
    assert jobs.holds(job, OURS)
    assert not jobs.holds(job, replace(OURS, start_time=OURS.start_time + 1))


def test_rule_5_6_a_living_holder_keeps_its_lease_a_dead_one_does_not(jobs) -> None:
    assert OURS is not None
    job = jobs.new(V1, 1)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        theirs = Lease.of(child.pid)
        assert theirs is not None
        assert jobs.take_lease(job, theirs)
        assert not jobs.take_lease(job, OURS)
    finally:
        child.kill()
        child.wait()
    assert Lease.of(child.pid) is None
    assert jobs.take_lease(job, OURS)


def test_rule_5_6_a_number_used_again_is_another_process(jobs) -> None:
    assert OURS is not None
    job = jobs.new(V1, 1)
    for other in (replace(OURS, start_time=1), replace(OURS, boot_id="another boot")):
        jobs._database.execute(
            "UPDATE job SET boot_id = ?, pid = ?, start_time = ?",
            (other.boot_id, other.pid, other.start_time),
        )
        assert jobs.take_lease(job, OURS)


def test_rule_5_2_a_dropped_or_replaced_job_is_not_held(jobs) -> None:
    assert OURS is not None
    job = jobs.new(V1, 1)
    jobs.take_lease(job, OURS)
    jobs.new(V2, 1)
    assert not jobs.holds(job, OURS)
    assert not jobs.take_lease(job, OURS)
    jobs.drop()
    assert not jobs.holds(job, OURS)
    assert jobs.current() is None


def test_rule_5_6_a_lease_reads_strange_command_names(tmp_path) -> None:
    (tmp_path / "sys/kernel/random").mkdir(parents=True)
    (tmp_path / "sys/kernel/random/boot_id").write_text("boot\n")
    (tmp_path / "7").mkdir()
    rest = " ".join(str(number) for number in range(4, 53))
    stat = tmp_path / "7" / "stat"
    stat.write_text(f"7 (a ) R 9 (b) S {rest}")
    assert Lease.of(7, tmp_path) == Lease(boot_id="boot", pid=7, start_time=22)
    stat.write_text(f"7 (zombie) Z {rest}")
    assert Lease.of(7, tmp_path) is None
    assert Lease.of(8, tmp_path) is None


def test_the_bytes_of_its_update_are_fixed_with_a_job(jobs) -> None:
    assert jobs.new(V1, threads=1).max_update_bytes is None
    assert jobs.new(V1, threads=1, max_update_bytes=300).max_update_bytes == 300
    assert jobs.current().max_update_bytes == 300
