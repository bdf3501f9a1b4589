"""What a device does next: step(state, event) -> (state, actions).  Pure.

    enrolment   NONE --Invited--> PENDING --Enrolled--> DONE
                                     |                    |
                                     +----> REFUSED <-----+ (revoked; Enrolled again: reinstated)

    heads       NewHead sets `wanted` --HeadReady--> `current` = wanted
                (the next one replaces a wanted one; versions never go back)

    work        nothing --Eligible--> job, running --Finished--> unsettled --Settled--> nothing
                                      ^        |
                              Eligible|        | Ineligible, Stopped, Crashed
                                      +- job, not running

Rules (numbers are PROTOCOL's):
- 4.1  At most one unsettled update, and no new job until it is settled.
- 4.2  At most one update for each head: `done` is the newest head a job was finished for.
- 4.3  Only a receipt that is not `defer` settles.
- 5.5  A newer head lets a job finish while its staleness stays within the plan's bound and
       model and codec are unchanged; otherwise the job is dropped.
- 6    Neither generation nor version ever falls below the floor.

The caller saves the new state, then acts: every action may run twice, and none may be lost.
An event that does not fit changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from fedclient.values import NO_HEAD, HeadVersion, Phase, Reason, ReceiptStatus

MAX_FAILURES = 3  # after as many failed trainers in a row, a head is given up until the next one


class Enrolment(str, Enum):
    """How far this device is with joining a federation."""

    NONE = "none"
    PENDING = "pending"
    DONE = "done"
    REFUSED = "refused"


class Outcome(str, Enum):
    """What an outbox row becomes when it is settled; see PROTOCOL 5.3 for the residual."""

    COUNTED = "counted"
    RETURNED = "returned"  # given back to the residual once
    REFUSED = "refused"  # never given back, and the residual is reset


class Cause(str, Enum):
    """Why a trainer ended without a result."""

    CRASH = "crash"  # killed, out of memory, hung: may go better next time
    DATA = "data"  # too few or unfit samples: a new job, when there are others
    MODEL = "model"  # this runtime cannot train this model


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """All that is remembered between events, and across power cuts."""

    enrolment: Enrolment = Enrolment.NONE
    request: str = ""  # hash of the enrolment request this state follows from
    refusal: Reason = Reason.NONE
    floor: HeadVersion = NO_HEAD
    current: HeadVersion | None = None
    wanted: HeadVersion | None = None
    job: HeadVersion | None = None  # the head the job in hand is based on
    running: bool = False  # a trainer works on it now
    dropping: bool = False  # the trainer was stopped for good: a newer head does not let it finish
    unsettled: int | None = None  # counter of the update that waits for its receipt
    done: HeadVersion | None = None
    unfit: HeadVersion | None = None  # cannot be trained here, so apps do not predict with it either
    failures: int = 0

    @property
    def phase(self) -> Phase:
        """What to call this state to a person."""
        if self.enrolment is not Enrolment.DONE:
            phases = {Enrolment.NONE: Phase.UNENROLLED, Enrolment.PENDING: Phase.ENROLLING}
            return phases.get(self.enrolment, Phase.REFUSED)
        if self.running:
            return Phase.TRAINING
        if self.unsettled is not None:
            return Phase.SENDING
        if self.wanted is not None:
            return Phase.FETCHING
        return Phase.WAITING if self.may_train else Phase.IDLE

    @property
    def may_train(self) -> bool:
        """Whether a job is waiting for a good moment, or could be started in one."""
        if self.enrolment is not Enrolment.DONE or self.unsettled is not None or self.running:
            return False
        if self.job is not None:
            return self.job != self.wanted
        fresh = self.current is not None and (self.done is None or self.current > self.done)
        return fresh and self.wanted is None


# --- events -----------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Invited:
    """An invitation is stored, and `request` (its hash, in hex) was made from it."""

    floor: HeadVersion
    request: str


@dataclass(frozen=True, slots=True)
class Enrolled:
    """The gateway's signed receipt says yes."""


@dataclass(frozen=True, slots=True)
class EnrolmentRefused:
    """The gateway's signed receipt says no."""

    reason: Reason


@dataclass(frozen=True, slots=True)
class Restarted:
    """The agent starts: no trainer runs; the outbox says what is unsettled."""

    unsettled: int | None
    unsettled_base: HeadVersion | None
    job: HeadVersion | None


@dataclass(frozen=True, slots=True)
class Connected:
    """The broker accepted this device and its subscriptions were sent."""


@dataclass(frozen=True, slots=True)
class NewHead:
    """A verified manifest; `job_may_finish` is rule 5.5 judged against the job in hand."""

    version: HeadVersion
    job_may_finish: bool = False


@dataclass(frozen=True, slots=True)
class HeadReady:
    """Model and head of this version are stored whole and verified."""

    version: HeadVersion


@dataclass(frozen=True, slots=True)
class HeadLost:
    """The stored bytes of this head or its model are damaged or gone."""

    version: HeadVersion


@dataclass(frozen=True, slots=True)
class Eligible:
    """The scheduler says: now."""


@dataclass(frozen=True, slots=True)
class Ineligible:
    """The scheduler says: not now."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The trainer's transaction put this update into the outbox."""

    counter: int


@dataclass(frozen=True, slots=True)
class Stopped:
    """The trainer ended as it was asked to; its checkpoint is stored."""


@dataclass(frozen=True, slots=True)
class Crashed:
    """The trainer ended without a result."""

    cause: Cause


@dataclass(frozen=True, slots=True)
class Receipted:
    """A verified receipt for the envelope of update `counter`."""

    counter: int
    status: ReceiptStatus
    reason: Reason = Reason.NONE


@dataclass(frozen=True, slots=True)
class RetryDue:
    """It is time to offer again what has no answer yet."""


_Enrolling = Invited | Enrolled | EnrolmentRefused
_Heads = NewHead | HeadReady | HeadLost
_Again = Restarted | Connected | RetryDue
Event = _Enrolling | _Heads | _Again | Eligible | Ineligible | Finished | Stopped | Crashed | Receipted


# --- actions ----------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class SendEnrolment:
    """Publish the stored enrolment request."""


@dataclass(frozen=True, slots=True)
class Fetch:
    """Get model and head of this version, as far as they are not here."""

    version: HeadVersion


@dataclass(frozen=True, slots=True)
class Adopt:
    """Make this head the one that apps predict with."""

    version: HeadVersion


@dataclass(frozen=True, slots=True)
class Train:
    """Start a trainer for a job on this head, new or resumed."""

    version: HeadVersion


@dataclass(frozen=True, slots=True)
class StopTrainer:
    """Ask the trainer to checkpoint and end."""


@dataclass(frozen=True, slots=True)
class DropJob:
    """Forget the job and its checkpoint; the residual is untouched."""


@dataclass(frozen=True, slots=True)
class Publish:
    """Publish the outbox row of this counter, the same bytes as ever."""

    counter: int


@dataclass(frozen=True, slots=True)
class Settle:
    """Mark the outbox row of this counter."""

    counter: int
    outcome: Outcome
    reason: Reason


@dataclass(frozen=True, slots=True)
class FallBack:
    """A head could not be trained here at all: apps go back to the one before."""

    version: HeadVersion


Action = SendEnrolment | Fetch | Adopt | Train | StopTrainer | DropJob | Publish | Settle | FallBack

_OUTCOMES = {
    ReceiptStatus.COUNTED: Outcome.COUNTED,
    ReceiptStatus.NOT_COUNTED: Outcome.RETURNED,
    ReceiptStatus.REFUSED: Outcome.REFUSED,
}


def step(state: State, event: Event) -> tuple[State, tuple[Action, ...]]:
    """Return the next state and what to do now."""
    match event:
        case Invited() | Enrolled() | EnrolmentRefused():
            return _enrolment(state, event)
        case NewHead() | HeadReady() | HeadLost():
            return _heads(state, event)
        case Restarted() | Connected() | RetryDue():
            return _again(state, event)
        case Receipted():
            return _receipted(state, event)
        case _:
            return _work(state, event)


def _enrolment(state: State, event: _Enrolling) -> tuple[State, tuple[Action, ...]]:
    match state.enrolment, event:
        case Enrolment.PENDING, Invited(_, request) if request == state.request:
            return state, (SendEnrolment(),)
        case found, Invited(floor, request) if found is not Enrolment.DONE and request != state.request:
            if state.current or state.wanted:  # this gateway's own heads say more than its invitation
                floor = max(state.floor, floor)
            asking = replace(state, enrolment=Enrolment.PENDING, request=request, refusal=Reason.NONE)
            return replace(asking, floor=floor), (SendEnrolment(),)
        case found, Enrolled() if found is Enrolment.PENDING or state.refusal is Reason.REVOKED:
            return replace(state, enrolment=Enrolment.DONE, refusal=Reason.NONE), ()
        case Enrolment.PENDING, EnrolmentRefused(reason):
            return replace(state, enrolment=Enrolment.REFUSED, refusal=reason), ()
    return state, ()


def _heads(state: State, event: _Heads) -> tuple[State, tuple[Action, ...]]:
    if state.enrolment is not Enrolment.DONE:
        return state, ()
    match event:
        case NewHead(version, job_may_finish) if _is_new(state, version):
            wanting = replace(state, floor=version, wanted=version, failures=0)
            if state.job is None or job_may_finish:
                return wanting, (Fetch(version),)
            if state.running:  # dropped when its trainer is gone: until then it may still finish
                return replace(wanting, dropping=True), (StopTrainer(), Fetch(version))
            return replace(wanting, job=None), (DropJob(), Fetch(version))
        case NewHead(version) if version == state.wanted:
            return state, (Fetch(version),)
        case HeadReady(version) if version == state.wanted:
            return replace(state, current=version, wanted=None), (Adopt(version),)
        case HeadLost(version) if version == state.current and state.wanted is None:
            return replace(state, current=None, wanted=version), (Fetch(version),)
    return state, ()


def _is_new(state: State, version: HeadVersion) -> bool:
    """Whether to take a head; the floor itself counts while none is here (a new device, a lost database)."""
    empty = state.current is None and state.wanted is None
    return version > state.floor or (version == state.floor and empty)


def _again(state: State, event: _Again) -> tuple[State, tuple[Action, ...]]:
    if isinstance(event, Restarted):
        return _restarted(state, event)
    match state:
        case State(enrolment=Enrolment.PENDING) | State(refusal=Reason.REVOKED):
            return state, (SendEnrolment(),)
        case State(enrolment=Enrolment.DONE, unsettled=unsettled, wanted=wanted):
            offer = () if unsettled is None else (Publish(unsettled),)
            fetch = () if wanted is None else (Fetch(wanted),)
            return state, (*offer, *fetch)
    return state, ()


def _restarted(state: State, event: Restarted) -> tuple[State, tuple[Action, ...]]:
    """Believe the database about outbox and job: a trainer may have committed while nobody looked."""
    done = max(filter(None, (state.done, event.unsettled_base)), default=None)
    known = replace(state, unsettled=event.unsettled, job=event.job, running=False, done=done)
    current = None if state.current == state.unfit else state.current
    adopt: tuple[Action, ...] = () if current is None else (Adopt(current),)
    if known.dropping:
        return replace(known, job=None, dropping=False), (DropJob(), *adopt)
    return known, adopt


def _receipted(state: State, event: Receipted) -> tuple[State, tuple[Action, ...]]:
    outcome = _OUTCOMES.get(event.status)
    if event.counter != state.unsettled or outcome is None:
        return state, ()
    # not refused for what it said, so its head may be waiting for this device
    again = outcome is Outcome.REFUSED and event.reason in {Reason.CONFLICT, Reason.REVOKED}
    settled = replace(state, unsettled=None, done=None if again else state.done)
    if event.reason is Reason.REVOKED:
        settled = replace(settled, enrolment=Enrolment.REFUSED, refusal=Reason.REVOKED)
    return settled, (Settle(event.counter, outcome, event.reason),)


def _work(state: State, event: Event) -> tuple[State, tuple[Action, ...]]:
    match event:
        case Eligible() if state.may_train and (base := state.job or state.current):
            return replace(state, job=base, running=True), (Train(base),)
        case Ineligible() if state.running:
            return state, (StopTrainer(),)
        case Finished(counter) if state.job is not None and state.unsettled is None:
            idle = replace(state, job=None, running=False, dropping=False, failures=0)
            return replace(idle, unsettled=counter, done=state.job), (Publish(counter),)
        case Stopped() | Crashed() if state.running and state.dropping:
            return replace(state, job=None, running=False, dropping=False), (DropJob(),)
        case Stopped() if state.running:
            return replace(state, running=False), ()
        case Crashed(cause) if state.running and state.job is not None:
            return _crashed(state, state.job, cause)
    return state, ()


def _crashed(state: State, base: HeadVersion, cause: Cause) -> tuple[State, tuple[Action, ...]]:
    failed = replace(state, running=False, failures=state.failures + 1)
    if cause is Cause.MODEL:
        given_up = replace(failed, job=None, done=base, unfit=base, failures=0)
        return given_up, (DropJob(), FallBack(base))
    if cause is Cause.DATA:
        return replace(failed, job=None), (DropJob(),)
    if failed.failures >= MAX_FAILURES:
        return replace(failed, job=None, done=base, failures=0), (DropJob(),)
    return failed, ()
