"""What a gate is asked, and what it answers: `Asked` -> `Check`.  Pure."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Any

from fedclient.scheduler.history import History
from fedclient.scheduler.profile import Profile
from fedclient.scheduler.readings import Reading, Readings
from fedclient.scheduler.schedule import Policy

UNKNOWN_REMEDY = "`fedclient doctor` tells what this board can read"
_SPANS_S = (("days", 24 * 3600), ("h", 3600), ("min", 60))


@dataclass(frozen=True, kw_only=True, slots=True)
class Now:
    """`elapsed_s` is device time (`history.py`); the local minute of the week needs a clock that is right."""

    elapsed_s: float
    minute_of_week: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """All that a decision depends on."""

    readings: Readings
    policy: Policy
    profile: Profile
    history: History
    now: Now

    @property
    def new_job(self) -> bool:
        """Whether a job would begin: not one that runs, or goes on from its checkpoint."""
        return not (self.readings.activity.training or self.readings.activity.resuming)


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """What a gate compares: the number `value` with `threshold`, unless `verdict` is settled."""

    name: str
    noun: str
    value: float | str | bool | None = None
    threshold: float | None = None
    unit: str = ""
    source: str = ""
    at_most: bool = False  # the value must be at most, not at least, the threshold
    margin: float = 0.0  # how far past the threshold a closed gate opens again
    verdict: bool | None = None
    because: str = ""  # the sentence that goes with `verdict`
    remedy: str = ""  # what would open it
    opens_s: float | None = None  # when it opens by itself, in device time; infinite: never


def number(value: float, unit: str) -> str:
    """Print without digits that mean nothing."""
    digits = f"{value:.0f}" if abs(value) >= 100 else f"{round(value, 1):g}"
    return f"{digits} {unit}".strip()


def apart(value: float, limit: float, unit: str) -> str:
    """Print `value` with as many digits as tell it from `limit`, which it failed by so little."""
    if number(value, unit) != number(limit, unit):
        return number(value, unit)
    told = (f"{value:.{digits}f}" for digits in range(1, 9) if round(value, digits) != round(limit, digits))
    return f"{next(told, repr(value))} {unit}".strip()


def duration(seconds: float) -> str:
    """Print a length of time as people say it: 45 s, 12 min, 3.5 h, 2 days."""
    unit, size_s = next((one for one in _SPANS_S if seconds >= 2 * one[1]), ("s", 1))
    count = max(0.0, seconds) / size_s
    return f"{round(count, 1):g} {unit}" if size_s >= 3600 and count < 10 else f"{count:.0f} {unit}"


def settled(name: str, because: str, *, ok: bool, **more: Any) -> Check:
    """Make a check that compares nothing."""
    return Check(name=name, noun=name, verdict=ok, because=because, **more)


def off(name: str, noun: str) -> Check:
    """Make the check of a gate that the owner switched off."""
    return settled(name, f"{noun} does not matter: this gate is switched off", ok=True)


def unread(asked: Asked, name: str, noun: str, reading: str) -> Check:
    """Make the check for a value that is not known: open only where the profile lets it be."""
    found: Reading[object] = getattr(asked.readings, reading)
    excuse = asked.profile.excuses(reading)
    if excuse:
        return settled(name, f"{noun} is not asked for on this board: {excuse}", ok=True, source=found.reason)
    because = f"{noun} is not known: {found.reason or 'it cannot be read'}"
    return settled(name, because, ok=False, source=found.reason, remedy=UNKNOWN_REMEDY)


def flag(asked: Asked, name: str, reading: str, words: tuple[str, str, str], remedy: str) -> Check:
    """Make a gate that a True reading closes; `words`: what it is about, when True, when False."""
    found: Reading[bool] = getattr(asked.readings, reading)
    noun, bad, good = words
    if found.value is None:
        return unread(asked, name, noun, reading)
    because = bad if found.value else good
    return settled(name, because, ok=not found.value, value=found.value, source=found.source, remedy=remedy)


def compare(asked: Asked, name: str, noun: str, reading: str, **terms: Any) -> Check:
    """Make a gate that compares a reading with a threshold; `terms` are fields of `Check`."""
    found: Reading[float] = getattr(asked.readings, reading)
    if terms["threshold"] is None:
        return off(name, noun)
    if found.value is None or not isfinite(found.value):
        return unread(asked, name, noun, reading)
    return Check(name=name, noun=noun, **{"value": found.value, "source": found.source, **terms})
