"""What the agent does: one step of the session, committed as one, then its actions carried out."""

from __future__ import annotations

import logging
import random
from pathlib import Path

from fedclient import session
from fedclient.client.adoption import Adoption
from fedclient.client.heads import Heads
from fedclient.client.ledger import Evidence, Ledger
from fedclient.client.link import Link
from fedclient.client.membership import Membership, OpenTransport
from fedclient.client.reports import Reports
from fedclient.client.timers import Backoff, Timer, Timers
from fedclient.client.work import Work
from fedclient.config import Config
from fedclient.crypto.keys import SigningKey
from fedclient.device import enrolment
from fedclient.device.database import open_database
from fedclient.device.folder import DeviceFolder
from fedclient.device.journal import Journal
from fedclient.errors import StorageDamaged
from fedclient.session import Enrolment, State
from fedclient.values import HeadVersion, MessageType, Verdict

log = logging.getLogger(__name__)

STATUS_INTERVAL_S = 900.0
STUMBLE_S = (2.0, 60.0)  # pauses after a full or failing disk, the first and the longest


class Actor:
    """One device, as far as it acts.  `open_transport(broker, client id)` gives the way to the broker."""

    def __init__(
        self,
        folder: DeviceFolder,
        config: Config,
        open_transport: OpenTransport,
        *,
        seed: int | None = None,
        root: Path = Path("/"),
    ) -> None:
        self._config = config
        self._random = random.Random(seed)  # noqa: S311 - spreads retries, keeps no secret
        self._lock = folder.lock()
        self._key = SigningKey.load(folder.key)
        self._membership = Membership(folder, config.broker, self._key, open_transport)
        self._database = open_database(folder)
        self._timers = Timers()
        self.work = Work(folder, config, self._database, root)
        self._reports = Reports(Journal(self._database))
        self._ledger = Ledger(self._database, self.work, self._reports)
        self.heads = Heads(folder, config, self._ledger.journal)
        self.work.is_not_made = self.heads.is_not_made
        self.adoption = Adoption(folder, config, self._database, self.work)
        self._link: Link | None = None
        self.work.conditions.traffic_bytes = lambda: 0 if self._link is None else self._link.traffic_bytes
        self._enrolment: enrolment.StoredEnrolment | None = None
        broker = config.broker
        self._reconnecting = Backoff(broker.retry_min_s, broker.retry_max_s, self._random)
        self._offering = Backoff(broker.retry_min_s, broker.retry_max_s, self._random)
        self._stumbling = Backoff(*STUMBLE_S, self._random)
        self._now_s = 0.0
        self.up_s: float | None = None  # since when there is a connection
        self._held_back = False  # whether a head is not fetched for now
        self.state = State()
        self.down_reason: str | None = None  # why there is no connection
        self.disk_reason: str | None = None  # why nothing can be stored
        self.not_taken: str | None = None  # why the newest head is against the owner's bounds
        self.settled = 0  # updates settled since the start of this process
        self.saw_manifest = False  # a manifest came on this connection

    # --- one step: commit, then act -----------------------------------------------------------------
    def _feed(self, event: session.Event, evidence: Evidence = None) -> None:
        """Give `event` to the session; what it decides is committed as one, then carried out."""
        state, actions = session.step(self.state, event)
        if any(isinstance(action, session.Publish) for action in actions):
            self.work.conditions.count_traffic(self._now_s)  # an update is counted in the hour that it is now
        self._ledger.commit((self.state, state), actions, evidence, self._link)
        if state != self.state:
            self._stumbling.reset()  # the disk took it
            self.disk_reason = None
        before, self.state = self.state, state
        if state.enrolment is not before.enrolment and Enrolment.DONE in {state.enrolment, before.enrolment}:
            self._connect()  # anew: what it leaves on the broker, and is sent, follows its membership
        self.settled += sum(isinstance(action, session.Settle) for action in actions)
        if state.phase is not before.phase:
            log.info("%s -> %s", before.phase.value, state.phase.value)
            self._timers.hasten(Timer.STATUS, self._now_s + STATUS_INTERVAL_S)
        if state.judged is not None and state.judged != before.judged:
            self._tell_verdict(state.judged)
        for action in actions:
            self._act(action)

    def _feed_all(self, events: list[session.Event]) -> None:
        for event in events:
            self._feed(event)

    def _act(self, action: session.Action) -> None:
        match action:
            case session.SendEnrolment():
                self._send_enrolment()
            case session.Publish(counter):
                self._publish(counter)
            case session.Fetch(version):
                self._fetch(version)
            case session.Check(version):
                self._check(version)
            case session.Judge(version):
                self._feed_all(self.work.start_judge(version, self._now_s))
            case session.Adopt(version):
                self._adopt(version)
            case session.Train():
                self._feed_all(self.work.start(action, self._now_s))
            case session.StopTrainer():
                self.work.ask_to_stop(self._now_s)
            case session.FallBack(version):
                self.adoption.fall_back(version)

    def _send_enrolment(self) -> None:
        if self._link is not None and self._enrolment is not None:
            self._link.send(MessageType.ENROL, self._enrolment.request)
            self._offer_later()

    def _publish(self, counter: int) -> None:
        row = self._ledger.outbox.unsettled()
        if row is not None and row.counter == counter and self._link is not None:
            self._link.send(MessageType.UPDATE, row.envelope)
            self._offer_later()

    def _offer_later(self) -> None:
        """Offer again if no answer comes: sooner at first, then ever more rarely, never all at once."""
        self._timers.set(Timer.OFFER, self._now_s + self._offering.next_s())

    def _fetch(self, version: HeadVersion) -> None:
        """Go on with fetching a head, unless something speaks against that now."""
        held_back = self.work.conditions.held_back(self.work.doing(self.state), self._now_s)
        if held_back and self.heads.is_fetched(version):
            held_back = ""
        if held_back and not self._held_back:
            log.info("head %s is not fetched now: %s", version, held_back)
        self._held_back = bool(held_back)
        if held_back:
            self.heads.finish(self._link)
            self._timers.set(Timer.FETCH, self._now_s + self.work.conditions.policy.poll_s)
        elif self.heads.begin(version, self._link, self._now_s):
            self._timers.clear(Timer.FETCH)
            self._feed(session.HeadReady(version), self.heads.came)
        elif (again_s := self.heads.look_again_s) is not None:
            self._timers.set(Timer.FETCH, again_s)

    def _check(self, version: HeadVersion) -> None:
        state = self.state
        try:
            self.heads.check(version, keep=(state.wanted, state.job, state.judging, state.adopted))
        except StorageDamaged as error:
            log.error("%s", error)
            self._feed(session.HeadLost(version))

    def _adopt(self, version: HeadVersion) -> None:
        try:
            self.adoption.adopt(version)
        except StorageDamaged as error:
            log.error("%s", error)
            self._feed(session.HeadLost(version))

    def _tell_verdict(self, version: HeadVersion) -> None:
        """Log a verdict; the gateway hears at once of a head that is not adopted: it may not be alone."""
        told = self.adoption.tell(version)
        refused = told is not None and told.judgement.verdict is Verdict.KEPT_PREVIOUS
        self._timers.hasten(Timer.STATUS, self._now_s + (0.0 if refused else STATUS_INTERVAL_S))

    def _connect(self) -> None:
        if self._link is not None:
            self._link.connect(self._now_s, enrolled=self.state.enrolment is Enrolment.DONE)

    def _send_status(self) -> None:
        if self._link is None or not self._link.connected or self.state.enrolment is not Enrolment.DONE:
            return
        self._link.send_status(self._reports.status(self.state, self.work.closed_gates, self.adoption.last()))
        self._timers.clear(Timer.STATUS)
