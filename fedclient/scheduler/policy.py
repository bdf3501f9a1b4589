"""May this device train now?  decide(readings, policy, history, now_s) -> Decision.  Pure.

Rules:

1. A device is eligible when every gate is open.  A gate whose reading is unknown (`None`) is closed.
2. A gate that is open closes at its threshold; once closed it opens again only past the threshold
   plus a margin, so that a value that hovers there does not flap.
3. Losing eligibility is immediate; after that, the `dwell` gate stays closed for `dwell_s`.  So
   two starts are never closer than `dwell_s`, and a device that never trained does not wait.
4. While the trainer runs, what it uses itself (CPU, memory) does not count against it, and the
   new samples are not asked for again.
5. A gate that is switched off is open, whatever its reading, and says so.

To add a gate, write one function (readings, policy) -> Check and put it in `GATES`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleCounts:
    """What the sample store holds: usable rows since the last settled job, and distinct usable rows."""

    new: int | None = None
    distinct: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Readings:
    """What was measured; None is "unknown", never "none"."""

    has_battery: bool | None = None  # False: mains, as far as anyone can tell
    charging: bool | None = None  # or on mains with the battery full
    battery_percent: float | None = None
    cpu_percent: float | None = None  # of all cores together, the trainer's share included
    free_memory_mib: float | None = None
    free_disk_mib: float | None = None
    samples: SampleCounts = SampleCounts()
    training: bool = False
    trainer_cpu_percent: float = 0.0  # of all cores together; also just after a trainer's end
    trainer_memory_mib: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """When to train; only what is asked for here counts.

    A field with `help` is a key of the config's `[schedule]`.
    """

    min_battery_percent: float | None = field(
        default=50.0,
        metadata={"help": "on battery, train at this level or above", "expected": (0, 100)},
    )
    require_charging: bool = field(
        default=False, metadata={"help": "never train on battery, whatever its level"}
    )
    max_cpu_percent: float | None = field(
        default=50.0,
        metadata={
            "help": "train while other programs use at most this share of all cores",
            "expected": (1, 100),
        },
    )
    min_free_memory_mib: float | None = field(
        default=128.0,
        metadata={"help": "memory that must be free before the trainer starts", "expected": (0, 1 << 20)},
    )
    min_free_disk_mib: float | None = field(
        default=100.0,
        metadata={"help": "room that must be free where the state folder is", "expected": (0, 1 << 30)},
    )
    min_new_samples: int | None = field(
        default=None,
        metadata={"help": "wait for so many samples newer than the last job's", "expected": (0, 1_000_000)},
    )
    dwell_s: float = field(
        default=300.0,
        metadata={"help": "after conditions failed, wait at least so long", "expected": (0, 86_400)},
    )
    poll_s: float = field(
        default=60.0,
        metadata={"help": "how often to look again, while there is a job", "expected": (1, 86_400)},
    )
    min_distinct_samples: int = 32  # the privacy floor; its key is [privacy] min_samples


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """One gate's verdict, for people (`sentence`) and programs."""

    name: str
    ok: bool
    value: float | None
    threshold: float | None  # what `value` was compared with, margin included; None: with nothing
    unit: str
    sentence: str


@dataclass(frozen=True, kw_only=True, slots=True)
class History:
    """What `decide` remembers; start with `History()`, then pass on `decision.history`."""

    eligible: bool = False
    lost_s: float | None = None  # when eligibility was last lost, boot-time seconds
    closed: tuple[str, ...] = ()  # gates that open again only past their margin


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """Whether to train, every gate, and the history for the next call."""

    eligible: bool
    gates: tuple[Gate, ...]
    history: History

    @property
    def closed(self) -> tuple[str, ...]:
        """Names of the closed gates: all that a status message carries."""
        return tuple(gate.name for gate in self.gates if not gate.ok)

    def as_dict(self) -> dict[str, object]:
        """Return what `--json` prints."""
        return {"eligible": self.eligible, "gates": [asdict(gate) for gate in self.gates]}


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """What a gate compares: `value` with `threshold` (None: switched off), unless `verdict` is settled."""

    name: str
    noun: str
    value: float | None
    threshold: float | None
    unit: str = ""
    at_most: bool = False  # the value must be at most, not at least, the threshold
    margin: float = 0.0  # how far past the threshold a closed gate opens again
    verdict: bool | None = None
    because: str = ""  # the sentence that goes with `verdict`


def _power(readings: Readings, policy: Policy) -> Check:
    """Mains, charging, or enough in the battery."""
    threshold = policy.min_battery_percent
    off = threshold is None and not policy.require_charging
    verdict, because = None, ""
    if off:
        pass
    elif readings.has_battery is False:
        verdict, because = True, "on mains power: this machine has no battery"
    elif readings.has_battery is None:
        verdict, because = False, "whether this machine runs on battery cannot be read"
    elif readings.charging:
        verdict, because = True, "the battery is charging or full"
    elif policy.require_charging:
        verdict, because = False, "not known to be charging, and [schedule] require_charging is set"
    return Check(
        name="power",
        noun="the battery level",
        value=readings.battery_percent,
        threshold=threshold,
        unit="%",
        margin=0.0 if threshold is None else min(5.0, 100.0 - threshold),
        verdict=verdict,
        because=because,
    )


def _load(readings: Readings, policy: Policy) -> Check:
    """Other programs' share of the processor."""
    value, limit = readings.cpu_percent, policy.max_cpu_percent
    if value is not None:
        value = max(value - readings.trainer_cpu_percent, 0.0)  # in this order a NaN stays one
    return Check(
        name="load",
        noun="the processor load",
        value=value,
        threshold=limit,
        unit="%",
        at_most=True,
        margin=0.2 * (limit or 0.0),
    )


def _memory(readings: Readings, policy: Policy) -> Check:
    """Free memory, counted as if the trainer had not started."""
    value, floor = readings.free_memory_mib, policy.min_free_memory_mib
    if value is not None:
        value += readings.trainer_memory_mib
    margin = 0.1 * (floor or 0.0)
    return Check(name="memory", noun="free memory", value=value, threshold=floor, unit="MiB", margin=margin)


def _disk(readings: Readings, policy: Policy) -> Check:
    """Room where the state folder is."""
    value, floor = readings.free_disk_mib, policy.min_free_disk_mib
    margin = 0.1 * (floor or 0.0)
    return Check(name="disk", noun="free disk space", value=value, threshold=floor, unit="MiB", margin=margin)


def _new_samples(readings: Readings, policy: Policy) -> Check:
    """Enough that the last job did not see; asked before a job only."""
    return Check(
        name="new_samples",
        noun="the number of new samples",
        value=readings.samples.new,
        threshold=policy.min_new_samples,
        verdict=True if readings.training and policy.min_new_samples is not None else None,
        because="the job has begun: new samples are not asked for again",
    )


def _distinct_samples(readings: Readings, policy: Policy) -> Check:
    """Enter no job below the owner's privacy floor (PROTOCOL section 8)."""
    return Check(
        name="distinct_samples",
        noun="the number of distinct samples",
        value=readings.samples.distinct,
        threshold=policy.min_distinct_samples,
    )


GATES: tuple[Callable[[Readings, Policy], Check], ...] = (
    _power,
    _load,
    _memory,
    _disk,
    _new_samples,
    _distinct_samples,
)


def decide(readings: Readings, policy: Policy, history: History, now_s: float) -> Decision:
    """Return the verdict at `now_s` (boot-time seconds), every gate, and the next history."""
    checks = [gate(readings, policy) for gate in GATES]
    gates = tuple(_judge(check, was_closed=check.name in history.closed) for check in checks)
    closed = tuple(gate.name for gate in gates if not gate.ok)
    gates = (*gates, _dwell(policy, history, now_s))
    eligible = all(gate.ok for gate in gates)
    lost_s = now_s if history.eligible and not eligible else history.lost_s
    return Decision(
        eligible=eligible,
        gates=gates,
        history=History(eligible=eligible, lost_s=lost_s, closed=closed),
    )


def _judge(check: Check, *, was_closed: bool) -> Gate:
    """Compare, with the margin where the gate was closed before."""
    value = check.value if check.value is not None and isfinite(check.value) else None
    threshold = check.threshold
    if check.verdict is not None:
        ok, sentence = check.verdict, check.because
    elif threshold is None:
        ok, sentence = True, f"{check.noun} does not matter: this gate is switched off"
    else:
        if was_closed:
            threshold += -check.margin if check.at_most else check.margin
        bound = f"at {'most' if check.at_most else 'least'} {_number(threshold, check.unit)}"
        ok = value is not None and (value <= threshold if check.at_most else value >= threshold)
        found = "cannot be read" if value is None else f"is {_number(value, check.unit)}"
        sentence = f"{check.noun} {found}, {'as asked:' if ok else 'but must be'} {bound}"
    return Gate(name=check.name, ok=ok, value=value, threshold=threshold, unit=check.unit, sentence=sentence)


def _dwell(policy: Policy, history: History, now_s: float) -> Gate:
    """Keep a device that lost eligibility waiting for `dwell_s`."""
    waited_s = None if history.lost_s is None else now_s - history.lost_s
    # A negative wait means that the machine was started again since: its clock began at zero.
    waiting = not history.eligible and waited_s is not None and 0 <= waited_s < policy.dwell_s
    if waiting:
        sentence = f"conditions failed {waited_s:.0f} s ago; wait {policy.dwell_s:.0f} s before the next try"
    else:
        sentence = "conditions did not fail recently"
    return Gate(
        name="dwell",
        ok=not waiting,
        value=waited_s,
        threshold=policy.dwell_s,
        unit="s",
        sentence=sentence,
    )


def _number(value: float, unit: str) -> str:
    """Print without digits that mean nothing."""
    digits = f"{value:.0f}" if abs(value) >= 100 else f"{round(value, 1):g}"
    return f"{digits} {unit}".strip()
