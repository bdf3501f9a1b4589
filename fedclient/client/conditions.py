"""Whether this is a good moment: what the machine says, what owner and gateway asked, what was spent.

The policy is pure; this is its edge.  It keeps the history, and device time with it, and has them
committed together with whatever the agent commits next (`save`).
"""

from __future__ import annotations

import ipaddress
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from math import inf
from pathlib import Path
from typing import TypeVar

from fedclient import boards
from fedclient.client import allowance
from fedclient.client.clock import DeviceClock, boot_id, minute_of_week
from fedclient.config import Config
from fedclient.device import schedule
from fedclient.device.folder import DeviceFolder
from fedclient.device.journal import Journal
from fedclient.errors import ConfigError, FedClientError, StorageDamaged
from fedclient.samples.store import SampleStore
from fedclient.scheduler.check import Now
from fedclient.scheduler.history import ClockMark, Cost, History
from fedclient.scheduler.policy import Decision, decide, sleep_s
from fedclient.scheduler.probe import Probe
from fedclient.scheduler.probe_usage import written_bytes
from fedclient.scheduler.readings import Activity, Readings, SampleCounts
from fedclient.scheduler.timing import watts
from fedclient.storage import Database
from fedclient.values import HeadVersion, Manifest

log = logging.getLogger(__name__)

T = TypeVar("T")

# gates; the others are about training
KEEPS_FETCHES_BACK = frozenset({"supply", "network", "metered", "traffic", "disk"})
KEEPS_JUDGES_BACK = frozenset({"supply", "temperature", "throttling", "memory", "disk"})
RECEIPT_BYTES = 1024  # and the headers of both messages
SAVE_S = 60.0  # how often is saved what a training has spent: a kill or power cut counts as much
FETCH_LOOK_S = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Doing:
    """What the agent is about to judge: the head a job is, or would be, on; and the job."""

    head: HeadVersion | None = None
    trainer_pid: int | None = None
    resuming: bool = False


class Conditions:
    """The scheduler's edge in the agent; `fedclient why` uses it alone."""

    def __init__(
        self, folder: DeviceFolder, config: Config, database: Database, *, root: Path = Path("/")
    ) -> None:
        self._folder = folder
        self._limits = config.limits
        self._holdout = config.adoption.holdout
        self._database = database
        self._journal = Journal(database)
        self.profile = boards.here(root)
        self.policy = config.policy_on(self.profile)
        self._probe = Probe(
            folder.path, root=root, profile=self.profile, power=config.power, own_gate=self.policy.gate
        )
        self._samples: SampleStore | None = None
        self._counted: tuple[object, SampleCounts] = (None, SampleCounts())
        self._boot_id = boot_id()
        self._history = History()
        self._clock: DeviceClock | None = None
        self._now = ClockMark(0.0, self._boot_id, 0.0, None)
        self._saved: History | None = self._history  # None: nobody knows what is stored
        self._accounted_s: float | None = None  # boot time up to which a training was paid for
        self._lost: ClockMark | None = None  # since when an agent that was killed had not paid
        self._written_bytes = self._written(None)
        self.traffic_bytes: Callable[[], int] = lambda: 0  # of the link that there is now
        self._traffic_bytes = 0
        self._job = Cost()  # of the job in hand, so far
        self._held_back: dict[frozenset[str], tuple[float, str]] = {}  # when that was asked, and the answer
        self.readings = Readings()
        self.decision: Decision | None = None
        self.decided_unix_s: float | None = None  # when that was, where the wall clock was right
        self.broker_is_local = False

    def take_up(self) -> None:
        """Begin from what was saved last; after a failing disk the database may be a new one: save again."""
        if self._clock is not None:
            self._saved = None
        self.recall()

    def recall(self) -> DeviceClock:
        """Take up what was saved last, once; before, the database may not have been checked."""
        if self._clock is None:
            self._saved, mark = schedule.load(self._database)
            self._history, self._clock = (
                replace(self._saved, training=False),
                DeviceClock(mark, self._boot_id),
            )
            self._lost = mark if self._saved.training else None
        return self._clock

    # --- deciding -------------------------------------------------------------------------------------
    def decide(self, doing: Doing, now_s: float) -> Decision:
        """Read everything and judge; what this costs so far is accounted for first."""
        decision = self._judge(doing, now_s)
        if self.decision is None or decision.closed != self.decision.closed:
            for gate in decision.gates:
                if not gate.ok:
                    log.info("not training: %s", gate.sentence)
        self.decision, self._history = decision, decision.history
        self.decided_unix_s = self._now.unix_s
        return decision

    def held_back(self, doing: Doing, now_s: float, gates: frozenset[str] = KEEPS_FETCHES_BACK) -> str:
        """Return why nothing should be done now that these gates keep back; empty when all is well.

        Of fetches it is asked at every chunk, and looks again once a second.
        """
        asked_s, why = self._held_back.get(gates, (-inf, ""))
        if not 0 <= now_s - asked_s < FETCH_LOOK_S:
            closed = [one for one in self._judge(doing, now_s).gates if one.name in gates and not one.ok]
            why = "; ".join(one.sentence for one in closed)
            self._held_back[gates] = now_s, why
        return why

    def _judge(self, doing: Doing, now_s: float) -> Decision:
        self.look(doing, now_s)
        policy = allowance.applied(self.policy, self._limits, self._manifest(doing))
        return decide(self.readings, policy, self.profile, self._history, self.now)

    def _manifest(self, doing: Doing) -> Manifest | None:
        return None if doing.head is None else self._journal.manifest(doing.head)

    def look(self, doing: Doing, now_s: float) -> None:
        """Read everything, and account for what was spent since the last look."""
        activity = Activity(
            resuming=doing.resuming,
            broker_is_local=self.broker_is_local,
            samples=self._counts(doing),
            update_needs_bytes=float(allowance.needed(self._manifest(doing))),
        )
        self.readings = self._probe.read(activity, now_s, doing.trainer_pid)
        self.count_traffic(now_s)
        self._account(now_s, doing.trainer_pid)

    @property
    def now(self) -> Now:
        """Device time of the last look, and the local time where the clock is right."""
        return Now(elapsed_s=self._now.elapsed_s, minute_of_week=minute_of_week(self._now.unix_s))

    def _tick(self, now_s: float) -> None:
        unix_s = time.time() if self.readings.clock_synchronised.value else None
        now_s = max(now_s, self._now.boot_s)  # an older moment would make the next start's clock fast
        elapsed_s = self.recall().elapsed_s(now_s, unix_s)
        self._now = ClockMark(max(elapsed_s, self._now.elapsed_s), self._boot_id, now_s, unix_s)

    def _counts(self, doing: Doing) -> SampleCounts:
        """Count before a job; while one runs, again only when samples were purged."""
        before, counts = self._counted
        if doing.trainer_pid is None or before != (doing.head, self.samples_epoch()):
            counts = self.count(doing.head)
            self._counted = (doing.head, self.samples_epoch()), counts
        return counts

    def samples_epoch(self) -> int | None:
        """Return which samples ids speak of now; None where the store cannot be read."""
        try:
            return self._store().epoch
        except FedClientError:  # `count` says what is wrong
            return None

    def count(self, version: HeadVersion | None) -> SampleCounts:
        """Count what can be trained on: rows whose label this head knows."""
        manifest = None if version is None else self._journal.manifest(version)
        labels = () if manifest is None else manifest.labels

        def counts(store: SampleStore) -> SampleCounts:
            new = store.new_since(self._journal.counter("settled_sample"), labels)
            return SampleCounts(new=new, distinct=store.distinct(labels))

        return self._asked(counts) or SampleCounts()

    def labelled(self, labels: Sequence[str]) -> int | None:
        """Count the rows that a head with these labels can be judged on; None where nobody can tell."""
        return self._asked(lambda store: store.labelled(labels))

    def _asked(self, question: Callable[[SampleStore], T]) -> T | None:
        """Ask the sample store; None, and a line in the log, when it cannot be read."""
        try:
            return question(self._store())
        except FedClientError as error:
            log.warning("sample store: %s", error)
            if self._samples is not None and isinstance(error, StorageDamaged):
                self._samples.recheck()
            return None

    def recheck_samples(self) -> None:
        """Read every page of the sample store: the agent's own questions may touch no bad one."""
        try:
            self._store().recheck()
        except FedClientError as error:
            log.warning("sample store: %s", error)

    def _store(self) -> SampleStore:
        """Open the store with the owner's bounds; it keeps them, so that apps obey them too."""
        if self._samples is None:
            self._samples = SampleStore(
                self._folder.samples,
                max_rows=self._limits.samples_max_rows,
                max_bytes=self._limits.samples_max_mib << 20,
                holdout=self._holdout,
            )
        return self._samples

    # --- what was spent ---------------------------------------------------------------------------------
    def job_begins(self) -> None:
        """Note that a new job was decided on: the spacing counts from here."""
        self._job = Cost()
        self._history = self._history.started(self._now.elapsed_s)

    def update_goes(self, update_bytes: int) -> None:
        """Count an update that is offered now, again where it is offered again."""
        self._spend(Cost(update_bytes=float(update_bytes)))

    def update_may_have(self, version: HeadVersion) -> int | None:
        """Return the most bytes of an update that begins now, as a message; None: no bound."""
        manifest = self._journal.manifest(version)
        spent = self._history.spent_of("update_bytes", self._now.elapsed_s)
        return None if manifest is None else allowance.of_next(self._limits, manifest.plan, spent)

    def trainer_starts(self, now_s: float) -> None:
        """From now on somebody trains."""
        self._accounted_s = now_s
        self._history = replace(self._history, training=True)

    def trainer_ended(self, now_s: float) -> None:
        """Pay for what the trainer took since the last look."""
        self._tick(now_s)
        self._account(now_s, None)
        self._accounted_s = None
        self._history = replace(self._history, training=False)

    def job_settled(self, update_bytes: int) -> None:
        """Remember what the whole job took, its update included: the next one needs as much.

        What else went over the network meanwhile, such as a new model, was spent but is no job's need.
        """
        took = replace(self._job, traffic_bytes=float(update_bytes + RECEIPT_BYTES))
        self._history = replace(self._history, last_job=took)

    def spent(self) -> dict[str, float]:
        """Return what was spent in the last 24 hours, by the names of `Cost`."""
        return asdict(self._history.spent_at(self._now.elapsed_s))

    def count_traffic(self, now_s: float) -> None:
        """Add what the link has sent and received since the last call; a new link counts from 0."""
        self._tick(now_s)  # the last look may be days ago, and what was spent then is forgotten
        total_bytes = self.traffic_bytes()
        since = total_bytes - self._traffic_bytes if total_bytes >= self._traffic_bytes else total_bytes
        self._traffic_bytes = total_bytes
        self._spend(Cost(traffic_bytes=since))

    def _account(self, now_s: float, trainer_pid: int | None) -> None:
        written = max(self._written(trainer_pid), self._written_bytes)
        flash, self._written_bytes = written - self._written_bytes, written
        trained_s = 0.0
        if self._accounted_s is not None:
            trained_s, self._accounted_s = max(0.0, now_s - self._accounted_s), now_s
        drawn_w = watts(self.readings, self.profile) or 0.0
        cost = Cost(training_s=trained_s, energy_j=drawn_w * trained_s, flash_bytes=flash)
        self._spend(cost)
        if trained_s:
            self._job += cost
        if self._lost is not None:
            lost_s, self._lost = self._hidden_s(self._lost, now_s), None
            self._spend(Cost(training_s=lost_s, energy_j=drawn_w * lost_s))

    def _hidden_s(self, mark: ClockMark, now_s: float) -> float:
        """Return how long a trainer may have run after its agent last saved."""
        same_boot = mark.boot_id == self._boot_id and now_s >= mark.boot_s
        return min(SAVE_S, now_s - mark.boot_s) if same_boot else SAVE_S

    def _written(self, trainer_pid: int | None) -> int:
        """Return what was written to disk so far; raises ConfigError for a budget that cannot be kept."""
        written = written_bytes(trainer_pid)
        if written is None and self.policy.daily_flash_mib is not None:
            raise ConfigError("[schedule] daily_flash_mib cannot be kept: this kernel does not count writes")
        return written or 0

    def _spend(self, cost: Cost) -> None:
        if cost != Cost():
            self._history = self._history.spend(cost, self._now.elapsed_s)

    # --- what owner and gateway ask ---------------------------------------------------------------------
    def pause(self, who: str, seconds: float, now_s: float) -> None:
        """Hold training back for `seconds` (0: until resumed); `who` is "owner" or "gateway"."""
        self._tick(now_s)
        until_s = self._now.elapsed_s + seconds if seconds else inf
        self._history = self._history.held(who, until_s)

    def resume(self, who: str) -> None:
        """Take back `who`'s own pause; the other's holds."""
        self._history = self._history.held(who, None)

    def wait_for_pace(self, delay_s: float, now_s: float) -> None:
        """Begin no job for `delay_s`, as the gateway asked (pace steering)."""
        self._tick(now_s)
        self._history = replace(self._history, pace_s=self._now.elapsed_s + delay_s)

    # --- memory -------------------------------------------------------------------------------------------
    @property
    def changed(self) -> bool:
        """Whether there is anything that a power cut would take away."""
        return self._saved is None or self._history.as_record() != self._saved.as_record()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit a block with what changed here; what fails, at the commit too, has saved nothing."""
        try:
            with self._database.transaction():
                yield
                self.save()
        except BaseException:
            self._saved = None
            raise

    def save(self) -> None:
        """Save what changed; inside the caller's transaction, which must not fail."""
        if self.changed:
            schedule.save(self._database, self._history, self._now)
            self._saved = self._history

    def close(self) -> None:
        """Let go of the sample store."""
        if self._samples is not None:
            self._samples.close()
            self._samples = None

    def sleep_s(self) -> float:
        """Return how long to wait with the next question."""
        poll_s = float(self.policy.poll_s)
        return poll_s if self.decision is None else sleep_s(self.decision, poll_s)


def is_local(host: str) -> bool:
    """Tell whether a broker's host is this machine, by its name or address alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower().rstrip(".") in {"localhost", "ip6-localhost", "ip6-loopback"}


def closed_sentences(decision: Decision | None) -> Sequence[str]:
    """Return what the closed gates say."""
    return [] if decision is None else [gate.sentence for gate in decision.gates if not gate.ok]
