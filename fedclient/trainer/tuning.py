"""A copy of the adopted head, tuned for this device's app alone (`[adoption] personal = "finetune"`).

It is made when a job's update is handed over: training goes on from the weights the job came to, all
tensors, and what comes of it is kept beside the adopted head (`device/tuned.py`) if it is not worse than
that on the device's hold-out (`training/verdict.py`, with no margin).  Nothing of it is sent, and one
that is cut short has changed nothing.  The update is safe before it begins, but is published when this
process has ended: the agent believes an end, not a word.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from fedclient.device.jobs import Job
from fedclient.device.judgement import Judgements
from fedclient.device.slots import Slots, model_file
from fedclient.device.tuned import Tuned, TunedHead
from fedclient.errors import FedClientError
from fedclient.runtime import TrainableModel
from fedclient.samples.store import SampleStore
from fedclient.trainer.loading import AskedToStop, features
from fedclient.trainer.workplace import Workplace
from fedclient.training.dataset import prepare
from fedclient.training.loop import Examples, HeadTraining
from fedclient.training.verdict import decide, measure
from fedclient.values import Manifest, Verdict

log = logging.getLogger(__name__)

_ADOPTED_WITHIN_S, _LOOK_S = 5.0, 0.05


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """One copy for the app, made from the weights that `model` holds: those that `job` came to."""

    place: Workplace
    job: Job
    manifest: Manifest
    model: TrainableModel
    examples: Examples

    def run(self, should_stop: Callable[[], bool]) -> bool:
        """Tune; True when the copy is kept.

        It never fails: the update is in the outbox, and what goes wrong here is only said.
        """
        epochs = self.place.arguments.finetune_epochs
        try:
            self._forget()
            held = self._held_out(should_stop) if epochs else None
            if held is None:
                return False
            # without FedProx's pull: this copy never goes back to the global head
            plan = replace(self.manifest.plan, epochs=epochs, mu=0.0)
            seed = self.job.seed + 1  # another order than the job's
            training = HeadTraining(model=self.model, examples=self.examples, plan=plan, seed=seed)
            done = training.run(should_stop, lambda _: None) and self._wait_for_agent(should_stop)
            return done and self._keep_if_not_worse(held)
        except AskedToStop:
            return False
        except FedClientError as error:
            log.warning("no copy tuned: %s", error)
            return False

    def _held_out(self, should_stop: Callable[[], bool]) -> Examples | None:
        """Return what to judge the copy on, or None when that is too little to tell."""
        arguments, labels = self.place.arguments, self.manifest.labels
        store = SampleStore(self.place.folder.samples)
        ids = store.usable(self.manifest.plan.max_examples, labels, holdout=True)
        if len(ids) >= arguments.min_judged:
            rows = features(
                self.place.folder,
                self.model,
                self.manifest.model.hash,
                at_once=arguments.feature_batch,
                should_stop=should_stop,
            )
            held = prepare(store.read(ids), self.model, labels, rows).examples
            if len(held) >= arguments.min_judged:
                return held
        log.info(
            "no copy tuned: fewer than %d held-out samples to judge it on ([adoption] min_samples)",
            arguments.min_judged,
        )
        return None

    def _forget(self) -> None:
        """Let go of a copy that was tuned on samples which are purged, or that nobody wants any more."""
        copies = TunedHead(self.place.folder.current)
        before = copies.stored()
        wanted = self.place.arguments.finetune_epochs > 0
        if before is not None and not (wanted and before.samples_epoch == self.job.epoch):
            copies.remove()

    def _wait_for_agent(self, should_stop: Callable[[], bool]) -> bool:
        """Wait until the agent has read this trainer's own verdict and apps have the head; False: stop.

        The agent looks once a second: without waiting, a copy made in less would be of the head before.
        """
        version = self.manifest.head_version
        told = Judgements(self.place.database).load()
        if told is None or told.judgement.head_version != version:
            return True
        slots, until_s = Slots(self.place.folder.current), time.monotonic() + _ADOPTED_WITHIN_S
        while told.judgement.verdict is not Verdict.KEPT_PREVIOUS and time.monotonic() < until_s:
            active = slots.active()
            if active is not None and active.version == version:
                break
            if should_stop():
                return False
            time.sleep(_LOOK_S)
        return True

    def _keep_if_not_worse(self, held: Examples) -> bool:
        slot, _, adopted = Slots(self.place.folder.current).read()
        if slot.model_file != model_file(self.manifest):
            log.info("no copy tuned: the adopted head %s is of another model", slot.version)
            return False
        if slot.labels != self.manifest.labels:  # apps would read this copy's answers by that head's list
            log.info("no copy tuned: the adopted head %s has other labels", slot.version)
            return False
        head, ours = self.model.get_weights(), measure(self.model, held)
        self.model.set_weights(np.frombuffer(adopted, "<f4").astype(np.float32))
        theirs = measure(self.model, held)
        verdict, why = decide(ours, theirs, self.model.classes, margin=0.0)
        kept = verdict is Verdict.ADOPTED and self._samples_are_there()
        log.info("tuned copy of head %s %s: %s", slot.version, "kept" if kept else "not kept", why)
        if kept:
            data = head.astype("<f4").tobytes()
            about = Tuned(
                generation=slot.version.generation,
                version=slot.version.version,
                adopted_sha256=slot.head_sha256,
                head_sha256=hashlib.sha256(data).hexdigest(),
                samples_epoch=self.job.epoch or 0,
                holdout=len(held),
                accuracy=ours.accuracy,
                adopted_accuracy=theirs.accuracy,
            )
            copies = TunedHead(self.place.folder.current)
            copies.save(about, data)
            if not self._samples_are_there():  # a purge came in between, and found nothing to remove
                copies.remove()
        return kept

    def _samples_are_there(self) -> bool:
        return SampleStore(self.place.folder.samples).epoch == self.job.epoch
