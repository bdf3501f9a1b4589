"""Each state has a word for people."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fedclient.session import Enrolment, State
from fedclient.values import HeadVersion, Phase

V1, V2 = HeadVersion(1, 1), HeadVersion(1, 2)
IDLE = State(enrolment=Enrolment.DONE, current=V1, done=V1)
WAITING = replace(IDLE, current=V2)
TRAINING = replace(WAITING, job=V2, running=True)


@pytest.mark.parametrize(
    ("state", "phase"),
    [
        (State(), Phase.UNENROLLED),
        (State(enrolment=Enrolment.PENDING), Phase.ENROLLING),
        (State(enrolment=Enrolment.REFUSED), Phase.REFUSED),
        (IDLE, Phase.IDLE),
        (replace(IDLE, wanted=V2), Phase.FETCHING),
        (WAITING, Phase.WAITING),
        (replace(TRAINING, running=False), Phase.WAITING),
        (TRAINING, Phase.TRAINING),
        (replace(TRAINING, dropping=True), Phase.TRAINING),
        (replace(WAITING, done=V2, unsettled=7), Phase.SENDING),
    ],
)
def test_each_state_has_a_word(state, phase) -> None:
    assert state.phase is phase
