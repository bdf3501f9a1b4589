"""A device on which a trainer has something to do: enrolled, with a head, samples and a job."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fedclient import runtime
from fedclient.crypto.keys import SealingKey, SigningKey
from fedclient.device import enrolment
from fedclient.device import folder as folders
from fedclient.device.blobs import Blobs
from fedclient.device.database import open_database
from fedclient.device.folder import DeviceFolder
from fedclient.device.jobs import Job, JobArguments, Jobs, TrainerExit
from fedclient.device.journal import Journal
from fedclient.device.outbox import Outbox, Row
from fedclient.device.residual import Residual, ResidualKey
from fedclient.model.head import write_head
from fedclient.samples.store import SampleStore
from fedclient.trainer.job import JobRun
from fedclient.uplink import DeviceUplink, GatewayUplink
from fedclient.values import PLAN_CODECS, Codec, HeadVersion, Manifest, Plan, Update
from fedclient.wire.blobs import split
from fedclient.wire.invitation import encode_invitation
from fedclient.wire.messages import encode_plan
from tests.wire.golden import FEDERATION, INVITATION

FEATURES, CLASSES = 5, 3
PLAN = Plan(epochs=2, batch_size=16, learning_rate=0.3, codec=Codec(density=0.3), norm_bound=4.0)
SEALING = SealingKey(b"s" * 32)


def samples(count: int, seed: int = 1) -> tuple[list[list[float]], list[int]]:
    """Rows that a linear head can tell apart, and their labels in turns."""
    generator = np.random.default_rng(seed)
    labels = [row % CLASSES for row in range(count)]
    x = generator.normal(size=(count, FEATURES)).astype(np.float32)
    x[np.arange(count), labels] += 2
    return x.tolist(), labels


@dataclass
class Bench:
    """The folder, and shortcuts to what a trainer reads and writes."""

    folder: DeviceFolder
    model: bytes = b""

    def __post_init__(self) -> None:
        self.model = self.model or write_head(FEATURES, CLASSES)
        self.database = open_database(self.folder)
        self.jobs, self.journal = Jobs(self.database), Journal(self.database)
        self.outbox, self.residual = Outbox(self.database), Residual(self.database)
        self.store = SampleStore(self.folder.samples)

    @property
    def key(self) -> SigningKey:
        return SigningKey.load(self.folder.key)

    def publish(self, version: HeadVersion, plan: Plan = PLAN, head: bytes | None = None) -> Manifest:
        """Put a head into the blobs and its manifest into the journal."""
        loaded = runtime.load(self.model)
        head = loaded.get_weights().tobytes() if head is None else head
        manifest = Manifest(
            head_version=version,
            model=split(self.model).ref,
            head=split(head).ref,
            full=split(head).ref,
            tensors=loaded.tensors,
            labels=(),
            plan=plan,
            plan_hash=hashlib.sha256(encode_plan(plan)).digest(),
        )
        for blob in (split(self.model), split(head)):
            if not Blobs(self.folder.blobs).has(blob.ref):
                for chunk in blob.chunks:
                    Blobs(self.folder.blobs).append(blob.ref, chunk)
        self.journal.save_manifest(manifest, keep=())
        return manifest

    def enrol(self) -> None:
        invitation = replace(INVITATION, sealing_key=SEALING.public)
        request = self.uplink().enrolment(b"t" * 16)
        enrolment.save(self.folder.enrolment, encode_invitation(invitation), request)

    def uplink(self) -> DeviceUplink:
        return DeviceUplink(federation=FEDERATION, key=self.key, gateway_sealing_key=SEALING.public)

    def arguments(self, job: Job, **changed: object) -> JobArguments:
        values = {
            "parent": 0, "state": str(self.folder.path), "token": job.token.hex(), "min_samples": 32,
            "min_per_class": 8, "share_accuracy": True, "nice": 0, "idle": False, "memory_mib": None,
            "feature_batch": None, "verbose": False,
            "finetune_epochs": 0, "min_judged": 20, "judges": False, "margin": 0.05,
        }  # fmt: skip
        return JobArguments(**(values | changed))

    def opened(self, row: Row) -> Update:
        """Open an outbox row as the gateway does."""
        manifest = self.journal.manifest(row.head_version)
        assert manifest is not None
        sender = (self.key.device_id, self.key.public)
        gateway = GatewayUplink(federation=FEDERATION, key=SEALING)
        return gateway.open_update(row.envelope, sender, {row.head_version: manifest.base}.get)

    def stored_residual(self, manifest: Manifest) -> np.ndarray | None:
        data = self.residual.load(ResidualKey.of(manifest, self.store.epoch))
        return None if data is None else np.frombuffer(data, "<f4")

    def tables(self) -> dict[str, list[tuple[object, ...]]]:
        """Everything in the database but the lease."""
        names = ("counters", "outbox", "residual", "checkpoint", "history")
        rows = {name: self.database.execute(f"SELECT * FROM {name}") for name in names}  # noqa: S608
        rows["job"] = self.database.execute("SELECT token, samples_epoch, sample_ids FROM job")
        return rows

    def close(self) -> None:
        self.store.close()
        self.database.close()


def bench(path: Path, count: int = 60, model: bytes = b"") -> Bench:
    """A device that can train: `count` samples and an enrolment, no head yet."""
    made = Bench(folders.create(path), model)
    made.enrol()
    if count:
        made.store.append_many(*samples(count))
    return made


def run(device: Bench, stop_after: int | None = None, **changed: object) -> TrainerExit:
    """Carry out the job in hand in this process; `stop_after`: how often it asks before it is stopped."""
    job = device.jobs.current()
    assert job is not None
    asked = iter(range(1, 1_000_000))
    return JobRun(device.arguments(job, **changed), lambda: next(asked) == stop_after).run()


def settle(device: Bench) -> None:
    device.database.execute("UPDATE outbox SET state = 'counted'")


def copy(device: Bench, to: Path) -> Bench:
    device.database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copytree(device.folder.path, to)
    return Bench(DeviceFolder(to), device.model)


def result(device: Bench) -> tuple[bytes, ...]:
    """All that training comes to: what is sent, what is left of it, and what is never sent."""
    row = device.outbox.unsettled()
    assert row is not None
    ((residual,),) = device.database.execute("SELECT data FROM residual")
    personal = device.database.execute("SELECT data FROM personal")
    return (row.body, residual, *(data for (data,) in personal))


MODES = list(PLAN_CODECS)
