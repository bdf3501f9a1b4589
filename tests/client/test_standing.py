"""Each state in words."""

from __future__ import annotations

import json

import pytest

from fedclient.client.standing import report, sentence
from fedclient.scheduler.check import Now
from fedclient.scheduler.history import History
from fedclient.scheduler.policy import decide
from fedclient.scheduler.profile import UNKNOWN_BOARD
from fedclient.scheduler.readings import Readings
from fedclient.scheduler.schedule import Policy
from fedclient.session import Enrolment, State
from fedclient.values import HeadVersion, Phase, Reason

V1, V2 = HeadVersion(1, 1), HeadVersion(1, 2)
DONE = Enrolment.DONE

STATES = [
    (Phase.UNENROLLED, State(), "in no federation: run `fedclient enroll INVITATION`"),
    (Phase.ENROLLING, State(enrolment=Enrolment.PENDING), "waiting for the gateway to answer the enrolment"),
    (
        Phase.REFUSED,
        State(enrolment=Enrolment.REFUSED, refusal=Reason.INVITATION_USED),
        "the gateway refused this device (invitation used)",
    ),
    (Phase.IDLE, State(enrolment=DONE), "nothing to train: waiting for the first head"),
    (Phase.IDLE, State(enrolment=DONE, current=V1, done=V1), "waiting for a new head after 1.1"),
    (
        Phase.IDLE,
        State(enrolment=DONE, current=V1, done=V1, unfit=V1),
        "head 1.1 cannot be trained here; waiting for a new head",
    ),
    (Phase.FETCHING, State(enrolment=DONE, current=V1, done=V1, wanted=V2), "head 1.2 is being fetched"),
    (Phase.WAITING, State(enrolment=DONE, current=V1), "waiting for a good moment to train on head 1.1"),
    (
        Phase.WAITING,
        State(enrolment=DONE, current=V2, job=V1),
        "waiting for a good moment to go on with its job on head 1.1",
    ),
    (
        Phase.WAITING,
        State(enrolment=DONE, current=V1, job=V1, failures=1),
        "to go on with its job on head 1.1 again, after a trainer that failed",
    ),
    (Phase.TRAINING, State(enrolment=DONE, current=V1, job=V1, running=True), "training on head 1.1"),
    (
        Phase.SENDING,
        State(enrolment=DONE, current=V1, done=V1, unsettled=7),
        "update 7 waits for the gateway's receipt",
    ),
]


def test_no_phase_is_forgotten() -> None:
    assert {phase for phase, _, _ in STATES} == set(Phase)


@pytest.mark.parametrize(("phase", "state", "words"), STATES)
def test_each_phase_has_its_sentence(phase: Phase, state: State, words: str) -> None:
    assert state.phase is phase
    assert sentence(state).endswith(words)


def test_a_report_is_json_with_the_decision_and_the_history_after_it() -> None:
    asked = History(owner_hold_s=float("inf"), started_s=5.0)
    decision = decide(Readings(), Policy(), UNKNOWN_BOARD, asked, Now(elapsed_s=10.0))
    found = json.loads(json.dumps(report(State(), decision, ["no connection"]), allow_nan=False))
    assert (found["phase"], found["notes"]) == ("unenrolled", ["no connection"])
    assert found["decision"]["gates"][0]["sentence"] == "the owner paused it until resumed"
    assert History.of_record(found["history"]).owner_hold_s == float("inf")
    assert History.of_record(found["history"]).started_s == 5.0
