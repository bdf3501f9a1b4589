"""What the session has done: each action a value; each may be carried out twice."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from fedclient.values import HeadVersion, Reason


class Outcome(str, Enum):
    """What an outbox row becomes when it is settled; see PROTOCOL 5.3 for the residual."""

    COUNTED = "counted"
    RETURNED = "returned"  # given back to the residual once
    REFUSED = "refused"  # never given back, and the residual is reset


@dataclass(frozen=True, slots=True)
class SendEnrolment:
    """Publish the stored enrolment request."""


@dataclass(frozen=True, slots=True)
class Fetch:
    """Get model of this version and what leads to its head, as far as they are not here."""

    version: HeadVersion


@dataclass(frozen=True, slots=True)
class Adopt:
    """Make this head the one that apps predict with."""

    version: HeadVersion


@dataclass(frozen=True, slots=True)
class Check:
    """See that this version's model, and its head or what leads to it, are here; what no head needs goes."""

    version: HeadVersion


@dataclass(frozen=True, slots=True)
class Judge:
    """Start a child that compares this head with the adopted one, on this device's samples."""

    version: HeadVersion


@dataclass(frozen=True, slots=True)
class GiveUpJudging:
    """Write down that this head is not adopted: no child came to a verdict on it."""

    version: HeadVersion


@dataclass(frozen=True, slots=True)
class Train:
    """Start a trainer for a job on this head, new or resumed; one that `judges` does that first."""

    version: HeadVersion
    judges: bool = False


@dataclass(frozen=True, slots=True)
class StopTrainer:
    """Ask the child to checkpoint and end."""


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


_Judging = Check | Judge | GiveUpJudging | Adopt | FallBack
Action = SendEnrolment | Fetch | _Judging | Train | StopTrainer | DropJob | Publish | Settle
