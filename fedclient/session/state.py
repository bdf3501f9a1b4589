"""What the session remembers between events, and across power cuts."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from fedclient.values import NO_HEAD, HeadVersion, Phase, Reason


class Enrolment(str, Enum):
    """How far this device is with joining a federation."""

    NONE = "none"
    PENDING = "pending"
    DONE = "done"
    REFUSED = "refused"


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
    judging: HeadVersion | None = None  # a child judges this head now: the trainer itself, or another one
    judged: HeadVersion | None = None  # the newest head that there is a verdict on
    adopted: HeadVersion | None = None  # the newest head that apps were given
    strikes: int = 0  # children in a row that ended without a verdict on the current head

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
        return Phase.WAITING if self._has_work else Phase.IDLE

    @property
    def may_train(self) -> bool:
        """Whether a job is waiting for a good moment, or could be started in one; one child at a time."""
        return self._has_work and self.judging is None

    @property
    def _has_work(self) -> bool:
        if self.enrolment is not Enrolment.DONE or self.unsettled is not None or self.running:
            return False
        if self.job is not None:
            return self.job != self.wanted
        fresh = self.current is not None and (self.done is None or self.current > self.done)
        return fresh and self.wanted is None

    @property
    def to_judge(self) -> HeadVersion | None:
        """The head that a verdict is missing on, while nobody works on one."""
        if self.enrolment is not Enrolment.DONE or self.judging is not None:
            return None
        return None if self.current in {self.judged, self.unfit} else self.current

    @property
    def may_judge(self) -> bool:
        """Whether a child could be started for a verdict; one child at a time."""
        return self.to_judge is not None and not self.running

    @property
    def trains_on_what_it_judges(self) -> bool:
        """Whether the next job's trainer can judge as well: unless one that should have has failed."""
        return self.may_train and not self.strikes and (self.job or self.current) == self.to_judge
