"""Which of the heads that were fetched apps get: when one is judged, and what follows from the verdict.

A child judges (`trainer/judge.py`), and puts the head together first, as soon as nothing that protects the
machine speaks against it; a verdict that was written down while nobody looked is found at the next start.
"""

from __future__ import annotations

import logging

from fedclient import session
from fedclient.client.conditions import KEEPS_JUDGES_BACK
from fedclient.client.work import FIRST_BACKOFF_S, MAX_BACKOFF_S, POLL_WHILE_TRAINING_S, Work
from fedclient.config import Config
from fedclient.device.blobs import Blobs
from fedclient.device.folder import DeviceFolder
from fedclient.device.journal import Journal
from fedclient.device.judgement import Judgements, Told
from fedclient.device.personal import PersonalLayer
from fedclient.device.slots import Slots
from fedclient.device.tuned import TunedHead
from fedclient.errors import StorageDamaged
from fedclient.session import State
from fedclient.storage import Database
from fedclient.values import HeadVersion, Manifest, Verdict

log = logging.getLogger(__name__)


class Adoption:
    """From a head that is whole to `current/`."""

    def __init__(self, folder: DeviceFolder, config: Config, database: Database, work: Work) -> None:
        self._config = config
        self._database = database
        self._work = work
        self._journal = Journal(database)
        self._judgements = Judgements(database)
        self._blobs = Blobs(folder.blobs)
        self._slots = Slots(folder.current)
        self._tuned = TunedHead(folder.current)
        self._held_back = ""  # why no judge was started the last time

    # --- when -------------------------------------------------------------------------------------------
    def next_s(self, state: State, now_s: float) -> float | None:
        """Return when to look after judging next; None: there is nothing to judge, so never."""
        if state.judging is not None and not state.running:
            return now_s + POLL_WHILE_TRAINING_S
        if not state.may_judge:
            return None
        if state.strikes:
            return now_s + float(min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** (state.strikes - 1)))
        return now_s + (self._work.conditions.policy.poll_s if self._held_back else 0.0)

    def look(self, state: State, now_s: float) -> session.Event | None:
        """Return what is to be done about the head that there is no verdict on; None: nothing now."""
        head = state.judging or state.to_judge
        if head is None or state.running:
            return None
        why = self._work.conditions.held_back(self._work.doing(state), now_s, KEEPS_JUDGES_BACK)
        if state.judging is not None:
            self._work.guard_memory()
            return session.Ineligible() if why else None
        if why and not self._held_back:
            log.info("head %s is not judged now: %s", head, why)
        self._held_back = why
        return None if why else session.Calm()

    # --- what -------------------------------------------------------------------------------------------
    def last(self) -> Told | None:
        """Return the last judgement."""
        return self._judgements.load()

    def tell(self, version: HeadVersion) -> Told | None:
        """Log what became of a head, and return it."""
        told = self.last()
        if told is None or told.judgement.head_version != version:
            return None
        if told.judgement.verdict is Verdict.KEPT_PREVIOUS:
            slot = self._slots.active()
            used = "no head" if slot is None else str(slot.version)
            log.warning("head %s is not adopted, apps go on with %s: %s", version, used, told.why)
        else:
            how = "adopted" if told.judgement.verdict is Verdict.ADOPTED else "adopted unjudged"
            log.info("head %s is %s: %s", version, how, told.why)
        return told

    def adopt(self, version: HeadVersion) -> None:
        """Make this head, with the device's personal layer, the one that apps predict with.

        Raises StorageDamaged when it is neither in use nor stored as it was fetched.
        """
        if not self._config.adoption.tuned_epochs:
            self._tuned.remove()  # of an owner who wants it no longer
        manifest = self._journal.manifest(version)
        if manifest is not None and self._slots.is_active(manifest):
            return
        if manifest is None:
            raise StorageDamaged(f"the manifest of head {version} is damaged: it will be fetched again")
        model, epoch = self._blobs.read(manifest.model), self._work.conditions.samples_epoch()
        self._slots.adopt(manifest, model, self._head(manifest))
        if self._work.conditions.samples_epoch() != epoch:  # a purge came, too soon to find the layer in it
            self._slots.adopt(manifest, model, self._head(manifest))
            self._slots.forget_previous()

    def fall_back(self, bad: HeadVersion) -> None:
        """Let apps predict with the head before `bad`, which this device cannot run."""
        before, slot = self._slots.active(), self._slots.fall_back(bad)
        if slot != before or slot is None or slot.version == bad:  # else it is done, before a power cut
            used = "none" if slot is None else slot.version
            log.error("head %s cannot be trained here; apps use %s", bad, used)

    def _head(self, manifest: Manifest) -> bytes:
        """Return a head as apps get it: with this device's personal layer."""
        head = self._blobs.read(manifest.head)
        epoch = self._work.conditions.samples_epoch()
        return head if epoch is None else PersonalLayer(self._database).over(head, manifest, epoch)
