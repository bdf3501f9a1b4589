"""May this device train now?  decide(readings, policy, profile, history, now) -> Decision.  Pure.

Rules:

1. A device is eligible when every gate is open.  A gate whose reading is unknown (`None`) is closed,
   unless the board's profile says that this board cannot tell.
2. A gate that is open closes at its threshold; once closed it opens again only past the threshold
   plus a margin, so that a value that hovers there does not flap.
3. Losing eligibility is immediate; after that, the `dwell` gate stays closed for `dwell_s`.  So
   two starts are never closer than `dwell_s`, and a device that never trained does not wait.
4. While the trainer runs, what it uses itself (CPU, memory) does not count against it.  New
   samples and pressure are asked about before a start only, spacing and pace before a new job only.
5. A gate that is switched off is open, whatever its reading, and says so.
6. A budget's gate closes while enough is left to reach the next decision.

To add a gate, write one function in `gates.py`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from math import inf, isfinite

from fedclient.scheduler.check import Asked, Check, Now, apart, number
from fedclient.scheduler.gates import GATES
from fedclient.scheduler.history import History
from fedclient.scheduler.profile import Profile
from fedclient.scheduler.readings import Readings
from fedclient.scheduler.schedule import Policy

LONGEST_SLEEP_S = 3600.0  # a clock may be set, and what was closed for two reasons be so for one


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """One gate's verdict, for people (`sentence`, `remedy`) and programs."""

    name: str
    ok: bool
    value: float | str | bool | None
    unit: str
    source: str  # where the value was read; or why it is not known
    threshold: float | None  # what `value` was compared with, margin included; None: with nothing
    sentence: str
    since_s: float  # device time of the first decision with this verdict
    remedy: str  # what would open it; empty while it is open
    opens_s: float | None  # device time when it opens by itself, where that is known


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """Whether to train, every gate, and the history for the next call."""

    eligible: bool
    gates: tuple[Gate, ...]
    history: History
    at_s: float  # device time

    @property
    def closed(self) -> tuple[str, ...]:
        """Names of the closed gates: all that a status message carries."""
        return tuple(gate.name for gate in self.gates if not gate.ok)

    @property
    def next_s(self) -> float | None:
        """Device time before which no closed gate opens by itself; None where one cannot tell."""
        times = [gate.opens_s for gate in self.gates if not gate.ok]
        known = [at_s for at_s in times if at_s is not None]
        return max(known) if known and len(known) == len(times) else None

    def as_dict(self) -> dict[str, object]:
        """Return what `--json` prints; times are device time in seconds."""
        gates = [{**asdict(gate), "opens_s": _json(gate.opens_s)} for gate in self.gates]
        return {"eligible": self.eligible, "at_s": self.at_s, "next_s": _json(self.next_s), "gates": gates}


def decide(readings: Readings, policy: Policy, profile: Profile, history: History, now: Now) -> Decision:
    """Return the verdict now, every gate, and the next history."""
    asked = Asked(readings=readings, policy=policy, profile=profile, history=history, now=now)
    gates = tuple(_judge(gate(asked), asked) for gate in GATES)
    eligible = all(gate.ok for gate in gates)
    lost_s = now.elapsed_s if history.eligible and not eligible else history.lost_s
    since = tuple((gate.name, gate.ok, gate.since_s) for gate in gates)
    return Decision(
        eligible=eligible,
        gates=gates,
        history=replace(history, eligible=eligible, lost_s=lost_s, since=since),
        at_s=now.elapsed_s,
    )


def sleep_s(decision: Decision, poll_s: float) -> float:
    """Return how long to wait with the next question: as long as nothing opens by itself, with a bound."""
    if decision.next_s is None:
        return poll_s
    return max(poll_s, min(decision.next_s - decision.at_s, LONGEST_SLEEP_S))


def _judge(check: Check, asked: Asked) -> Gate:
    """Compare, with the margin where the gate was closed before."""
    threshold, value = check.threshold, check.value
    if check.verdict is not None or threshold is None or not isinstance(value, (int, float)):
        ok, sentence = bool(check.verdict), check.because
    else:
        if asked.history.was_closed(check.name):
            threshold += -check.margin if check.at_most else check.margin
        ok = value <= threshold if check.at_most else value >= threshold
        bound = f"at {'most' if check.at_most else 'least'} {number(threshold, check.unit)}"
        found = number(value, check.unit) if ok else apart(value, threshold, check.unit)
        sentence = f"{check.noun} is {found}, {'as asked:' if ok else 'but must be'} {bound}"
    return Gate(
        name=check.name,
        ok=ok,
        value=value,
        unit=check.unit,
        source=check.source,
        threshold=threshold,
        sentence=sentence,
        since_s=asked.history.since_s(check.name, ok=ok, now_s=asked.now.elapsed_s),
        remedy="" if ok else check.remedy,
        opens_s=None if ok else check.opens_s,
    )


def _json(at_s: float | None) -> float | None:
    """JSON has no infinity; "until resumed" is no time that is known."""
    return at_s if at_s is not None and isfinite(at_s) and at_s < inf else None
