"""When a head version closes, and what becomes of an update: step(state, event, now_s).  Pure.

    open --Offered--> open      counted, or declined
    open --Offered--> full      the cohort is complete: Close
    open --Ticked-->  open      deadline passed: Close with enough devices, else Extended

Rules (PROTOCOL 4, DESIGN 9):
- A version closes when `cohort` updates are in, or at its deadline; never below `min_devices`
  distinct devices, and never below 2: below, the buffer is kept and the deadline extended.
- At most one counted update per (device, generation, base version).
- An update made under another plan than the current one is late: of feature statistics, once they are
  collected, there is no use.
- An update on an older base of this generation counts with weight 1/sqrt(1 + staleness) up to
  `max_staleness` versions (FedBuff: Nguyen et al. 2022); 0 is synchronous FedAvg.
- Only versions of the current generation count; while a restored database waits for `recover`,
  nothing does.

The caller commits what an action says before it lets anybody know of it; an event that does not
fit changes nothing.  Who was counted before is the database's knowledge, and comes with the event.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from fedclient.errors import ConfigError
from fedclient.values import HeadVersion, Reason

LEAST_DEVICES = 2  # an aggregate of one device is that device's update


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """How rounds are run; raises ConfigError for rules that would publish one device's update."""

    cohort: int = 10  # updates that close a version
    min_devices: int = 3
    deadline_s: float = 3600.0
    max_staleness: int = 0  # versions
    max_pending: int = 100_000  # updates in the buffer; beyond it, devices keep theirs

    def __post_init__(self) -> None:
        if self.min_devices < LEAST_DEVICES or self.cohort < 1 or not self.deadline_s > 0:
            raise ConfigError(
                f"[gateway] min_devices is {self.min_devices}, cohort {self.cohort}, deadline_s "
                f"{self.deadline_s:g}: they must be at least {LEAST_DEVICES}, at least 1 and above 0"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """The current head version and how full its buffer is."""

    rules: Rules
    current: HeadVersion
    deadline_s: float  # an instant of the caller's clock
    opened_s: float
    updates: int = 0
    devices: int = 0  # distinct ones

    @property
    def full(self) -> bool:
        """Whether the cohort is complete."""
        return self.updates >= self.rules.cohort and self.devices >= self.rules.min_devices


# --- events -----------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True, slots=True)
class Offered:
    """An authentic, valid update on a head that this gateway published."""

    base: HeadVersion
    counted_before: bool  # an update of this device on this base is counted already
    new_device: bool  # nothing of this device is in the buffer
    same_plan: bool = True  # the plan it was made under is the current one


@dataclass(frozen=True, slots=True)
class Ticked:
    """Time has passed."""


Event = Offered | Ticked


# --- actions ----------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Count:
    """Put the update into the buffer; `staleness_weight` is in (0, 1]."""

    staleness_weight: float


@dataclass(frozen=True, slots=True)
class Decline:
    """Answer not_counted."""

    reason: Reason


@dataclass(frozen=True, slots=True)
class Defer:
    """Answer defer: the device keeps the update, and offers it again."""


@dataclass(frozen=True, slots=True)
class Close:
    """Aggregate the buffer and release the next version."""


@dataclass(frozen=True, slots=True)
class Extended:
    """The deadline passed with too few devices."""


Action = Count | Decline | Defer | Close | Extended


def opened(rules: Rules, current: HeadVersion, now_s: float) -> State:
    """Return the state of a version that is current from now on."""
    return State(rules=rules, current=current, opened_s=now_s, deadline_s=now_s + rules.deadline_s)


def step(state: State, event: Event, now_s: float) -> tuple[State, tuple[Action, ...]]:
    """Return the next state and what to do now."""
    match event:
        case Offered():
            return _offered(state, event)
        case Ticked() if state.full:
            return state, (Close(),)
        case Ticked() if now_s >= state.deadline_s and state.devices >= state.rules.min_devices:
            return state, (Close(),)
        case Ticked() if now_s >= state.deadline_s:
            return replace(state, deadline_s=now_s + state.rules.deadline_s), (Extended(),)
    return state, ()


def _offered(state: State, event: Offered) -> tuple[State, tuple[Action, ...]]:
    if event.base.generation < state.current.generation:
        return state, (Decline(Reason.GENERATION),)
    if event.base > state.current:
        return state, (Defer(),)
    staleness = state.current.version - event.base.version
    if staleness > state.rules.max_staleness or not event.same_plan:
        return state, (Decline(Reason.LATE),)
    if event.counted_before:
        return state, (Decline(Reason.CLOSED),)
    if state.updates >= state.rules.max_pending:
        return state, (Defer(),)
    grown = replace(state, updates=state.updates + 1, devices=state.devices + event.new_device)
    count = Count(1 / math.sqrt(1 + staleness))
    return grown, (count, Close()) if grown.full else (count,)


def judge_unknown(current: HeadVersion, claimed: HeadVersion) -> Action | None:
    """Judge an update on a head this gateway does not know, so that nothing can verify it.

    Of an ended generation: not counted.  Above ours: this database was restored, or nothing is
    published yet, so wait.  Otherwise no honest device can have sent it: None.
    """
    if claimed.generation < current.generation:
        return Decline(Reason.GENERATION)
    return Defer() if claimed > current else None
