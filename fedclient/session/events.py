"""What the session hears: each event a value."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from fedclient.values import HeadVersion, Judgement, Reason, ReceiptStatus, Verdict


class Cause(str, Enum):
    """Why a trainer ended without a result."""

    CRASH = "crash"  # killed, out of memory, hung: may go better next time
    DATA = "data"  # too few or unfit samples: a new job, when there are others
    MODEL = "model"  # this runtime cannot train this model


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
    judgement: Judgement | None = None  # the last one that a child wrote down


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
    """Model of this version, and its head or all that leads to it, are stored whole and verified."""

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
    """The scheduler says: not now.  Whatever child runs ends."""


@dataclass(frozen=True, slots=True)
class Calm:
    """Nothing that protects the machine speaks against judging a head."""


@dataclass(frozen=True, slots=True)
class Judged:
    """There is a verdict on a head."""

    version: HeadVersion
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class JudgeEnded:
    """The child that only judged is gone without a verdict; no cause: it was asked to stop."""

    cause: Cause | None


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


Enrolling = Invited | Enrolled | EnrolmentRefused
Heads = NewHead | HeadReady | HeadLost
Again = Restarted | Connected | RetryDue
Adoption = Calm | Judged | JudgeEnded
Work = Eligible | Ineligible | Finished | Stopped | Crashed
Event = Enrolling | Heads | Again | Adoption | Work | Receipted
