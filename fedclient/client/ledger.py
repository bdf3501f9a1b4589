"""One step, one commit: the new state with all that its actions change in the database."""

from __future__ import annotations

import logging

from fedclient import session
from fedclient.client.heads import Came
from fedclient.client.link import Link
from fedclient.client.reports import Reports
from fedclient.client.work import Work
from fedclient.device.journal import Journal
from fedclient.device.judgement import Judgements, Told
from fedclient.device.outbox import Outbox
from fedclient.device.residual import Residual
from fedclient.errors import StorageDamaged
from fedclient.session import Action, Outcome, State
from fedclient.storage import Database
from fedclient.values import Judgement, Manifest, Reason, Receipt, Verdict

log = logging.getLogger(__name__)

# the verified message that an event was made from; of a head that is ready, what it took
Evidence = Manifest | Receipt | Came | None


class Ledger:
    """The agent's way to the device database."""

    def __init__(self, database: Database, work: Work, reports: Reports) -> None:
        self._database = database
        self._work = work
        self._reports = reports
        self.journal = Journal(database)
        self.outbox = Outbox(database)
        self._judgements = Judgements(database)

    def take_up(self) -> tuple[State, session.Restarted]:
        """Return what was saved last, and what became of outbox, job and verdict since."""
        self._drop_damaged_update()
        unsettled, job, told = self.outbox.unsettled(), self._work.job(), self._judgements.load()
        return self.journal.load_state(), session.Restarted(
            unsettled=None if unsettled is None else unsettled.counter,
            unsettled_base=None if unsettled is None else unsettled.head_version,
            job=None if job is None else job.head_version,
            judgement=None if told is None else told.judgement,
        )

    def commit(
        self, states: tuple[State, State], actions: tuple[Action, ...], evidence: Evidence, link: Link | None
    ) -> None:
        """Commit the step from the first to the second of `states`; raises StorageError, TransientError."""
        before, after = states
        if before == after and not actions:
            return
        with self._work.conditions.transaction():
            if isinstance(evidence, Manifest) and after.wanted == evidence.head_version:
                needed = (after.current, after.wanted, after.job, after.judging, after.adopted)
                self.journal.save_manifest(evidence, keep=needed)
            if isinstance(evidence, Came):
                self.journal.add("head_bytes", evidence.bytes)
                self.journal.add("head_bytes_saved", evidence.saved)
            for action in actions:
                self._carry_out(action, evidence, link)
            if before != after:
                self.journal.save_state(after)

    def _carry_out(self, action: Action, evidence: Evidence, link: Link | None) -> None:
        match action:
            case session.Publish(counter):
                self.outbox.mark_published(counter)
                self._count_update(counter, link)
            case session.GiveUpJudging(version):
                judgement = Judgement(head_version=version, verdict=Verdict.KEPT_PREVIOUS)
                self._judgements.save(Told(judgement=judgement, why="no judge came to a verdict on it"))
            case session.DropJob():
                self._work.drop_job()
            case session.Train(version):
                self._work.prepare(version)
            case session.Settle():
                self._settle(action, evidence)
                self._reports.count_traffic(link)

    def _count_update(self, counter: int, link: Link | None) -> None:
        """Count the bytes before they go: a kill right after that has counted them too."""
        row = self.outbox.unsettled()
        if row is not None and row.counter == counter and link is not None and link.connected:
            self._work.conditions.update_goes(link.update_bytes(row.envelope))

    def _settle(self, action: session.Settle, evidence: Evidence) -> None:
        """Mark the row and remember; the next trainer does the arithmetic (PROTOCOL 5.2)."""
        self.outbox.settle(action.counter, action.outcome)
        if action.outcome is Outcome.REFUSED:
            log.warning("residual reset: update %d was refused", action.counter)
            Residual(self._database).reset()
        if isinstance(evidence, Receipt) and evidence.reason is Reason.CONFLICT:
            self.journal.raise_to("updates", evidence.last_counter)
        self.journal.add(f"rounds_{action.outcome.value}")
        self.journal.record_receipt(action.counter, action.outcome.value, action.reason.name.lower())
        self.journal.raise_to("settled_sample", self._work.newest_sample(action.counter))
        self._work.conditions.job_settled(self._work.update_bytes(action.counter))

    def _drop_damaged_update(self) -> None:
        """Give up an update that cannot be sent as it was signed, say so, and go on."""
        try:
            self.outbox.unsettled()
        except StorageDamaged as error:
            log.error("%s", error)
            with self._database.transaction():
                self.outbox.drop_damaged()
                self.journal.add("damaged_updates")
