"""Jobs: when the scheduler lets them run, the trainer that runs them, and how it ended."""

from __future__ import annotations

import logging
import os
import selectors
import signal
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import Any

from fedclient import session
from fedclient.client.child import Arguments, Child, describe, end_orphan
from fedclient.client.conditions import SAVE_S, Conditions, Doing, closed_sentences
from fedclient.config import Config
from fedclient.device.blobs import Blobs
from fedclient.device.database import open_database
from fedclient.device.folder import DeviceFolder
from fedclient.device.jobs import Job, JobArguments, Jobs, TrainerExit
from fedclient.device.journal import Journal
from fedclient.device.judgement import JudgeArguments, Judgements
from fedclient.device.outbox import Outbox, Row
from fedclient.errors import FedClientError
from fedclient.scheduler.policy import Decision
from fedclient.session import Cause, State
from fedclient.storage import Database
from fedclient.values import Command, CommandKind, HeadVersion

log = logging.getLogger(__name__)

POLL_WHILE_TRAINING_S = 1.0  # a trainer must have stopped 3 s after conditions failed; load needs two looks
FIRST_BACKOFF_S = 30.0  # after a failed trainer; doubles with each failure
MAX_BACKOFF_S = 3600.0
_COMMAND = "command"  # the counter that holds the highest sequence of the gateway's commands
STOP_GRACE_S = 3.0  # for the trainer at the agent's own end, which takes 5 s at most (daemon.END_S)

# a full disk like unfit samples: a new job later, however often it takes
_CAUSES = {TrainerExit.DATA: Cause.DATA, TrainerExit.DISK: Cause.DATA, TrainerExit.MODEL: Cause.MODEL}


class Work:
    """The device's side of training: it starts and ends trainers, it never trains."""

    def __init__(
        self, folder: DeviceFolder, config: Config, database: Database, root: Path = Path("/")
    ) -> None:
        self._folder = folder
        self._config = config
        self._database = database
        self._jobs = Jobs(database)
        self._journal = Journal(database)
        self._judgements = Judgements(database)
        self.conditions = Conditions(folder, config, database, root=root)
        self._blobs = Blobs(folder.blobs)
        self._trainer = config.trainer_on(self.conditions.profile)
        self.begin: Callable[[Arguments, float], Child] = Child
        self._saved_s = 0.0
        self._asked_for: object = None  # what was last decided about
        self.child: Child | None = None
        self.failure = ""  # how the last trainer ended, if that was without a result
        self._judges: HeadVersion | None = None  # the head that the child shall come to a verdict on
        self.is_not_made: Callable[[HeadVersion, int, float], bool] = lambda *_: False  # see `Heads`

    # --- deciding -------------------------------------------------------------------------------------
    @property
    def closed_gates(self) -> tuple[str, ...]:
        decision = self.conditions.decision
        return () if decision is None else decision.closed

    @property
    def why_not(self) -> str:
        return "; ".join(closed_sentences(self.conditions.decision))

    def decide(self, state: State, now_s: float) -> Decision:
        """Ask the scheduler about the job in hand, or about one on the current head."""
        conditions = self.conditions
        decision = conditions.decide(self.doing(state), now_s)
        if self.child is not None:
            self.guard_memory()
            # while the supply sags nothing is written that can wait
            if now_s - self._saved_s >= SAVE_S and "supply" not in decision.closed:
                self.save()
                self._saved_s = now_s
        return decision

    def doing(self, state: State) -> Doing:
        """Say what a decision is about."""
        return Doing(
            head=state.job or state.current,
            trainer_pid=None if self.child is None else self.child.pid,
            resuming=state.job is not None,
        )

    def obey(self, command: Command, now_s: float) -> bool:
        """Carry out a command of the gateway and remember it; False for one that was followed before."""
        if command.sequence <= self._journal.counter(_COMMAND):
            return False
        if command.kind is CommandKind.PAUSE:
            self.conditions.pause("gateway", command.seconds, now_s)
        else:
            self.conditions.resume("gateway")
        with self.conditions.transaction():
            self._journal.raise_to(_COMMAND, command.sequence)
        return True

    def forget_gateway(self) -> None:
        """Begin anew with another gateway: the old one's pause and its count of commands mean nothing."""
        self.conditions.resume("gateway")
        with self.conditions.transaction():
            self._journal.clear(_COMMAND)

    def save(self) -> None:
        """Save what the scheduler remembers."""
        if self.conditions.changed:
            with self.conditions.transaction():
                pass

    def close(self) -> None:
        """End in good order, on a disk that fails as well."""
        with suppress(FedClientError):  # what was spent is worth a try, not a crash
            self.save()
        self.conditions.close()

    def guard_memory(self) -> None:
        """End a child beyond its bound: the kernel's own limits are off on a stock Raspberry Pi OS."""
        bound_mib, used_mib = self._trainer.memory_mib, self.conditions.readings.activity.trainer_memory_mib
        if self.child is not None and bound_mib is not None and used_mib > bound_mib:
            log.error("the trainer uses %.0f MiB, [trainer] memory_mib is %d: ended", used_mib, bound_mib)
            self.child.kill()

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
        return now_s + (POLL_WHILE_TRAINING_S if state.running else self.conditions.sleep_s())

    # --- jobs in the database (inside the caller's transaction) -----------------------------------------
    def job(self) -> Job | None:
        return self._jobs.current()

    def prepare(self, version: HeadVersion) -> None:
        """Write down a new job, unless one on this head is there to be resumed."""
        job = self._jobs.current()
        if job is None or job.head_version != version:
            bound = self.conditions.update_may_have(version)
            self._jobs.new(version, self._trainer.threads or 1, max_update_bytes=bound)
            self.conditions.job_begins()

    def drop_job(self) -> None:
        self._jobs.drop()

    def newest_sample(self, counter: int) -> int:
        """Return the highest sample id that update `counter` was trained on."""
        return _whole(self._report(counter).get("newest_sample"))

    def update_bytes(self, counter: int) -> int:
        """Return how large update `counter` was as it was sent."""
        sizes = self._report(counter).get("bytes")
        return _whole(sizes.get("sealed")) if isinstance(sizes, dict) else 0

    def _report(self, counter: int) -> dict[str, object]:
        """Return what the trainer said of an update; a damaged report has nothing to say."""
        return next((one.report for one in self._journal.rounds() if one.counter == counter), {})

    # --- the child --------------------------------------------------------------------------------------
    def end_orphan(self) -> None:
        """Begin on a sound database, and alone."""
        open_database(self._folder, check=True).close()
        end_orphan(self._database)
        self.conditions.take_up()

    def start(self, order: session.Train, now_s: float) -> list[session.Event]:
        """Start a trainer on the prepared job; a machine that cannot start one now is a failed trainer."""
        job = self._jobs.current()
        if job is None or job.head_version != order.version or self.child is not None:
            return []
        privacy, adoption = self._config.privacy, self._config.adoption
        arguments = JobArguments(
            token=job.token.hex(),
            min_samples=privacy.min_samples,
            min_per_class=privacy.min_per_class,
            share_accuracy=privacy.share_accuracy,
            judges=order.judges,
            margin=adoption.margin,
            min_judged=adoption.min_samples,
            finetune_epochs=adoption.tuned_epochs,
            **self._terms(),
        )
        child = self._begin(arguments, now_s)
        if child is None:
            ended = order.version, int(TrainerExit.CRASHED)
            return self._failed(ended, session.Crashed(Cause.CRASH), now_s)
        self._judges = order.version if order.judges else None
        self.conditions.trainer_starts(now_s)
        self._saved_s = -inf  # that it runs is saved at the first look
        log.info("training on head %s pid=%d", order.version, child.pid)
        return []

    def start_judge(self, version: HeadVersion, now_s: float) -> list[session.Event]:
        """Start a child that only judges; one that cannot be started has failed."""
        if self.child is not None:
            return []
        arguments = JudgeArguments(
            head=(version.generation, version.version),
            margin=self._config.adoption.margin,
            min_judged=self._config.adoption.min_samples,
            threads=self._trainer.threads or 1,
            **self._terms(),
        )
        child = self._begin(arguments, now_s)
        if child is None:
            return self._failed((version, TrainerExit.CRASHED), session.JudgeEnded(Cause.CRASH), now_s)
        self._judges = version
        log.info("judging head %s pid=%d", version, child.pid)
        return []

    def _terms(self) -> dict[str, Any]:
        """Return what is the same for every child."""
        return {
            "parent": os.getpid(),
            "state": str(self._folder.path),
            "nice": self._trainer.nice,
            "idle": self._trainer.idle,
            "memory_mib": self._trainer.memory_mib,
            "feature_batch": self.conditions.profile.feature_batch,
            "verbose": log.isEnabledFor(logging.INFO),
        }

    def _begin(self, arguments: Arguments, now_s: float) -> Child | None:
        self._blobs.sweep()  # what a child that was killed has left: no other one writes there
        try:
            self.child = self.begin(arguments, now_s + self._trainer.timeout_s)
        except OSError as error:
            self.failure = f"it cannot be started: {error.strerror}"
            log.warning("no trainer: %s", self.failure)
        return self.child

    def verdict(self) -> list[session.Event]:
        """Return the verdict that the child was to come to, once, as soon as it is written down."""
        told = None if self._judges is None else self._judgements.load()
        if told is None or told.judgement.head_version != self._judges:
            return []
        self._judges = None
        return [session.Judged(told.judgement.head_version, told.judgement.verdict)]

    def interests(self) -> dict[int, int]:
        """Wake up when the trainer is gone."""
        return {} if self.child is None else {self.child.gone_descriptor: selectors.EVENT_READ}

    def service(self, ready: Collection[int], outbox: Outbox, now_s: float) -> list[session.Event]:
        """Look after the trainer: one that is gone leaves events, one that hangs is ended."""
        child = self.child
        if child is not None and child.gone_descriptor in ready:
            return self.ended(outbox.unsettled(), now_s)
        if child is not None and now_s >= child.kill_at_s:
            child.kill()
        return []

    def ask_to_stop(self, now_s: float) -> None:
        """End the trainer: politely, or at once and without a checkpoint while the supply sags."""
        if self.child is None:
            return
        if "supply" in self.closed_gates:
            self.child.cut_off()
        else:
            self.child.ask_to_stop(now_s, self._trainer.grace_s)

    def ended(self, unsettled: Row | None, now_s: float) -> list[session.Event]:
        """Clean up after the child, and say what its end means."""
        if self.child is None:
            return []
        only_judged, stopped = self.child.only_judges, self.child.was_cut_off
        code, asked = self.child.finish(), self.child.asked
        # asked when it had only just begun
        stopped = stopped or code == TrainerExit.STOPPED or (asked and code == -signal.SIGTERM)
        verdict, judged = self.verdict(), self._judges
        self.child, self.failure, self._judges = None, "", None
        if only_judged:
            return verdict or self._judge_ended((judged, code), now_s, stopped=stopped)
        self.conditions.trainer_ended(now_s)
        if unsettled is not None:  # whatever the exit code: the transaction is what counts
            return [*verdict, session.Finished(unsettled.counter)]
        if stopped:
            return [*verdict, session.Stopped()]
        self.failure = describe(code)
        log.warning("the trainer ended without a result: %s", self.failure)
        job = self._jobs.current()
        head = None if job is None else job.head_version
        return [*verdict, *self._failed((head, code), session.Crashed(_cause(code)), now_s)]

    def _judge_ended(
        self, ended: tuple[HeadVersion | None, int], now_s: float, *, stopped: bool
    ) -> list[session.Event]:
        """Say what the end of a child that only judged means, without a verdict."""
        if stopped:
            return [session.JudgeEnded(None)]
        log.warning("judging ended without a verdict: %s", describe(ended[1]))
        return self._failed(ended, session.JudgeEnded(_cause(ended[1])), now_s)

    def _failed(
        self, ended: tuple[HeadVersion | None, int], event: session.Event, now_s: float
    ) -> list[session.Event]:
        """Return what the end of a child that failed on this head means for the head as well."""
        head, code = ended
        if head is None:
            return [event]
        if code == TrainerExit.LOST:
            self._set_damage_aside()
        if self.is_not_made(head, code or TrainerExit.CRASHED, now_s):
            self.failure = ""  # it is the head's, and told as that
            return [session.HeadLost(head), event]  # in this order it is no strike: `Heads` counts
        return [event, session.HeadLost(head)] if code == TrainerExit.LOST else [event]

    def _set_damage_aside(self) -> None:
        """Read every page of what the trainer reads: the agent's own questions may touch no bad one."""
        open_database(self._folder, check=True).close()
        self.conditions.take_up()
        self.conditions.recheck_samples()

    def stop_and_wait(self, now_s: float) -> None:
        """End the trainer, politely as long as the grace time lasts, and who waits for this process."""
        if self.child is None:
            return
        begun_s = time.monotonic()
        trained = not self.child.only_judges
        self.child.stop(min(self._trainer.grace_s, STOP_GRACE_S))
        self.child = None
        if trained:
            self.conditions.trainer_ended(now_s + time.monotonic() - begun_s)


def _about(state: State) -> tuple[object, ...]:
    """What a decision is about."""
    return state.running, state.job or state.current, state.failures, state.judging is None


def _cause(code: int) -> Cause:
    return next((cause for exit_, cause in _CAUSES.items() if exit_ == code), Cause.CRASH)


def _whole(found: object) -> int:
    return found if isinstance(found, int) else 0
