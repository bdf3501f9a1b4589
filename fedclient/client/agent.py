"""The agent: events of broker, trainer and time go into `session.step`; its actions are carried out here.

One thread, no clock of its own: its owner's loop (`daemon.py`, or a test) calls `service`
when a descriptor of `interests` is ready or `deadline_s` has come.  A new state is committed,
together with what its actions change in the database, before anything leaves the process.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection

from fedclient import session
from fedclient.client.actor import Actor
from fedclient.client.link import Chunk, Incoming, LinkDown, LinkUp
from fedclient.client.timers import Timer, Timers
from fedclient.errors import (
    ConfigError,
    FedClientError,
    StorageBusy,
    StorageError,
    StorageFull,
)
from fedclient.scheduler.policy import Decision
from fedclient.session import Enrolment
from fedclient.uplink import envelope_hash
from fedclient.values import (
    Command,
    Manifest,
    Reason,
    Receipt,
    ReceiptStatus,
)

log = logging.getLogger(__name__)

INVITATION_POLL_S = 15.0  # four wake-ups a minute until a device is enrolled
JUST_BOOTED_S, SPREAD_S = 120.0, 5.0  # so soon after a boot the first connection is spread over so long
OFFER_AGAIN_S = 1.0  # after a sign that the gateway is back


class Agent(Actor):
    """One device, as its loop and its owner see it: what happens goes in here."""

    # --- the loop's side ---------------------------------------------------------------------------
    def start(self, now_s: float) -> None:
        """Take up where the last agent on this folder ended."""
        self._now_s = now_s
        self._take_up()
        self._reports.begin()

    def _take_up(self) -> None:
        """Begin from what is stored: at the start, and after a disk that failed."""
        self.work.end_orphan()
        self.state, restarted = self._ledger.take_up()
        self._feed(restarted)
        self._look_for_invitation()
        self._plan()

    def interests(self) -> dict[int, int]:
        """Descriptors to wait for."""
        of_link = self._link.transport.interests() if self._link else {}
        return {**of_link, **self.work.interests()}

    def deadline_s(self) -> float | None:
        """When to call `service` at the latest, in boot-time seconds; None: only for a descriptor."""
        due = [self._timers.earliest_s()]
        if self._link is not None:
            due.append(self._link.transport.deadline_s())
        if self.work.child is not None:
            due.append(self.work.child.kill_at_s)
        return min((at for at in due if at is not None), default=None)

    def service(self, ready: Collection[int], now_s: float) -> None:
        """Do everything that is due; a disk that fails is waited for, and nothing is lost by it."""
        self._now_s = now_s
        try:
            self._service(ready)
        except (StorageError, StorageBusy, StorageFull) as error:
            self._stumble(error)

    def _service(self, ready: Collection[int]) -> None:
        self._feed_all(self.work.service(ready, self._ledger.outbox, self._now_s))
        if self._link is not None:
            for incoming in self._link.service(ready, self._now_s):
                self._incoming(incoming)
        for timer in self._timers.take_due(self._now_s):
            self._due(timer)
        self._plan()

    def _stumble(self, error: FedClientError) -> None:
        """Let go of everything but the database, and take up what it says a little later."""
        pause_s, self.disk_reason = self._stumbling.next_s(), str(error)
        log.error("nothing is lost, trying again in %.0f s: %s", pause_s, error)
        self.work.stop_and_wait(self._now_s)
        self._close_link()
        self._timers = Timers()
        self._timers.set(Timer.TAKE_UP, self._now_s + pause_s)

    def _close_link(self) -> None:
        if self._link is not None:
            self._link.close()
            self.work.conditions.count_traffic(self._now_s)
        self._link = self._enrolment = None

    def stop(self) -> None:
        """End orderly: the trainer checkpoints, the broker gets a DISCONNECT, everything is stored."""
        self.work.stop_and_wait(self._now_s)
        self._close_link()
        self.work.close()
        self._database.close()
        os.close(self._lock)

    # --- what the command line asks -----------------------------------------------------------------
    @property
    def device_id(self) -> str:
        return self._key.device_id

    def counters(self) -> dict[str, int]:
        """What was counted since this device was set up."""
        return self._ledger.journal.counters()

    def judge(self) -> Decision:
        """Ask the scheduler now, whether or not it is time to."""
        return self.work.decide(self.state, self._now_s)

    def reconsider(self) -> None:
        """Look again at once: somebody has paused or resumed training."""
        if self.state.running or self.state.may_train:
            self._timers.set(Timer.DECIDE, self._now_s)

    # --- events in ------------------------------------------------------------------------------------
    def _incoming(self, incoming: Incoming) -> None:
        if isinstance(incoming, LinkUp):
            self.up_s, self.down_reason = self._now_s, None
            log.info("connected")
            self.heads.reconnected()
            self._feed(session.Connected())
            self._timers.hasten(Timer.STATUS, self._now_s)
        elif isinstance(incoming, LinkDown):
            self._lost_link(incoming.reason)
        elif isinstance(incoming, Receipt):
            self._receipt(incoming)
        elif isinstance(incoming, Command):
            self._command(incoming)
        elif isinstance(incoming, Manifest):
            self._manifest(incoming)
        elif isinstance(incoming, Chunk):
            self._chunk(incoming)

    def _lost_link(self, reason: str) -> None:
        if reason != self.down_reason:  # once per change, not per attempt
            log.warning("no connection: %s", reason)
        if self.up_s is not None and self._now_s - self.up_s > self._config.broker.retry_max_s:
            self._reconnecting.reset()  # after a short connection whatever cut it may do so again
        self.down_reason, self.saw_manifest, self.up_s = reason, False, None
        self._timers.set(Timer.CONNECT, self._now_s + self._reconnecting.next_s())
        self._timers.clear(Timer.OFFER)

    def _manifest(self, manifest: Manifest) -> None:
        version = manifest.head_version
        floor = self.state.floor
        if self.state.unsettled is not None and (version <= floor or version.generation > floor.generation):
            # the gateway publishes on every connect: it is back; or no longer defers (PROTOCOL 4.6)
            self._timers.hasten(Timer.OFFER, self._now_s + self._random.uniform(0, OFFER_AGAIN_S))
        if self.state.enrolment is not Enrolment.DONE:
            return  # asked for again once it is
        self.saw_manifest = True
        if version < floor:
            self._timers.hasten(Timer.STATUS, self._now_s + OFFER_AGAIN_S)  # it must hear of our floor
            return
        try:
            self.heads.admit(manifest)
        except ConfigError as error:
            self.not_taken = f"head {version} is not taken: {error}"
            log.error("%s", self.not_taken)
            return
        self.not_taken = None
        self._feed(session.NewHead(version, self.heads.job_may_finish(self.state.job, manifest)), manifest)

    def _chunk(self, chunk: Chunk) -> None:
        self.heads.take(chunk.topic, chunk.payload)
        if self.heads.poisoned:
            log.error("the broker keeps bad copies of a blob: trying again later")
            self.heads.finish(self._link)
            self._timers.set(Timer.FETCH, self._now_s + self._config.broker.retry_max_s)
        else:
            self._fetch_wanted()

    def _fetch_wanted(self) -> None:
        if self.state.wanted is not None and self.state.enrolment is Enrolment.DONE:
            self._fetch(self.state.wanted)

    def _receipt(self, receipt: Receipt) -> None:
        if self._enrolment is not None and receipt.envelope_hash == envelope_hash(self._enrolment.request):
            self._enrolment_answered(receipt)
            return
        unsettled = self.state.unsettled
        if unsettled is None or receipt.envelope_hash != self._ledger.outbox.hash_of(unsettled):
            return  # for an update that was settled already
        self._offering.reset()
        if receipt.status is ReceiptStatus.DEFER:
            pause_s = max(self._random.uniform(*receipt.retry_window_s), self._offering.next_s())
            self._timers.set(Timer.OFFER, self._now_s + pause_s)
            return
        if receipt.retry_window_s[1]:  # pace steering: each device draws its own moment
            self.work.conditions.wait_for_pace(self._random.uniform(*receipt.retry_window_s), self._now_s)
        reason = f" {receipt.reason.name.lower()}" if receipt.reason else ""
        log.info("update %d: %s%s", unsettled, receipt.status.name.lower(), reason)
        self._feed(session.Receipted(unsettled, receipt.status, receipt.reason), receipt)

    def _command(self, command: Command) -> None:
        """Obey the gateway once: a command that is retained comes again at every connect."""
        if self.state.enrolment is not Enrolment.DONE or not self.work.obey(command, self._now_s):
            return
        log.info("the gateway says: %s", command.kind.name.lower())
        self.reconsider()

    def _enrolment_answered(self, receipt: Receipt) -> None:
        if receipt.status is ReceiptStatus.ENROLLED:
            log.info("enrolled as %s", self._key.device_id)
            self._feed(session.Enrolled())
            self._offering.reset()
            self._timers.hasten(Timer.STATUS, self._now_s)
        elif receipt.status is ReceiptStatus.REFUSED and self.state.enrolment is Enrolment.PENDING:
            log.error("enrolment refused: %s", receipt.reason.words)
            self._feed(session.EnrolmentRefused(receipt.reason))

    def _look_at_head(self) -> None:
        """Have the head judged that has no verdict: by the next job's trainer, if one may start now."""
        event = self.adoption.look(self.state, self._now_s)
        if event == session.Calm() and self.state.trains_on_what_it_judges and self.judge().eligible:
            event = session.Eligible()
        if event is not None:
            self._feed(event)

    def _due(self, timer: Timer) -> None:
        if timer is Timer.TAKE_UP:
            self._take_up()
        elif timer is Timer.CONNECT:
            self._connect()
        elif timer in {Timer.OFFER, Timer.FETCH} and self._link is not None and self._link.connected:
            if timer is Timer.OFFER:
                self._feed(session.RetryDue())
            else:
                self._fetch_wanted()
        elif timer is Timer.ADOPT:
            self._look_at_head()
        elif timer is Timer.DECIDE and (self.state.may_train or self.state.running):
            self._feed(session.Eligible() if self.judge().eligible else session.Ineligible())
            self._feed_all(self.work.verdict())
        elif timer is Timer.STATUS:
            self._send_status()
        elif timer is Timer.INVITATION:
            self._look_for_invitation()

    # --- enrolment, link, status ----------------------------------------------------------------------
    def _look_for_invitation(self) -> None:
        """Take up an invitation that `fedclient enroll` stored, also while the agent runs."""
        stored = self._membership.news(self._enrolment)
        if stored is None:
            return
        if self._link is not None:
            self._link.close()  # a new invitation replaces an old one
        self._enrolment, self._link = stored, self._membership.link(stored)
        self.work.conditions.broker_is_local = self._membership.broker_is_local(stored)
        self._reports.new_link()
        if (request := envelope_hash(stored.request).hex()) != self.state.request:
            self.work.forget_gateway()
        self._feed(session.Invited(stored.invitation.floor, request))
        joined = self.state.enrolment is Enrolment.DONE
        delay_s = self._random.uniform(0, SPREAD_S) if joined and self._now_s < JUST_BOOTED_S else 0.0
        self._timers.set(Timer.CONNECT, self._now_s + delay_s)

    def _plan(self) -> None:
        """Set the timers that follow from the state."""
        if self.state.running or self.state.may_train:
            if self.work.is_news(self.state) or not self._timers.is_set(Timer.DECIDE):
                self._timers.set(Timer.DECIDE, self.work.next_decision_s(self.state, self._now_s))
        else:
            self._timers.clear(Timer.DECIDE)
        judging_s = self.adoption.next_s(self.state, self._now_s)
        if judging_s is None:
            self._timers.clear(Timer.ADOPT)
        elif not self._timers.is_set(Timer.ADOPT):
            self._timers.set(Timer.ADOPT, judging_s)
        if self.state.enrolment is not Enrolment.DONE and not self._timers.is_set(Timer.INVITATION):
            self._timers.set(Timer.INVITATION, self._now_s + INVITATION_POLL_S)
        waiting = self.state.enrolment is Enrolment.PENDING or self.state.refusal is Reason.REVOKED
        if self.state.unsettled is None and not waiting:
            self._timers.clear(Timer.OFFER)
