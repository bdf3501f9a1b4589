"""Jobs: when the scheduler lets them run, the trainer that runs them, and how it ended."""

from __future__ import annotations

import logging
import os
import signal

from fedclient import session
from fedclient.client.child import Child, describe, end_orphan
from fedclient.config import Config
from fedclient.device.database import open_database
from fedclient.device.folder import DeviceFolder
from fedclient.device.jobs import Job, JobArguments, Jobs, TrainerExit
from fedclient.device.journal import Journal
from fedclient.device.outbox import Row
from fedclient.errors import FedClientError, StorageDamaged
from fedclient.samples.store import SampleStore
from fedclient.scheduler.check import Now
from fedclient.scheduler.history import History
from fedclient.scheduler.policy import Decision, decide
from fedclient.scheduler.probe import Probe
from fedclient.scheduler.profile import UNKNOWN_BOARD
from fedclient.scheduler.readings import Activity, SampleCounts
from fedclient.session import Cause, State
from fedclient.storage import Database
from fedclient.values import HeadVersion

log = logging.getLogger(__name__)

POLL_WHILE_TRAINING_S = 5.0  # a trainer must stop soon after conditions fail
FIRST_BACKOFF_S = 30.0  # after a failed trainer; doubles with each failure
MAX_BACKOFF_S = 3600.0
STOP_GRACE_S = 3.0  # for the trainer at the agent's own end, which takes 5 s at most (daemon.END_S)

# a full disk like unfit samples: a new job later, however often it takes
_CAUSES = {TrainerExit.DATA: Cause.DATA, TrainerExit.DISK: Cause.DATA, TrainerExit.MODEL: Cause.MODEL}


class Work:
    """The device's side of training: it starts and ends trainers, it never trains."""

    def __init__(self, folder: DeviceFolder, config: Config, database: Database) -> None:
        self._folder = folder
        self._config = config
        self._database = database
        self._jobs = Jobs(database)
        self._journal = Journal(database)
        self._probe = Probe(folder.path, profile=UNKNOWN_BOARD)
        self._samples: SampleStore | None = None
        self._history = History()
        self._decision: Decision | None = None
        self._asked_for: object = None  # what was last decided about
        self.child: Child | None = None
        self.failure = ""  # how the last trainer ended, if that was without a result

    # --- deciding -------------------------------------------------------------------------------------
    @property
    def closed_gates(self) -> tuple[str, ...]:
        return () if self._decision is None else self._decision.closed

    @property
    def why_not(self) -> str:
        gates = () if self._decision is None else self._decision.gates
        return "; ".join(gate.sentence for gate in gates if not gate.ok)

    def decide(self, version: HeadVersion | None, now_s: float) -> Decision:
        """Ask the scheduler about a job on this head, with what the machine and the sample store say now."""
        trainer = None if self.child is None else self.child.pid
        activity = Activity(samples=self._counts(version))
        readings = self._probe.read(activity, now_s, trainer)
        now = Now(elapsed_s=now_s)
        decision = decide(readings, self._config.policy, UNKNOWN_BOARD, self._history, now)
        if self._decision is None or decision.closed != self._decision.closed:
            for gate in decision.gates:
                if not gate.ok:
                    log.info("not training: %s", gate.sentence)
        self._decision, self._history = decision, decision.history
        return decision

    def is_news(self, state: State) -> bool:
        """Whether the scheduler was not asked about this yet: an old date for asking does not hold."""
        return self._asked_for != _about(state)

    def next_decision_s(self, state: State, now_s: float) -> float:
        """When to ask the scheduler next: at once about something new, else at its pace."""
        if self.is_news(state):
            begun, self._asked_for = self._asked_for is not None, _about(state)
            if state.failures and begun and not state.running:  # whoever starts an agent wants it to try
                return now_s + min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** min(state.failures - 1, 16))
            if not state.running:
                return now_s
        poll_s = float(self._config.schedule.poll_s)
        return now_s + (min(poll_s, POLL_WHILE_TRAINING_S) if state.running else poll_s)

    def _counts(self, version: HeadVersion | None) -> SampleCounts:
        """Count what can be trained on: rows whose label this head knows."""
        manifest = None if version is None else self._journal.manifest(version)
        labels = () if manifest is None else manifest.labels
        try:
            if self._samples is None:
                self._samples = self._open_samples()
            new = self._samples.new_since(self._journal.counter("settled_sample"), labels)
            return SampleCounts(new=new, distinct=self._samples.distinct(labels))
        except FedClientError as error:
            log.warning("sample store: %s", error)
            if self._samples is not None and isinstance(error, StorageDamaged):
                self._samples.recheck()
            return SampleCounts()

    def _open_samples(self) -> SampleStore:
        """Open the store with the owner's bounds; it keeps them, so that apps obey them too."""
        bounds = self._config.limits
        return SampleStore(
            self._folder.samples,
            max_rows=bounds.samples_max_rows,
            max_bytes=bounds.samples_max_mib << 20,
        )

    # --- jobs in the database (inside the caller's transaction) -----------------------------------------
    def job(self) -> Job | None:
        return self._jobs.current()

    def prepare(self, version: HeadVersion) -> None:
        """Write down a new job, unless one on this head is there to be resumed."""
        job = self._jobs.current()
        if job is None or job.head_version != version:
            self._jobs.new(version, self._config.trainer.threads)

    def drop_job(self) -> None:
        self._jobs.drop()

    def newest_sample(self, counter: int) -> int:
        """Return the highest sample id that update `counter` was trained on."""
        rounds = [one for one in self._journal.rounds() if one.counter == counter]
        newest = rounds[0].report.get("newest_sample", 0) if rounds else 0
        return newest if isinstance(newest, int) else 0

    # --- the child --------------------------------------------------------------------------------------
    def end_orphan(self) -> None:
        """Begin on a sound database, and alone."""
        open_database(self._folder, check=True).close()
        end_orphan(self._database)

    def start(self, version: HeadVersion, now_s: float) -> list[session.Event]:
        """Start a trainer on the prepared job; a machine that cannot start one now is a failed trainer."""
        job = self._jobs.current()
        if job is None or job.head_version != version or self.child is not None:
            return []
        settings, privacy = self._config.trainer, self._config.privacy
        arguments = JobArguments(
            parent=os.getpid(),
            state=str(self._folder.path),
            token=job.token.hex(),
            min_samples=privacy.min_samples,
            min_per_class=privacy.min_per_class,
            share_accuracy=privacy.share_accuracy,
            nice=settings.nice,
            idle=settings.idle,
            memory_mib=settings.memory_mib,
            verbose=log.isEnabledFor(logging.INFO),
        )
        try:
            self.child = Child(arguments, timeout_at_s=now_s + settings.timeout_s)
        except OSError as error:
            self.failure = f"it cannot be started: {error.strerror}"
            log.warning("no trainer: %s", self.failure)
            return [session.Crashed(Cause.CRASH)]
        log.info("training on head %s pid=%d", version, self.child.pid)
        return []

    def ask_to_stop(self, now_s: float) -> None:
        if self.child is not None:
            self.child.ask_to_stop(now_s, self._config.trainer.grace_s)

    def ended(self, unsettled: Row | None) -> list[session.Event]:
        """Clean up after the child, and say what its end means."""
        if self.child is None:
            return []
        code, asked = self.child.finish(), self.child.asked
        self.child, self.failure = None, ""
        if unsettled is not None:  # whatever the exit code: the transaction is what counts
            return [session.Finished(unsettled.counter)]
        if code == TrainerExit.STOPPED or (asked and code == -signal.SIGTERM):  # it had only just begun
            return [session.Stopped()]
        self.failure = describe(code)
        log.warning("the trainer ended without a result: %s", self.failure)
        job = self._jobs.current()
        cause = next((cause for exit_, cause in _CAUSES.items() if exit_ == code), Cause.CRASH)
        events: list[session.Event] = [session.Crashed(cause)]
        if code == TrainerExit.LOST and job is not None:
            self._set_damage_aside()
            events.append(session.HeadLost(job.head_version))
        return events

    def _set_damage_aside(self) -> None:
        """Read every page of what the trainer reads: the agent's own questions may touch no bad one."""
        open_database(self._folder, check=True).close()
        try:
            self._samples = self._samples or self._open_samples()
            self._samples.recheck()
        except FedClientError as error:
            log.warning("sample store: %s", error)

    def stop_and_wait(self) -> None:
        """End the trainer, politely as long as the grace time lasts, and who waits for this process."""
        if self.child is None:
            return
        self.child.stop(min(self._config.trainer.grace_s, STOP_GRACE_S))
        self.child = None


def _about(state: State) -> tuple[object, ...]:
    """What a decision is about."""
    return state.running, state.job or state.current, state.failures
