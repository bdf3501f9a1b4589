"""Where the power comes from, by what the supplies say and by a battery's trend.  Pure.

A battery's own status comes first.  The sign of its current tells nothing: drivers differ.  A fuel
gauge that knows no charger says "Unknown" for ever: then a supply that is online tells, else the
trend of voltage and charge over minutes, else what the owner assumes.  None of these: unknown.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fedclient.scheduler.readings import Reading, unknown

EXTERNAL = ("Mains", "USB", "Wireless")  # types of supply that bring power from outside
FOLDER = "/sys/class/power_supply"
MAX_PERCENT = 105.0  # some gauges count a little beyond full; more is nonsense

# The trend: what is compared are medians of its first and last third, so that one bad value counts little.
WINDOW_S = 3600.0
MIN_SPAN_S = 300.0
SPACING_S = 15.0  # closer observations say the same
MIN_SEEN = 6
KEEP_S = 3600.0  # a verdict without a newer one; a battery that stays flat for longer may still discharge
PERCENT_STEP = 2.0  # a gauge of whole percents may flicker by one
FALL, RISE = 0.003, 0.005  # of the voltage: in doubt it discharges

Found = tuple[Reading[str], Reading[bool], Reading[float]]  # power, charging, battery_percent


@dataclass(frozen=True, kw_only=True, slots=True)
class Supply:
    """One entry of the kernel's power supplies, without those of keyboards and mice."""

    name: str
    kind: str
    status: str = "Unknown"
    online: bool | None = None
    percent: float | None = None
    volts: float | None = None

    @property
    def external(self) -> bool:
        return self.kind in EXTERNAL


@dataclass(frozen=True, slots=True)
class Seen:
    """One look at a battery."""

    at_s: float
    volts: float | None
    percent: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Trend:
    """Whether a battery charges, as its voltage and its charge tell over minutes.

    Load pulls the voltage down at once and its end lets it rise: only observations under the same
    load are compared, so the trainer's start and end each begin a new comparison.
    """

    seen: tuple[Seen, ...] = ()
    loaded: bool = False
    charging: bool | None = None
    judged_s: float = 0.0

    def after(self, now: Seen, *, loaded: bool) -> Trend:
        """Return the trend with one more observation."""
        seen = self.seen if loaded == self.loaded else ()
        if seen and now.at_s < seen[-1].at_s:  # another boot's clock
            return Trend(seen=(now,), loaded=loaded)
        if seen and now.at_s - seen[-1].at_s < SPACING_S:
            return replace(self, loaded=loaded)
        seen = (*(one for one in seen if now.at_s - one.at_s <= WINDOW_S), now)
        verdict = _direction(seen)
        if verdict is None:
            return replace(self, seen=seen, loaded=loaded)
        return Trend(seen=seen, loaded=loaded, charging=verdict, judged_s=now.at_s)

    def verdict(self, now_s: float) -> bool | None:
        """Return whether it charges; None: nobody can tell."""
        return self.charging if 0 <= now_s - self.judged_s <= KEEP_S else None


def _direction(seen: Sequence[Seen]) -> bool | None:
    if len(seen) < MIN_SEEN or seen[-1].at_s - seen[0].at_s < MIN_SPAN_S:
        return None
    change = _change([one.percent for one in seen])
    if change is not None and abs(change[1] - change[0]) >= PERCENT_STEP:
        return change[1] > change[0]
    change = _change([one.volts for one in seen])
    if change is None or change[0] <= 0:
        return None
    relative = change[1] / change[0] - 1
    return True if relative >= RISE else False if relative <= -FALL else None


def _change(values: Sequence[float | None]) -> tuple[float, float] | None:
    """Return the medians of the first and of the last third."""
    known = [one for one in values if one is not None]
    third = len(known) // 3
    return (_median(known[:third]), _median(known[-third:])) if third else None


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


def judge(supplies: Sequence[Supply], trend: bool | None, assume: str | None) -> Found:
    """Return what the supplies mean together; `trend`: whether the battery charges, by its course."""
    batteries = [one for one in supplies if not one.external]
    if not batteries:
        none: Reading[bool] = unknown("there is no battery")
        if assume is not None:
            return Reading(assume, "[power] assume"), none, unknown("there is no battery in " + FOLDER)
        return Reading("mains", f"{FOLDER} has no battery"), none, unknown("there is no battery")
    percents = [one.percent for one in batteries if one.percent is not None]
    first = next((one for one in batteries if one.percent is not None), batteries[0])
    percent: Reading[float] = unknown(f"{FOLDER}/{first.name} does not tell its charge")
    if len(percents) == len(batteries):  # several: their mean, since they empty one after the other
        percent = Reading(sum(percents) / len(percents), f"{FOLDER}/{first.name}")
    return (*_direction_of(supplies, batteries, trend, assume), percent)


def _direction_of(
    supplies: Sequence[Supply], batteries: Sequence[Supply], trend: bool | None, assume: str | None
) -> tuple[Reading[str], Reading[bool]]:
    """Return the source of power, and whether the battery charges or is full."""
    for status, charging in (
        ("Discharging", False),
        ("Charging", True),
        ("Full", True),
        ("Not charging", True),
    ):
        for one in batteries:
            if one.status == status:
                source = f"{FOLDER}/{one.name}/status: {status}"
                return Reading("mains" if charging else "battery", source), Reading(charging, source)
    external = [one for one in supplies if one.external and one.online is not None]
    online = next((one for one in external if one.online), None)
    if online is not None:
        source = f"{FOLDER}/{online.name}/online"
        return Reading("mains", source), Reading(value=True, source=source)
    name = batteries[0].name
    if any(one.kind == "Mains" for one in external):
        source = f"{FOLDER}: no supply is online"
        return Reading("battery", source), Reading(value=False, source=source)
    if trend is not None:
        source = f"the course of {FOLDER}/{name}"
        return Reading("mains" if trend else "battery", source), Reading(trend, source)
    reason = f"{FOLDER}/{name} does not tell whether it charges, nor does its course so far"
    if assume is not None:
        return Reading(assume, "[power] assume"), unknown(reason)
    return unknown(f"{reason}: set [power] assume, command or file"), unknown(reason)


def parse_report(text: str, source: str) -> Found:
    """Read what the owner's own program or file says; raises ValueError with one sentence."""
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f"{source}: this is not JSON") from None
    power = said.get("source") if isinstance(said, dict) else None
    if power not in ("mains", "battery"):
        raise ValueError(f'{source}: "source" must be "mains" or "battery"')
    percent, charging = said.get("percent"), said.get("charging")
    if charging is not None and not isinstance(charging, bool):
        raise ValueError(f'{source}: "charging" must be true or false')
    if percent is not None:
        if isinstance(percent, bool) or not isinstance(percent, int | float) or not 0 <= percent <= 100:
            raise ValueError(f'{source}: "percent" must be a number from 0 to 100')
        percent = float(percent)
    return (
        Reading(power, source),
        unknown(f"{source} does not say") if charging is None else Reading(charging, source),
        unknown(f"{source} does not say") if percent is None else Reading(percent, source),
    )
