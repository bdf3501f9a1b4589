"""The job in hand: what it fixes at its start, who works on it, and its checkpoint (PROTOCOL 5.1, 5.6)."""

from __future__ import annotations

import hashlib
import os
from array import array
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from fedclient.storage import Database
from fedclient.values import HeadVersion

_TOKEN_BYTES = 16
_SEED_BITS = 62  # SQLite's integers are signed


class TrainerExit(IntEnum):
    """How a trainer ended: sysexits.h numbers; anything else is a crash."""

    DONE = 0  # the update is in the outbox
    CRASHED = 1
    DATA = 65  # the samples do not do: too few, or unfit
    MODEL = 70  # this model cannot be trained here
    DISK = 73  # no room for the result, or the database was busy: later, perhaps
    LOST = 74  # the stored head or model is damaged
    STOPPED = 75  # as asked; the checkpoint holds
    ASTRAY = 76  # what was fetched does not lead to the head that the manifest names


@dataclass(frozen=True, kw_only=True, slots=True)
class JobArguments:
    """What the agent tells a trainer; the rest stands in the database."""

    parent: int  # process id of the agent
    state: str
    token: str  # hex
    min_samples: int
    min_per_class: int
    share_accuracy: bool
    nice: int
    idle: bool
    memory_mib: int | None
    feature_batch: int | None  # samples that the backbone takes at once, at most
    verbose: bool  # say how far it is, on the agent's standard error
    finetune_epochs: int  # of a copy for the app, after the job; 0: none
    min_judged: int  # rows; with fewer there is no telling
    judges: bool  # the head first, before it is trained on
    margin: float  # of accuracy, that a head may lose and still be adopted


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One local training on one head.  `sample_ids` are fixed by the trainer's first start."""

    token: bytes
    head_version: HeadVersion
    seed: int
    threads: int
    max_update_bytes: int | None = None  # as a message, all included; None: no bound
    epoch: int | None = None  # of the sample store, when the ids were fixed
    sample_ids: tuple[int, ...] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """Where a stopped trainer resumes: after `step` batches of `epoch`, both from 0."""

    epoch: int
    step: int
    weights: bytes  # flat float32
    state: bytes  # optimiser slots one after the other, in the order of their names; empty for plain SGD
    report: str  # JSON: what was measured so far


@dataclass(frozen=True, kw_only=True, slots=True)
class Lease:
    """A process, named so that its number cannot be mistaken for a later one's."""

    boot_id: str
    pid: int
    start_time: int  # clock ticks since boot, /proc/<pid>/stat field 22

    @classmethod
    def of(cls, pid: int, proc: Path = Path("/proc")) -> Lease | None:
        """Describe a running process, or return None when there is none with this number."""
        try:
            boot_id = (proc / "sys/kernel/random/boot_id").read_text().strip()
            stat = (proc / str(pid) / "stat").read_text()
        except OSError:
            return None
        # the command in parentheses may contain spaces and parentheses itself: fields count from its end
        fields = stat.rpartition(")")[2].split()
        return None if fields[0] == "Z" else cls(boot_id=boot_id, pid=pid, start_time=int(fields[19]))


class Jobs:
    """Typed access to the tables `job` and `checkpoint`; transactions are the caller's."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def new(self, version: HeadVersion, threads: int, max_update_bytes: int | None = None) -> Job:
        """Begin a job; there is at most one, so an older one and its checkpoint go."""
        job = Job(
            token=os.urandom(_TOKEN_BYTES),
            head_version=version,
            seed=int.from_bytes(os.urandom(8), "big") >> (64 - _SEED_BITS),
            threads=threads,
            max_update_bytes=max_update_bytes,
        )
        self.drop()
        self._database.execute(
            "INSERT INTO job (id, token, generation, version, seed, threads, max_update_bytes) "
            "VALUES (1, ?, ?, ?, ?, ?, ?)",
            (job.token, version.generation, version.version, job.seed, threads, max_update_bytes),
        )
        return job

    def current(self) -> Job | None:
        row = self._database.one(
            "SELECT token, generation, version, seed, threads, max_update_bytes, samples_epoch, sample_ids "
            "FROM job WHERE id = 1"
        )
        if row is None:
            return None
        token, generation, version, seed, threads, max_update_bytes, epoch, ids = row
        return Job(
            token=token,
            head_version=HeadVersion(generation, version),
            seed=seed,
            threads=threads,
            max_update_bytes=max_update_bytes,
            epoch=epoch,
            sample_ids=None if ids is None else tuple(array("q", ids)),
        )

    def fix_samples(self, job: Job, sample_ids: tuple[int, ...], epoch: int) -> None:
        """Write down which samples this job trains on; a checkpoint for others goes."""
        self._database.execute("DELETE FROM checkpoint")
        self._database.execute(
            "UPDATE job SET sample_ids = ?, samples_epoch = ? WHERE token = ?",
            (array("q", sample_ids).tobytes(), epoch, job.token),
        )

    def drop(self) -> None:
        """Forget job and checkpoint; a trainer that still works on it will find its token gone."""
        self._database.execute("DELETE FROM job")
        self._database.execute("DELETE FROM checkpoint")

    # --- lease ---
    def lease(self) -> Lease | None:
        row = self._database.one("SELECT boot_id, pid, start_time FROM job WHERE pid IS NOT NULL")
        return None if row is None else Lease(boot_id=row[0], pid=row[1], start_time=row[2])

    def take_lease(self, job: Job, lease: Lease) -> bool:
        """Make this process the one that works on `job`; False when the job is gone or taken."""
        held = self.lease()
        if held is not None and held != lease and Lease.of(held.pid) == held:
            return False
        self._database.execute(
            "UPDATE job SET boot_id = ?, pid = ?, start_time = ? WHERE token = ?",
            (lease.boot_id, lease.pid, lease.start_time, job.token),
        )
        return self.holds(job, lease)

    def holds(self, job: Job, lease: Lease) -> bool:
        """Whether `job` is still the job in hand and `lease` the process that works on it."""
        row = self._database.one("SELECT token FROM job WHERE id = 1")
        return row is not None and row[0] == job.token and self.lease() == lease

    # --- checkpoint ---
    def save_checkpoint(self, job: Job, checkpoint: Checkpoint) -> None:
        self._database.execute(
            "INSERT OR REPLACE INTO checkpoint VALUES (1, ?, ?, ?, ?, ?, ?, ?)",
            (
                job.token,
                checkpoint.epoch,
                checkpoint.step,
                checkpoint.weights,
                checkpoint.state,
                checkpoint.report,
                _digest(checkpoint),
            ),
        )

    def checkpoint(self, job: Job) -> Checkpoint | None:
        """Return the checkpoint of `job`; one that is damaged counts as none: the job starts over."""
        row = self._database.one(
            "SELECT epoch, step, weights, state, report, hash FROM checkpoint WHERE token = ?", (job.token,)
        )
        if row is None:
            return None
        found = Checkpoint(epoch=row[0], step=row[1], weights=row[2], state=row[3], report=row[4])
        return found if _digest(found) == row[5] else None


def _digest(checkpoint: Checkpoint) -> bytes:
    place = f"{checkpoint.epoch} {checkpoint.step} {checkpoint.report}".encode()
    return hashlib.sha256(place + b"\0" + checkpoint.weights + checkpoint.state).digest()
