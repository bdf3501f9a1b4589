"""One job: samples -> features -> head -> packed update, handed over in one transaction (PROTOCOL 5).

This file is the order of things; `workplace`, `loading`, `checkpoints`, `pack` and `handover` do them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fedclient.device.blobs import Blobs
from fedclient.device.jobs import Job, JobArguments, TrainerExit
from fedclient.errors import PrivacyFloor, StorageDamaged
from fedclient.runtime import TrainableModel
from fedclient.samples.store import SampleStore
from fedclient.trainer import checkpoints, judge, personal, statistics
from fedclient.trainer.assemble import put_together
from fedclient.trainer.handover import Result, TakenBack, body_room, hand_over, take_back
from fedclient.trainer.loading import AskedToStop, features, load
from fedclient.trainer.pack import pack
from fedclient.trainer.spent import Spent
from fedclient.trainer.tuning import Tuning
from fedclient.trainer.workplace import Superseded, Workplace
from fedclient.training.dataset import Prepared, prepare
from fedclient.training.loop import EpochReport, HeadTraining
from fedclient.values import Manifest

log = logging.getLogger(__name__)

_MIN_EXAMPLES_FOR_ACCURACY = 100  # PROTOCOL 8: with fewer, two digits say too much about one sample


class JobRun:
    """Everything one trainer does for one job."""

    def __init__(self, arguments: JobArguments, should_stop: Callable[[], bool]) -> None:
        self._arguments = arguments
        self._should_stop = should_stop
        self._spent = Spent()
        self._place = Workplace(arguments)

    def run(self) -> TrainerExit:
        """Carry out the job.  Raises FedClientError for what `__main__` turns into an exit code."""
        job = self._place.take_job()
        if job is None:
            return TrainerExit.STOPPED
        manifest = self._place.journal.manifest(job.head_version)
        if manifest is None:
            raise StorageDamaged(f"the manifest of head {job.head_version} is gone")
        put_together(Blobs(self._place.folder.blobs), manifest, self._place.journal.manifest)
        if self._arguments.judges and not judge.first(self._place, job, self._should_stop):
            return TrainerExit.STOPPED
        try:
            return self._carry_out(job, manifest)
        except (Superseded, AskedToStop):
            return TrainerExit.STOPPED

    def _carry_out(self, job: Job, manifest: Manifest) -> TrainerExit:
        model, base = load(self._place.folder, manifest, job.threads)
        job, prepared = self._samples(job, manifest, model)
        log.info("head %s samples=%d", job.head_version, len(prepared.examples))
        if manifest.plan.statistics:
            statistics.check_apart(self._place, prepared.ids, manifest.labels)
            measured = statistics.collect(prepared.examples, manifest, self._report(prepared))
            result: Result | None = replace(measured, marks=statistics.marks(prepared.ids))
        else:
            result = self._train(job, manifest, (model, base), prepared)
        if result is None:
            return TrainerExit.STOPPED
        done = hand_over(self._place, job, manifest, result)
        log.info("update handed over seconds=%.3f", self._spent.seconds)
        if done is TrainerExit.DONE and not manifest.plan.statistics:
            copy = Tuning(
                place=self._place, job=job, manifest=manifest, model=model, examples=prepared.examples
            )
            copy.run(self._should_stop)
        return done

    def _train(
        self, job: Job, manifest: Manifest, start: tuple[TrainableModel, NDArray[np.float32]], on: Prepared
    ) -> Result | None:
        """Train `start`'s model, which holds `start`'s base; None when stopped: a checkpoint holds."""
        model, base = start
        training = HeadTraining(model=model, examples=on.examples, plan=manifest.plan, seed=job.seed)
        own = personal.put_over(self._place, job, manifest, base)
        base_accuracy = checkpoints.begin_or_resume(self._place, job, training, own, self._spent)
        self._spent.measure()

        def on_epoch(_: EpochReport) -> None:
            self._spent.measure()
            if not training.is_done:
                checkpoints.save(self._place, job, training, base_accuracy, self._spent)

        if not training.run(self._should_stop, on_epoch):
            checkpoints.save(self._place, job, training, base_accuracy, self._spent)
            return None
        log.info("trained epochs=%d", training.epoch)
        self._spent.add_head(training)
        back = take_back(self._place, job, manifest)
        told = Result(
            body=b"",
            examples=len(on.examples),
            epochs=training.epoch if training.epoch < manifest.plan.epochs else None,
            accuracy_percent=self._shared_accuracy(base_accuracy, on),
        )
        room = body_room(self._place, job, manifest, told)
        packed = pack(training, base, back.residual, self._arguments.min_per_class, room)
        self._spent.measure()
        return replace(
            told,
            body=packed.body,
            left=TakenBack(residual=packed.residual, counters=back.counters),
            personal=personal.taken_from(model),
            sizes=packed.sizes,
            report={
                **self._report(on),
                "suppressed_classes": list(packed.suppressed_classes),
                "base_accuracy": base_accuracy,
                "epochs": [epoch.as_dict() for epoch in training.reports],
            },
        )

    def _samples(self, job: Job, manifest: Manifest, model: TrainableModel) -> tuple[Job, Prepared]:
        """Load what this job trains on: its own choice of the first start, unless samples were purged."""
        store = SampleStore(self._place.folder.samples)
        if job.epoch != store.epoch:
            job = self._choose_samples(job, store, manifest)
        prepared = self._prepared(job, store, manifest, model)
        if len(prepared.ids) + prepared.skipped < len(job.sample_ids or ()):  # some made room for others
            job = self._choose_samples(job, store, manifest)
            prepared = self._prepared(job, store, manifest, model)
        if prepared.distinct < self._arguments.min_samples:
            raise PrivacyFloor(
                f"{prepared.distinct} distinct samples fit the model, the privacy floor is "
                f"{self._arguments.min_samples} ([privacy] min_samples)"
            )
        return job, prepared

    def _prepared(self, job: Job, store: SampleStore, manifest: Manifest, model: TrainableModel) -> Prepared:
        rows = features(
            self._place.folder,
            model,
            manifest.model.hash,
            at_once=self._arguments.feature_batch,
            should_stop=self._should_stop,
        )
        try:
            return prepare(store.read(job.sample_ids or ()), model, manifest.labels, rows)
        finally:
            self._spent.add_backbone(rows)

    def _choose_samples(self, job: Job, store: SampleStore, manifest: Manifest) -> Job:
        """Fix what this job trains on; if it was fixed before, those samples are gone and it starts over."""
        if job.sample_ids is not None:
            log.warning("samples of this job were purged: it starts over")
        with self._place.owned(job):
            self._place.jobs.fix_samples(
                job, tuple(store.usable(manifest.plan.max_examples, manifest.labels)), store.epoch
            )
        return self._place.jobs.current() or job

    def _report(self, on: Prepared) -> dict[str, object]:
        """What history keeps of every job: stays on the device."""
        return {
            "samples": len(on.examples),
            "skipped": on.skipped,
            "newest_sample": max(on.ids),
            **self._spent.as_dict(),
        }

    def _shared_accuracy(self, base_accuracy: float, on: Prepared) -> int | None:
        if not self._arguments.share_accuracy or len(on.examples) < _MIN_EXAMPLES_FOR_ACCURACY:
            return None
        return min(99, int(100 * base_accuracy))
