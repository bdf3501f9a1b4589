"""The session as a table, and as a machine that nothing can talk out of its invariants."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fedclient.device.database import MIGRATIONS
from fedclient.device.journal import Journal
from fedclient.session import (
    MAX_FAILURES,
    MAX_STRIKES,
    Adopt,
    Calm,
    Cause,
    Check,
    Connected,
    Crashed,
    DropJob,
    Eligible,
    Enrolled,
    Enrolment,
    EnrolmentRefused,
    FallBack,
    Fetch,
    Finished,
    GiveUpJudging,
    HeadLost,
    HeadReady,
    Ineligible,
    Invited,
    Judge,
    Judged,
    JudgeEnded,
    NewHead,
    Outcome,
    Publish,
    Receipted,
    Restarted,
    RetryDue,
    SendEnrolment,
    Settle,
    State,
    Stopped,
    StopTrainer,
    Train,
    step,
)
from fedclient.storage import Database
from fedclient.values import NO_HEAD, HeadVersion, Judgement, Reason, ReceiptStatus, Verdict

V1, V2, V3 = HeadVersion(1, 1), HeadVersion(1, 2), HeadVersion(1, 3)
NEXT_GENERATION = HeadVersion(2, 4)
NONE = State()
PENDING = State(enrolment=Enrolment.PENDING, request="r", floor=NO_HEAD)
REFUSED = replace(PENDING, enrolment=Enrolment.REFUSED, refusal=Reason.INVITATION_EXPIRED)
IDLE = State(enrolment=Enrolment.DONE, request="r", floor=V1, current=V1, done=V1, judged=V1, adopted=V1)
FETCHING = replace(IDLE, floor=V2, wanted=V2)
ARRIVED = replace(IDLE, floor=V2, current=V2)  # to be judged, and to be trained on
WAITING = replace(ARRIVED, judged=V2, adopted=V2)
JUDGING = replace(ARRIVED, judging=V2)
TRAINING = replace(WAITING, job=V2, running=True)
PAUSED = replace(TRAINING, running=False)
DROPPING = replace(TRAINING, dropping=True, floor=V3, wanted=V3)
BOTH = replace(TRAINING, judging=V2, judged=V1, adopted=V1)  # a trainer that judges first
SENDING = replace(WAITING, done=V2, unsettled=7)
REVOKED = replace(SENDING, unsettled=None, done=None, enrolment=Enrolment.REFUSED, refusal=Reason.REVOKED)
COUNTED, RETURNED = ReceiptStatus.COUNTED, ReceiptStatus.NOT_COUNTED


def told(version: HeadVersion, verdict: Verdict) -> Judgement:
    return Judgement(head_version=version, verdict=verdict)


TABLE = [
    # enrolment, PROTOCOL 7
    (NONE, Invited(V1, "r"), replace(PENDING, floor=V1), (SendEnrolment(),)),
    (PENDING, Invited(V1, "r"), PENDING, (SendEnrolment(),)),
    (PENDING, Invited(V1, "other"), replace(PENDING, request="other", floor=V1), (SendEnrolment(),)),
    (PENDING, Connected(), PENDING, (SendEnrolment(),)),
    (PENDING, RetryDue(), PENDING, (SendEnrolment(),)),
    (PENDING, Enrolled(), replace(PENDING, enrolment=Enrolment.DONE), ()),
    (PENDING, EnrolmentRefused(Reason.INVITATION_EXPIRED), REFUSED, ()),
    (REFUSED, Invited(NO_HEAD, "r"), REFUSED, ()),  # the same invitation gets the same answer
    (REFUSED, Invited(V1, "new"), replace(PENDING, request="new", floor=V1), (SendEnrolment(),)),
    (
        REVOKED,
        Invited(V1, "new"),  # the floor of its own gateway's heads does not fall
        replace(REVOKED, enrolment=Enrolment.PENDING, refusal=Reason.NONE, request="new"),
        (SendEnrolment(),),
    ),
    # heads, PROTOCOL 6
    (IDLE, NewHead(V2), FETCHING, (Fetch(V2),)),
    (FETCHING, NewHead(V2), FETCHING, (Fetch(V2),)),
    (FETCHING, NewHead(V3), replace(FETCHING, floor=V3, wanted=V3), (Fetch(V3),)),
    (FETCHING, HeadReady(V2), ARRIVED, (Check(V2),)),
    # lost, again: whoever judges it anew puts it together, and then apps can be given it anew
    (replace(FETCHING, adopted=V2, judged=V2), HeadReady(V2), replace(WAITING, judged=None), (Check(V2),)),
    (replace(FETCHING, judged=V2), HeadReady(V2), replace(ARRIVED, judged=V2), (Check(V2),)),
    (JUDGING, HeadLost(V2), replace(JUDGING, current=None, wanted=V2), (Fetch(V2),)),
    (
        replace(JUDGING, current=None, wanted=V2),
        JudgeEnded(Cause.CRASH),  # it could not put the head together: no strike
        replace(ARRIVED, current=None, wanted=V2),
        (),
    ),
    (FETCHING, Connected(), FETCHING, (Fetch(V2),)),
    (WAITING, HeadLost(V2), replace(WAITING, current=None, wanted=V2), (Fetch(V2),)),
    (replace(IDLE, current=None), NewHead(V1), replace(IDLE, current=None, wanted=V1), (Fetch(V1),)),
    # work
    (WAITING, Eligible(), TRAINING, (Train(V2),)),
    (TRAINING, Ineligible(), TRAINING, (StopTrainer(),)),
    (TRAINING, Stopped(), PAUSED, ()),
    (PAUSED, Eligible(), TRAINING, (Train(V2),)),
    (TRAINING, Finished(7), SENDING, (Publish(7),)),
    (PAUSED, Finished(7), SENDING, (Publish(7),)),  # its transaction was done before it was stopped
    (TRAINING, Crashed(Cause.CRASH), replace(PAUSED, failures=1), ()),
    (
        replace(TRAINING, failures=MAX_FAILURES - 1),
        Crashed(Cause.CRASH),
        replace(PAUSED, job=None, done=V2),
        (DropJob(),),
    ),
    (TRAINING, Crashed(Cause.DATA), replace(PAUSED, job=None, failures=1), (DropJob(),)),
    (
        TRAINING,
        Crashed(Cause.MODEL),
        replace(PAUSED, job=None, done=V2, unfit=V2, adopted=None),
        (DropJob(), FallBack(V2)),
    ),
    (  # it was not adopted, so nobody has to go back
        replace(TRAINING, adopted=V1),
        Crashed(Cause.MODEL),
        replace(PAUSED, job=None, done=V2, unfit=V2, adopted=V1),
        (DropJob(),),
    ),
    # adoption
    (ARRIVED, Eligible(), BOTH, (Train(V2, judges=True),)),
    (
        replace(ARRIVED, strikes=1),
        Eligible(),
        replace(TRAINING, judged=V1, adopted=V1, strikes=1),
        (Train(V2),),
    ),
    (replace(ARRIVED, job=V1), Eligible(), replace(ARRIVED, job=V1, running=True), (Train(V1),)),
    (ARRIVED, Calm(), JUDGING, (Judge(V2),)),
    (JUDGING, Ineligible(), JUDGING, (StopTrainer(),)),
    (JUDGING, Judged(V2, Verdict.ADOPTED), WAITING, (Adopt(V2),)),
    (ARRIVED, Judged(V2, Verdict.UNJUDGED), WAITING, (Adopt(V2),)),
    (JUDGING, Judged(V2, Verdict.KEPT_PREVIOUS), replace(ARRIVED, judged=V2), ()),
    (BOTH, Judged(V2, Verdict.KEPT_PREVIOUS), replace(TRAINING, adopted=V1), ()),
    (BOTH, Judged(V2, Verdict.ADOPTED), TRAINING, (Adopt(V2),)),
    (JUDGING, JudgeEnded(None), ARRIVED, ()),
    (JUDGING, JudgeEnded(Cause.CRASH), replace(ARRIVED, strikes=1), ()),
    (JUDGING, JudgeEnded(Cause.MODEL), replace(ARRIVED, judged=V2), (GiveUpJudging(V2),)),
    (
        replace(JUDGING, strikes=MAX_STRIKES - 1),
        JudgeEnded(Cause.DATA),
        replace(ARRIVED, judged=V2),
        (GiveUpJudging(V2),),
    ),
    (BOTH, Stopped(), replace(ARRIVED, job=V2), ()),
    (BOTH, Crashed(Cause.CRASH), replace(ARRIVED, job=V2, failures=1, strikes=1), ()),
    (BOTH, Finished(7), replace(ARRIVED, done=V2, unsettled=7, strikes=1), (Publish(7),)),
    (
        BOTH,
        Crashed(Cause.MODEL),
        replace(ARRIVED, done=V2, unfit=V2, judged=V2),
        (DropJob(), GiveUpJudging(V2)),
    ),
    # a newer head does not end what judges an older one, whose verdict still counts
    (JUDGING, NewHead(V3), replace(JUDGING, floor=V3, wanted=V3), (Fetch(V3),)),
    (
        replace(JUDGING, floor=V3, current=V3),
        Judged(V2, Verdict.ADOPTED),
        replace(WAITING, floor=V3, current=V3),
        (Adopt(V2),),
    ),
    (replace(JUDGING, current=V3), JudgeEnded(Cause.CRASH), replace(ARRIVED, current=V3), ()),
    # 5.5: a newer head while a job is in hand
    (TRAINING, NewHead(V3, job_may_finish=True), replace(TRAINING, floor=V3, wanted=V3), (Fetch(V3),)),
    (TRAINING, NewHead(V3), DROPPING, (StopTrainer(), Fetch(V3))),
    (PAUSED, NewHead(V3), replace(PAUSED, job=None, floor=V3, wanted=V3), (DropJob(), Fetch(V3))),
    (DROPPING, Stopped(), replace(DROPPING, job=None, running=False, dropping=False), (DropJob(),)),
    (
        DROPPING,
        Crashed(Cause.CRASH),
        replace(DROPPING, job=None, running=False, dropping=False),
        (DropJob(),),
    ),
    (DROPPING, Finished(7), replace(SENDING, floor=V3, wanted=V3), (Publish(7),)),
    # receipts, PROTOCOL 4.3 and 5.3
    (SENDING, Connected(), SENDING, (Publish(7),)),
    (SENDING, RetryDue(), SENDING, (Publish(7),)),
    (SENDING, NewHead(V3), replace(SENDING, floor=V3, wanted=V3), (Fetch(V3),)),
    (
        SENDING,
        Receipted(7, COUNTED),
        replace(SENDING, unsettled=None),
        (Settle(7, Outcome.COUNTED, Reason.NONE),),
    ),
    (
        SENDING,
        Receipted(7, RETURNED, Reason.LATE),
        replace(SENDING, unsettled=None),
        (Settle(7, Outcome.RETURNED, Reason.LATE),),
    ),
    (
        SENDING,
        Receipted(7, ReceiptStatus.REFUSED, Reason.NORM),
        replace(SENDING, unsettled=None),
        (Settle(7, Outcome.REFUSED, Reason.NORM),),
    ),
    (
        SENDING,
        Receipted(7, ReceiptStatus.REFUSED, Reason.REVOKED),
        REVOKED,
        (Settle(7, Outcome.REFUSED, Reason.REVOKED),),
    ),
    (  # an old copy came back: the head that the update was for may not get on without this device
        SENDING,
        Receipted(7, ReceiptStatus.REFUSED, Reason.CONFLICT),
        replace(WAITING, done=None),
        (Settle(7, Outcome.REFUSED, Reason.CONFLICT),),
    ),
    # 4.2, 7: a revoked device goes on asking, and is taken back when it is reinstated
    (REVOKED, Connected(), REVOKED, (SendEnrolment(),)),
    (REVOKED, RetryDue(), REVOKED, (SendEnrolment(),)),
    (REVOKED, Enrolled(), replace(WAITING, done=None), ()),
    # restarts: the database knows better
    (TRAINING, Restarted(None, None, V2), PAUSED, (Check(V2), Adopt(V2))),
    (TRAINING, Restarted(7, V2, None), SENDING, (Check(V2), Adopt(V2))),
    (SENDING, Restarted(7, V2, None), SENDING, (Check(V2), Adopt(V2))),
    (
        DROPPING,
        Restarted(None, None, V2),
        replace(DROPPING, job=None, running=False, dropping=False),
        (DropJob(), Check(V2), Adopt(V2)),
    ),
    # a verdict that was written down while nobody looked counts; without one, the head is judged again
    (JUDGING, Restarted(None, None, None), ARRIVED, (Check(V2), Adopt(V1))),
    (JUDGING, Restarted(None, None, None, told(V1, Verdict.ADOPTED)), ARRIVED, (Check(V2), Adopt(V1))),
    (JUDGING, Restarted(None, None, None, told(V2, Verdict.ADOPTED)), WAITING, (Check(V2), Adopt(V2))),
    (
        BOTH,
        Restarted(None, None, V2, told(V2, Verdict.KEPT_PREVIOUS)),
        replace(PAUSED, adopted=V1),
        (Check(V2), Adopt(V1)),
    ),
    # a head that cannot be trained here does not come back to the apps, nor does it stay after a power cut
    (
        replace(IDLE, unfit=V1, adopted=None),
        Restarted(None, None, None),
        replace(IDLE, unfit=V1, adopted=None),
        (FallBack(V1),),
    ),
]

NOTHING = [
    (NONE, Connected()),
    (NONE, Enrolled()),
    (NONE, NewHead(V1)),  # nobody to take heads from yet
    (PENDING, NewHead(V1)),
    (PENDING, Eligible()),
    (REFUSED, Connected()),
    (REFUSED, Enrolled()),
    (REVOKED, NewHead(V3)),
    (REVOKED, Eligible()),
    (IDLE, Invited(V2, "other")),
    (IDLE, EnrolmentRefused(Reason.REVOKED)),
    (IDLE, NewHead(V1)),
    (IDLE, NewHead(HeadVersion(0, 9))),  # another generation, an older one
    (WAITING, NewHead(V1)),
    (replace(IDLE, floor=NEXT_GENERATION, current=NEXT_GENERATION), NewHead(HeadVersion(1, 99))),
    (IDLE, HeadReady(V1)),
    (FETCHING, HeadReady(V1)),
    (FETCHING, HeadLost(V1)),
    (FETCHING, Eligible()),
    (IDLE, Eligible()),
    (IDLE, Stopped()),
    (IDLE, Crashed(Cause.CRASH)),
    (IDLE, Finished(7)),
    (IDLE, Ineligible()),
    (TRAINING, Eligible()),
    (PAUSED, Ineligible()),
    (PAUSED, Stopped()),
    (SENDING, Eligible()),  # 4.1: no new job until it is settled
    (replace(SENDING, current=V3, floor=V3), Eligible()),
    (SENDING, Finished(8)),  # 4.1: never replaced
    (replace(SENDING, job=V2), Finished(8)),
    (SENDING, Receipted(7, ReceiptStatus.DEFER)),  # 4.3
    (SENDING, Receipted(7, ReceiptStatus.ENROLLED)),
    (SENDING, Receipted(6, COUNTED)),
    (SENDING, Receipted(8, COUNTED)),
    (IDLE, Receipted(7, COUNTED)),
    (WAITING, Calm()),  # there is a verdict
    (TRAINING, Calm()),
    (BOTH, Calm()),
    (JUDGING, Calm()),
    (JUDGING, Eligible()),  # one child at a time
    (replace(ARRIVED, running=True, job=V1), Calm()),
    (replace(ARRIVED, unfit=V2), Calm()),
    (PENDING, Calm()),
    (WAITING, Judged(V2, Verdict.KEPT_PREVIOUS)),  # never taken back
    (ARRIVED, Judged(V1, Verdict.ADOPTED)),
    (ARRIVED, Judged(V3, Verdict.ADOPTED)),
    (ARRIVED, JudgeEnded(Cause.CRASH)),
    (BOTH, JudgeEnded(Cause.CRASH)),
]


@pytest.mark.parametrize(("state", "event", "after", "actions"), TABLE, ids=repr)
def test_rule_4_5_6_7_what_an_event_leads_to(state, event, after, actions) -> None:
    assert step(state, event) == (after, actions)


@pytest.mark.parametrize(("state", "event"), NOTHING, ids=repr)
def test_rule_4_1_4_3_an_event_that_does_not_fit_changes_nothing(state, event) -> None:
    assert step(state, event) == (state, ())


def test_rule_5_5_a_job_on_an_older_base_goes_on_while_the_newer_head_is_fetched() -> None:
    state, _ = step(PAUSED, NewHead(V3, job_may_finish=True))
    assert step(state, Eligible()) == (replace(state, running=True), (Train(V2),))


def test_a_lost_base_is_not_trained_on_until_it_is_here_again() -> None:
    lost, _ = step(PAUSED, HeadLost(V2))
    assert step(lost, Eligible()) == (lost, ())
    ready, _ = step(lost, HeadReady(V2))
    assert step(ready, Eligible())[1] == (Train(V2, judges=True),)


VERSIONS = [HeadVersion(g, v) for g, v in ((1, 1), (1, 2), (1, 3), (1, 4), (2, 5), (2, 6), (3, 7))]
versions = st.sampled_from(VERSIONS)
reasons = st.sampled_from([Reason.NONE, Reason.NONE, Reason.NORM, Reason.CONFLICT, Reason.REVOKED])


class Sessions(RuleBasedStateMachine):
    """A device's world: what its database says, whether a trainer lives; anything may come at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.database = Database.open(Path(self.folder.name) / "device.db", migrations=MIGRATIONS)
        self.database.execute("PRAGMA synchronous = OFF")  # the disk is tested elsewhere
        self.journal = Journal(self.database)
        self.state = State()
        self.outbox: dict[int, tuple[HeadVersion, str]] = {}  # counter -> base, what became of it
        self.again: set[int] = set()  # refused for who sent it: its head may be trained on once more
        self.job: HeadVersion | None = None
        self.trainer = False
        self.judge: HeadVersion | None = None  # what a child judges now, the trainer or another one
        self.verdict: Judgement | None = None  # what the database says
        self.bad = {version for version in VERSIONS if version.version % 3 == 0}  # never to be adopted
        self.slot: HeadVersion | None = None  # what apps use
        self.counter = 0

    def teardown(self) -> None:
        self.database.close()
        self.folder.cleanup()

    def feed(self, event) -> None:
        """One step as the agent does it: saved and restored, then acted on, each action twice."""
        before = self.state
        self.state, actions = step(self.state, event)
        self.journal.save_state(self.state)
        restored = self.journal.load_state()
        assert restored == self.state
        self.state = restored
        for action in actions:
            self.act(action)
            world = (dict(self.outbox), self.job, self.trainer, self.slot)
            if not isinstance(action, (Train, Judge)):  # a second child is refused
                self.act(action)
            assert world == (self.outbox, self.job, self.trainer, self.slot), action
        assert self.state.floor >= before.floor or before.current is before.wanted is None
        again = isinstance(event, Receipted) and event.status is ReceiptStatus.REFUSED
        if again and event.reason in {Reason.CONFLICT, Reason.REVOKED} and event.counter == before.unsettled:
            self.again.add(event.counter)
            assert self.state.done is None
        elif before.done is not None:
            assert self.state.done is not None
            assert self.state.done >= before.done
        if before.unsettled is not None and self.state.unsettled != before.unsettled:
            assert any(isinstance(action, Settle) for action in actions), "4.1: dropped without a receipt"

    def act(self, action) -> None:
        match action:
            case Train(version):
                assert self.unsettled() is None, "4.1: a new job while an update is unsettled"
                assert not self.trainer, "5.6: two trainers"
                assert self.judge is None, "two children"
                assert not self.state.dropping, "5.5: a job that was to be dropped"
                self.job, self.trainer = version, True
                self.judge = version if action.judges else None
            case Judge(version):
                assert not self.trainer, "two children"
                assert self.judge is None, "two judges"
                self.judge = version
            case Adopt(version):
                assert version not in self.bad, "a head that was found to be worse"
                self.slot = version
            case GiveUpJudging(version):
                self.verdict = told(version, Verdict.KEPT_PREVIOUS)
            case DropJob():
                self.job = None
            case Publish(counter):
                assert self.outbox[counter][1] == "unsettled"
            case Settle(counter, outcome, _) if self.outbox[counter][1] == "unsettled":
                self.outbox[counter] = (self.outbox[counter][0], outcome.value)

    def unsettled(self) -> int | None:
        found = [counter for counter, row in self.outbox.items() if row[1] == "unsettled"]
        assert len(found) <= 1, "4.1"
        return found[0] if found else None

    @initialize(joined=st.sampled_from([True, True, True, False]), first=versions)
    def begin(self, joined, first) -> None:
        if joined:
            for event in (Invited(NO_HEAD, "a"), Enrolled(), NewHead(first), HeadReady(first)):
                self.feed(event)

    @rule(version=versions)
    def a_round_begins(self, version) -> None:
        for event in (NewHead(version), HeadReady(version), Eligible()):
            self.feed(event)

    @rule(floor=versions, request=st.sampled_from(["a", "b"]))
    def invited(self, floor, request) -> None:
        self.feed(Invited(floor, request))

    @rule()
    def enrolled(self) -> None:
        self.feed(Enrolled())

    @rule(reason=st.sampled_from([Reason.INVITATION_USED, Reason.REVOKED]))
    def enrolment_refused(self, reason) -> None:
        self.feed(EnrolmentRefused(reason))

    @rule(version=versions, may_finish=st.booleans())
    def manifest(self, version, may_finish) -> None:
        self.feed(NewHead(version, may_finish))

    @rule(version=versions)
    def lost(self, version) -> None:
        self.feed(HeadLost(version))

    @rule(version=versions)
    def ready(self, version) -> None:
        self.feed(HeadReady(version))

    @rule()
    def fetched(self) -> None:
        if self.state.wanted is not None:
            self.feed(HeadReady(self.state.wanted))

    @rule(event=st.sampled_from([Connected(), RetryDue(), Eligible(), Eligible(), Ineligible()]))
    def time_passes(self, event) -> None:
        self.feed(event)

    def commit(self) -> None:
        """What a trainer's one transaction does, if its job is still the one in hand."""
        if self.job is not None:
            assert self.unsettled() is None
            self.counter += 1
            self.outbox[self.counter] = (self.job, "unsettled")
            self.job = None

    def judges(self) -> None:
        """What a judge's one transaction does."""
        if self.judge is not None:
            verdict = Verdict.KEPT_PREVIOUS if self.judge in self.bad else Verdict.ADOPTED
            self.verdict = told(self.judge, verdict)

    def hear(self) -> None:
        """Read the verdict, as the agent does while a child runs and when it has ended."""
        if self.verdict is not None and self.verdict.head_version == self.judge:
            self.feed(Judged(self.judge, self.verdict.verdict))

    @rule()
    def calm(self) -> None:
        self.feed(Calm())

    @rule()
    def few_samples(self) -> None:
        """No child is asked: an honest head is adopted, one that no app could use is not."""
        head = self.state.to_judge
        if head is not None:
            verdict = Verdict.KEPT_PREVIOUS if head in self.bad else Verdict.UNJUDGED
            self.verdict = told(head, verdict)
            self.feed(Judged(head, verdict))

    @precondition(lambda self: self.judge is not None)
    @rule()
    def verdict_while_it_runs(self) -> None:
        self.judges()
        if self.trainer:  # one that only judges is heard when it has ended
            self.hear()

    @precondition(lambda self: self.judge is not None and not self.trainer)
    @rule(commits=st.booleans(), cause=st.sampled_from([None, *Cause]))
    def judge_ends(self, commits, cause) -> None:
        if commits:
            self.judges()
        wrote = self.verdict is not None and self.verdict.head_version == self.judge
        if wrote:
            self.hear()
        else:
            self.feed(JudgeEnded(cause))
        self.judge = None

    @precondition(lambda self: self.trainer)
    @rule(commits=st.booleans(), judged=st.booleans(), cause=st.sampled_from([None, *Cause]))
    def trainer_ends(self, commits, judged, cause) -> None:
        if judged or (commits and self.judge is None):
            self.judges()
        if commits:
            self.commit()
        self.hear()
        self.trainer, self.judge = False, None
        unsettled = self.unsettled()
        if unsettled is not None:
            self.feed(Finished(unsettled))
        else:
            self.feed(Stopped() if cause is None else Crashed(cause))

    @rule(commits=st.booleans(), judged=st.booleans())
    def agent_is_killed(self, commits, judged) -> None:
        if judged:
            self.judges()
        if self.trainer and commits:
            self.commit()
        self.trainer, self.judge = False, None
        unsettled = self.unsettled()
        base = None if unsettled is None else self.outbox[unsettled][0]
        self.state = self.journal.load_state() if self.state != State() else State()
        self.feed(Restarted(unsettled, base, self.job, self.verdict))

    @rule(counter=st.integers(0, 8), status=st.sampled_from(ReceiptStatus), reason=reasons)
    def any_receipt(self, counter, status, reason) -> None:
        self.feed(Receipted(counter, status, reason))

    @precondition(lambda self: self.unsettled() is not None)
    @rule(status=st.sampled_from(ReceiptStatus), reason=reasons)
    def receipt(self, status, reason) -> None:
        self.feed(Receipted(self.unsettled(), status, reason))

    @invariant()
    def the_state_tells_the_database(self) -> None:
        assert self.state.unsettled == self.unsettled()
        assert self.state.job == self.job
        assert self.state.running == self.trainer

    @invariant()
    def apps_have_what_was_adopted(self) -> None:
        assert self.slot not in self.bad
        assert self.state.adopted in {None, self.slot}
        if self.state.judging is not None:
            assert self.judge == self.state.judging
        if self.verdict is not None and self.verdict.head_version == self.state.judged:
            kept = self.verdict.verdict is Verdict.KEPT_PREVIOUS
            assert self.state.adopted != self.state.judged if kept else True

    @invariant()
    def one_update_per_head(self) -> None:
        counted = [base for base, what in self.outbox.values() if what == "counted"]
        assert len(counted) == len(set(counted)), "4.2"
        assert not (self.state.job and self.state.unsettled), "4.1"
        assert [base for base, _ in self.outbox.values()] == sorted(base for base, _ in self.outbox.values())
        bases = [base for counter, (base, _) in self.outbox.items() if counter not in self.again]
        if bases:
            # a refusal forgets `done` altogether: then it is the head at hand that is newer
            known = [
                one for one in (self.state.done, self.state.current, self.state.wanted) if one is not None
            ]
            sure = self.state.done is not None and self.state.done >= bases[-1]
            assert sure or min(known) > bases[-1], "4.2: this head would be trained on twice"


class TestSessions(Sessions.TestCase):
    settings = settings(
        max_examples=80,
        stateful_step_count=40,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
