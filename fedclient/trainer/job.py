"""One job: samples -> features -> head -> packed update, handed over in one transaction (PROTOCOL 5)."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedclient import runtime
from fedclient.crypto.keys import SigningKey
from fedclient.device import enrolment
from fedclient.device.blobs import Blobs
from fedclient.device.database import open_database
from fedclient.device.folder import DeviceFolder
from fedclient.device.jobs import Checkpoint, Job, JobArguments, Jobs, Lease, TrainerExit
from fedclient.device.journal import Journal
from fedclient.device.outbox import Outbox, Row
from fedclient.device.residual import Residual, ResidualKey
from fedclient.errors import ConfigError, ModelError, PrivacyFloor, StorageDamaged
from fedclient.runtime import TrainableModel
from fedclient.samples.features import FeatureCache
from fedclient.samples.store import SampleStore, features_path
from fedclient.trainer.pack import Packed, fold, pack
from fedclient.training.dataset import Prepared, features_of, prepare
from fedclient.training.loop import EpochReport, HeadTraining, accuracy
from fedclient.training.process import pss_mib
from fedclient.uplink import DeviceUplink
from fedclient.values import Manifest, Update

log = logging.getLogger(__name__)

_MIN_EXAMPLES_FOR_ACCURACY = 100  # PROTOCOL 8: with fewer, two digits say too much about one sample


class Superseded(Exception):
    """The job in hand is another one by now; this trainer's work is for nobody."""


class Asked(Exception):
    """Somebody wants this trainer to stop before it has anything to checkpoint."""


class JobRun:
    """Everything one trainer does for one job."""

    def __init__(self, arguments: JobArguments, should_stop: Callable[[], bool]) -> None:
        self._arguments = arguments
        self._should_stop = should_stop
        self._started = time.monotonic()
        self._peak_pss_mib = 0.0
        self._folder = DeviceFolder(Path(arguments.state))
        self._database = open_database(self._folder)
        self._jobs = Jobs(self._database)
        self._journal = Journal(self._database)
        self._lease = Lease.of(os.getpid())

    def run(self) -> TrainerExit:
        """Carry out the job.  Raises FedClientError for what `__main__` turns into an exit code."""
        job = self._jobs.current()
        if self._lease is None or job is None or job.token.hex() != self._arguments.token:
            return TrainerExit.STOPPED
        with self._database.transaction():
            if not self._jobs.take_lease(job, self._lease):
                return TrainerExit.STOPPED
        try:
            return self._carry_out(job)
        except (Superseded, Asked):
            return TrainerExit.STOPPED

    def _check_owned(self, job: Job) -> None:
        """Raise Superseded unless this process still works on the job in hand; inside a transaction."""
        if self._lease is None or not self._jobs.holds(job, self._lease):
            raise Superseded

    def _check_wanted(self) -> None:
        """Raise Asked when this trainer shall stop: a backbone may take minutes for all samples."""
        if self._should_stop():
            raise Asked

    def _carry_out(self, job: Job) -> TrainerExit:
        manifest = self._journal.manifest(job.head_version)
        if manifest is None:
            raise StorageDamaged(f"the manifest of head {job.head_version} is gone")
        model, base = self._load(manifest, job.threads)
        job, prepared = self._samples(job, manifest, model)
        training, base_accuracy = self._training(job, manifest, model, prepared)
        self._measure()

        def on_epoch(_: EpochReport) -> None:
            self._measure()
            if training.epoch < manifest.plan.epochs:
                self._save_checkpoint(job, training, base_accuracy)

        log.info("head %s samples=%d", job.head_version, len(prepared.examples))
        if not training.run(self._should_stop, on_epoch):
            self._save_checkpoint(job, training, base_accuracy)
            return TrainerExit.STOPPED
        log.info("trained epochs=%d", manifest.plan.epochs)
        done = self._hand_over(job, manifest, (base, training, prepared, base_accuracy))
        log.info("update handed over seconds=%.3f", time.monotonic() - self._started)
        return done

    def _load(self, manifest: Manifest, threads: int) -> tuple[TrainableModel, NDArray[np.float32]]:
        blobs = Blobs(self._folder.blobs)
        model = runtime.load(blobs.read(manifest.model), threads=threads)
        if model.tensors != manifest.tensors:
            raise ModelError("the model has other tensors than its manifest says")
        base = np.frombuffer(blobs.read(manifest.head), "<f4").astype(np.float32)
        model.set_weights(base)
        return model, base

    def _samples(self, job: Job, manifest: Manifest, model: TrainableModel) -> tuple[Job, Prepared]:
        """Load what this job trains on: its own choice of the first start, unless samples were purged."""
        store = SampleStore(self._folder.samples)
        features = features_of(
            model,
            manifest.model.hash,
            FeatureCache(features_path(self._folder.samples)),
            at_once=self._arguments.feature_batch,
            before_each=self._check_wanted,
        )
        if job.epoch != store.epoch:
            job = self._choose_samples(job, store, manifest)
        prepared = prepare(store.read(job.sample_ids or ()), model, manifest.labels, features)
        if len(prepared.ids) + prepared.skipped < len(job.sample_ids or ()):  # some made room for others
            job = self._choose_samples(job, store, manifest)
            prepared = prepare(store.read(job.sample_ids or ()), model, manifest.labels, features)
        if prepared.distinct < self._arguments.min_samples:
            raise PrivacyFloor(
                f"{prepared.distinct} distinct samples fit the model, the privacy floor is "
                f"{self._arguments.min_samples} ([privacy] min_samples)"
            )
        return job, prepared

    def _choose_samples(self, job: Job, store: SampleStore, manifest: Manifest) -> Job:
        """Fix what this job trains on; if it was fixed before, those samples are gone and it starts over."""
        if job.sample_ids is not None:
            log.warning("samples of this job were purged: it starts over")
        with self._database.transaction():
            self._check_owned(job)
            self._jobs.fix_samples(
                job, tuple(store.usable(manifest.plan.max_examples, manifest.labels)), store.epoch
            )
        return self._jobs.current() or job

    def _training(
        self, job: Job, manifest: Manifest, model: TrainableModel, prepared: Prepared
    ) -> tuple[HeadTraining, float]:
        training = HeadTraining(model=model, examples=prepared.examples, plan=manifest.plan, seed=job.seed)
        saved = self._jobs.checkpoint(job)
        if saved is None:
            return training, accuracy(model, prepared.examples)
        report = json.loads(saved.report)
        model.set_weights(np.frombuffer(saved.weights, "<f4").astype(np.float32))
        if saved.state:
            model.set_state(_unpack_state(saved.state, model))
        training.epoch, training.step, training.loss_sum = saved.epoch, saved.step, report["loss_sum"]
        training.reports = [EpochReport(**epoch) for epoch in report["epochs"]]
        return training, report["base_accuracy"]

    def _save_checkpoint(self, job: Job, training: HeadTraining, base_accuracy: float) -> None:
        report = {
            "loss_sum": training.loss_sum,
            "base_accuracy": base_accuracy,
            "epochs": [epoch.as_dict() for epoch in training.reports],
        }
        state = training.model.get_state()
        checkpoint = Checkpoint(
            epoch=training.epoch,
            step=training.step,
            weights=training.model.get_weights().tobytes(),
            state=b"".join(state[name].tobytes() for name in sorted(state)),
            report=json.dumps(report),
        )
        with self._database.transaction():
            self._check_owned(job)
            self._jobs.save_checkpoint(job, checkpoint)

    def _hand_over(
        self,
        job: Job,
        manifest: Manifest,
        result: tuple[NDArray[np.float32], HeadTraining, Prepared, float],
    ) -> TrainerExit:
        """Do PROTOCOL 5.2's one transaction: residual, returned rows, outbox row, counter, job done."""
        base, training, prepared, base_accuracy = result
        epoch = job.epoch or 0
        if SampleStore(self._folder.samples).epoch != epoch:
            log.warning("samples were purged meanwhile: this job starts over")
            return TrainerExit.STOPPED
        outbox, residuals = Outbox(self._database), Residual(self._database)
        key = ResidualKey.of(manifest, epoch)
        stored = residuals.load(key)
        residual = np.zeros_like(base) if stored is None else np.frombuffer(stored, "<f4")
        returned, counters = outbox.returned()
        ours = [row for row in returned if _belongs(row, manifest, epoch)]
        if len(ours) < len(counters):
            log.warning(
                "returned updates dropped (another model, purged samples or damaged) count=%d",
                len(counters) - len(ours),
            )
        residual = fold(residual, [row.body for row in ours], manifest.plan, manifest.tensors)
        packed = pack(training, base, residual, self._arguments.min_per_class)
        self._measure()
        with self._database.transaction():
            self._check_owned(job)
            counter = self._journal.add("updates")
            update = Update(
                counter=counter,
                head_version=manifest.head_version,
                bucket=len(prepared.examples).bit_length() - 1,
                accuracy_percent=self._shared_accuracy(base_accuracy, prepared),
                body=packed.body,
            )
            row = self._row(update, manifest, epoch)
            residuals.save(key, packed.residual.tobytes())
            outbox.drop_returned(counters)
            outbox.put(row)
            report = self._report(training, prepared, packed, base_accuracy)
            report["bytes"] = {**packed.sizes, "sealed": len(row.envelope)}
            self._journal.record_round(counter, manifest.head_version, report)
            self._jobs.drop()
        return TrainerExit.DONE

    def _row(self, update: Update, manifest: Manifest, epoch: int) -> Row:
        """Sign and seal an update for the outbox."""
        return Row(
            counter=update.counter,
            head_version=manifest.head_version,
            model_hash=manifest.model.hash,
            samples_epoch=epoch,
            envelope=self._uplink().update(update, manifest.base),
            body=update.body,
        )

    def _report(
        self, training: HeadTraining, prepared: Prepared, packed: Packed, base_accuracy: float
    ) -> dict[str, object]:
        """What history keeps of a job: stays on the device."""
        return {
            "samples": len(prepared.examples),
            "skipped": prepared.skipped,
            "newest_sample": max(prepared.ids),
            "suppressed_classes": list(packed.suppressed_classes),
            "base_accuracy": base_accuracy,
            "epochs": [epoch.as_dict() for epoch in training.reports],
            "seconds": time.monotonic() - self._started,
            "peak_pss_mib": self._peak_pss_mib,
        }

    def _uplink(self) -> DeviceUplink:
        stored = enrolment.load(self._folder.enrolment)
        if stored is None:
            raise ConfigError("this device is not enrolled: run `fedclient enroll INVITATION`")
        return DeviceUplink(
            federation=stored.invitation.federation,
            key=SigningKey.load(self._folder.key),
            gateway_sealing_key=stored.invitation.sealing_key,
        )

    def _shared_accuracy(self, base_accuracy: float, prepared: Prepared) -> int | None:
        if not self._arguments.share_accuracy or len(prepared.examples) < _MIN_EXAMPLES_FOR_ACCURACY:
            return None
        return min(99, int(100 * base_accuracy))

    def _measure(self) -> None:
        self._peak_pss_mib = max(self._peak_pss_mib, pss_mib())


def _belongs(row: Row, manifest: Manifest, epoch: int) -> bool:
    same_generation = row.head_version.generation == manifest.head_version.generation
    return same_generation and (row.model_hash, row.samples_epoch) == (manifest.model.hash, epoch)


def _unpack_state(data: bytes, model: TrainableModel) -> dict[str, NDArray[np.generic]]:
    state, at = {}, 0
    for name, like in sorted(model.get_state().items()):
        part = data[at : at + like.nbytes]
        state[name] = np.frombuffer(part, like.dtype).reshape(like.shape)
        at += like.nbytes
    return state
