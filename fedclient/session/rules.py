"""What a device does next: step(state, event) -> (state, actions).  Pure.

    enrolment   NONE --Invited--> PENDING --Enrolled--> DONE
                                     |                    |
                                     +----> REFUSED <-----+ (revoked; Enrolled again: reinstated)

    heads       NewHead sets `wanted` --HeadReady--> `current` = wanted
                (the next one replaces a wanted one; versions never go back)

    adoption    `current` is what is trained on; apps get it after a verdict, `Judged`, on this device's
                own samples.  A child comes to it: the trainer of the next job, or one that only judges:
                to judge --Calm--> judging --Judged--> judged, and `adopted` unless it is worse
                   ^                  |
                   +---- JudgeEnded --+  (a strike, unless it was asked to end; the last one: not adopted)

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

from dataclasses import replace

from fedclient.session.actions import (
    Action,
    Adopt,
    Check,
    DropJob,
    FallBack,
    Fetch,
    GiveUpJudging,
    Judge,
    Outcome,
    Publish,
    SendEnrolment,
    Settle,
    StopTrainer,
    Train,
)
from fedclient.session.events import (
    Adoption,
    Again,
    Calm,
    Cause,
    Connected,
    Crashed,
    Eligible,
    Enrolled,
    Enrolling,
    EnrolmentRefused,
    Event,
    Finished,
    HeadLost,
    HeadReady,
    Heads,
    Ineligible,
    Invited,
    Judged,
    JudgeEnded,
    NewHead,
    Receipted,
    Restarted,
    RetryDue,
    Stopped,
    Work,
)
from fedclient.session.state import Enrolment, State
from fedclient.values import HeadVersion, Reason, ReceiptStatus, Verdict

MAX_FAILURES = 3  # after as many failed trainers in a row, a head is given up until the next one
MAX_STRIKES = 3  # after as many children in a row without a verdict, a head is not adopted

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
        case Calm() | Judged() | JudgeEnded():
            return _adoption(state, event)
        case _:
            return _work(state, event)


def _enrolment(state: State, event: Enrolling) -> tuple[State, tuple[Action, ...]]:
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


def _heads(state: State, event: Heads) -> tuple[State, tuple[Action, ...]]:
    if state.enrolment is not Enrolment.DONE:
        return state, ()
    match event:
        case NewHead(version, job_may_finish) if _is_new(state, version):
            wanting = replace(state, floor=version, wanted=version, failures=0, strikes=0)
            if state.job is None or job_may_finish:
                return wanting, (Fetch(version),)
            if state.running:  # dropped when its trainer is gone: until then it may still finish
                return replace(wanting, dropping=True), (StopTrainer(), Fetch(version))
            return replace(wanting, job=None), (DropJob(), Fetch(version))
        case NewHead(version) if version == state.wanted:
            return state, (Fetch(version),)
        case HeadReady(version) if version == state.wanted:
            # one that apps were given before it was lost is judged anew: who does that puts it together
            judged = None if version == state.adopted else state.judged
            return replace(state, current=version, wanted=None, judged=judged), (Check(version),)
        case HeadLost(version) if version == state.current and state.wanted is None:
            return replace(state, current=None, wanted=version), (Fetch(version),)
    return state, ()


def _is_new(state: State, version: HeadVersion) -> bool:
    """Whether to take a head; the floor itself counts while none is here (a new device, a lost database)."""
    empty = state.current is None and state.wanted is None
    return version > state.floor or (version == state.floor and empty)


def _again(state: State, event: Again) -> tuple[State, tuple[Action, ...]]:
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
    """Believe the database about outbox, job and verdict: a child may have committed while nobody looked."""
    done = max(filter(None, (state.done, event.unsettled_base)), default=None)
    known = replace(state, unsettled=event.unsettled, job=event.job, running=False, done=done, judging=None)
    told = event.judgement
    if told is not None and (known.judged is None or told.head_version > known.judged):
        known, _ = _judged(known, told.head_version, told.verdict)
    actions: list[Action] = []
    if known.dropping:
        known = replace(known, job=None, dropping=False)
        actions.append(DropJob())
    if known.current is not None and known.current != known.unfit:
        actions.append(Check(known.current))
    if known.adopted is not None:
        actions.append(Adopt(known.adopted))
    elif known.unfit is not None:  # a power cut may have come before this was carried out
        actions.append(FallBack(known.unfit))
    return known, tuple(actions)


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


def _adoption(state: State, event: Adoption) -> tuple[State, tuple[Action, ...]]:
    match event:
        case Calm() if state.may_judge and (head := state.to_judge):
            return replace(state, judging=head), (Judge(head),)
        case Judged(version, verdict) if version in {state.judging, state.to_judge}:
            return _judged(state, version, verdict)
        case JudgeEnded(cause) if state.judging is not None and not state.running:
            return _no_verdict(state, cause)
    return state, ()


def _judged(state: State, version: HeadVersion, verdict: Verdict) -> tuple[State, tuple[Action, ...]]:
    told = replace(state, judged=version, judging=None, strikes=0)
    if verdict is Verdict.KEPT_PREVIOUS:
        return told, ()
    return replace(told, adopted=version), (Adopt(version),)


def _no_verdict(state: State, cause: Cause | None) -> tuple[State, tuple[Action, ...]]:
    """A child that should have judged is gone; what stands apps keep, whatever happened to it."""
    head, state = state.judging, replace(state, judging=None)
    if head is None or cause is None or head != state.current:
        return state, ()
    struck = replace(state, strikes=state.strikes + 1)
    if cause is Cause.MODEL or struck.strikes >= MAX_STRIKES:
        return replace(struck, judged=head, strikes=0), (GiveUpJudging(head),)
    return struck, ()


def _work(state: State, event: Work) -> tuple[State, tuple[Action, ...]]:
    match event:
        case Eligible() if state.may_train and (base := state.job or state.current):
            # a trainer that failed to judge shall not take its job with it a second time
            judges = state.trains_on_what_it_judges
            training = replace(state, job=base, running=True, judging=base if judges else None)
            return training, (Train(base, judges),)
        case Ineligible() if state.running or state.judging is not None:
            return state, (StopTrainer(),)
        case Finished(counter) if state.job is not None and state.unsettled is None:
            idle = replace(state, job=None, running=False, dropping=False, failures=0)
            sending = replace(idle, unsettled=counter, done=state.job)
            sending, given_up = _no_verdict(sending, Cause.CRASH)
            return sending, (Publish(counter), *given_up)
        case Stopped() | Crashed() if state.running and state.dropping:
            return replace(state, job=None, running=False, dropping=False, judging=None), (DropJob(),)
        case Stopped() if state.running:
            return replace(state, running=False, judging=None), ()
        case Crashed(cause) if state.running and state.job is not None:
            return _crashed(state, state.job, cause)
    return state, ()


def _crashed(state: State, base: HeadVersion, cause: Cause) -> tuple[State, tuple[Action, ...]]:
    if cause is Cause.MODEL:
        return _unfit(replace(state, running=False, judging=None), base)
    failed = replace(state, running=False, failures=state.failures + 1)
    failed, given_up = _no_verdict(failed, Cause.CRASH)
    if cause is Cause.DATA:
        return replace(failed, job=None), (DropJob(), *given_up)
    if failed.failures >= MAX_FAILURES:
        return replace(failed, job=None, done=base, failures=0), (DropJob(), *given_up)
    return failed, given_up


def _unfit(state: State, base: HeadVersion) -> tuple[State, tuple[Action, ...]]:
    """This runtime cannot train with `base`, so apps do not predict with it either."""
    given_up = replace(state, job=None, done=base, unfit=base, failures=0, strikes=0)
    if base == state.adopted:
        return replace(given_up, adopted=None), (DropJob(), FallBack(base))
    if base == state.to_judge:
        return replace(given_up, judged=base), (DropJob(), GiveUpJudging(base))
    return given_up, (DropJob(),)
