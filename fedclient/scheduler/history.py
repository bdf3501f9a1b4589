"""What the policy remembers: starts, holds, and what was spent in the last 24 hours.  Pure.

All times are device time, in seconds: a clock that only runs forward and is kept over restarts
(`ClockMark`).  It takes the place of dates: what a budget calls a day is the last 24 hours of it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from math import inf

HOUR_S = 3600.0
DAY_S = 24 * HOUR_S
LONGEST_GAP_S = 30 * DAY_S  # that a wall clock may claim to have been off for


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What training takes: each has a budget of its own."""

    training_s: float = 0.0
    traffic_bytes: float = 0.0
    energy_j: float = 0.0
    flash_bytes: float = 0.0
    update_bytes: float = 0.0  # of updates as messages; part of the traffic

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            training_s=self.training_s + other.training_s,
            traffic_bytes=self.traffic_bytes + other.traffic_bytes,
            energy_j=self.energy_j + other.energy_j,
            flash_bytes=self.flash_bytes + other.flash_bytes,
            update_bytes=self.update_bytes + other.update_bytes,
        )

    def as_list(self) -> list[float]:
        return [round(getattr(self, item.name), 3) for item in fields(Cost)]


@dataclass(frozen=True, slots=True)
class Bucket:
    """What was spent in one hour of device time."""

    hour: int
    cost: Cost

    def leaves_s(self) -> float:
        """When all of it is older than a day."""
        return (self.hour + 1) * HOUR_S + DAY_S


@dataclass(frozen=True, slots=True)
class ClockMark:
    """Device time at one moment, and how to find it again after a restart."""

    elapsed_s: float
    boot_id: str
    boot_s: float
    unix_s: float | None  # only where the wall clock was synchronised

    def elapsed_at(self, boot_id: str, boot_s: float, unix_s: float | None) -> float:
        """Return device time now.

        Within a boot it runs with the boot clock.  Over a reboot the time that the machine was
        off counts where the wall clock was synchronised at both ends; else it counts as nothing,
        so that an interval lasts too long rather than too short.
        """
        if boot_id == self.boot_id and boot_s >= self.boot_s:
            return self.elapsed_s + (boot_s - self.boot_s)  # in this order never less than elapsed_s
        gap_s = boot_s
        if unix_s is not None and self.unix_s is not None:
            gap_s = max(boot_s, min(unix_s - self.unix_s, LONGEST_GAP_S))
        return self.elapsed_s + gap_s

    def as_record(self) -> list[object]:
        """Return it as JSON."""
        return [self.elapsed_s, self.boot_id, self.boot_s, self.unix_s]

    @classmethod
    def of_record(cls, record: list[object]) -> ClockMark:
        """Read what `as_record` returned.  Raises TypeError or ValueError for anything else."""
        elapsed_s, boot_id, boot_s, unix_s = record
        unix_s = None if unix_s is None else _number(unix_s)
        return cls(_number(elapsed_s), str(boot_id), _number(boot_s), unix_s)


@dataclass(frozen=True, kw_only=True, slots=True)
class History:
    """Start with `History()`, then pass on `decision.history`; the methods return a changed copy."""

    eligible: bool = False
    lost_s: float | None = None  # when eligibility was last lost
    since: tuple[tuple[str, bool, float], ...] = ()  # gate, verdict, and since when it has it
    started_s: float | None = None  # when the last job began
    pace_s: float | None = None  # the gateway asked to begin no job before
    owner_hold_s: float | None = None  # paused until then; infinite: until resumed
    gateway_hold_s: float | None = None
    last_job: Cost = Cost()  # what the last whole job took
    spent: tuple[Bucket, ...] = ()
    training: bool = False  # a trainer runs: found so after a restart, its end was not paid for

    def was_closed(self, gate: str) -> bool:
        """Tell whether a gate was closed at the last decision."""
        return any(name == gate and not ok for name, ok, _ in self.since)

    def since_s(self, gate: str, *, ok: bool, now_s: float) -> float:
        """Return since when a gate has this verdict, if it has it now."""
        return next((at_s for name, was, at_s in self.since if name == gate and was is ok), now_s)

    def started(self, now_s: float) -> History:
        """Note the start of a new job."""
        return replace(self, started_s=now_s)

    def held(self, who: str, until_s: float | None) -> History:
        """Pause until then on behalf of "owner" or "gateway"; None: no longer."""
        if who == "owner":
            return replace(self, owner_hold_s=until_s)
        return replace(self, gateway_hold_s=until_s)

    def spend(self, cost: Cost, now_s: float) -> History:
        """Add what was spent; hours older than a day go."""
        hour = int(now_s // HOUR_S)
        kept = [bucket for bucket in self.spent if bucket.leaves_s() > now_s]
        same = next((bucket.cost for bucket in kept if bucket.hour == hour), Cost())
        others = [bucket for bucket in kept if bucket.hour != hour]
        return replace(self, spent=(*others, Bucket(hour, same + cost)))

    def spent_at(self, now_s: float) -> Cost:
        """Return what was spent in the last 24 hours; an hour counts until all of it is older."""
        total = Cost()
        for bucket in self.spent:
            if bucket.leaves_s() > now_s:
                total += bucket.cost
        return total

    def spent_of(self, field: str, now_s: float) -> float:
        """Return one of `spent_at`: what a decision asks for several times."""
        found: list[float] = [
            getattr(bucket.cost, field) for bucket in self.spent if bucket.leaves_s() > now_s
        ]
        return sum(found)

    def as_record(self) -> dict[str, object]:
        """Return what must survive a restart, as JSON; verdicts are made anew."""
        return {
            "lost_s": self.lost_s,
            "started_s": self.started_s,
            "pace_s": self.pace_s,
            "owner_hold_s": _finite(self.owner_hold_s),
            "gateway_hold_s": _finite(self.gateway_hold_s),
            "last_job": self.last_job.as_list(),
            "spent": [[bucket.hour, *bucket.cost.as_list()] for bucket in self.spent],
            "training": self.training,
        }

    @classmethod
    def of_record(cls, record: dict[str, object]) -> History:
        """Read what `as_record` returned.  Raises KeyError, TypeError or ValueError for anything else."""
        last, spent = record["last_job"], record["spent"]
        if not isinstance(last, list) or not isinstance(spent, list):
            raise TypeError("last_job and spent are lists")
        hours = [int(_number(hour)) for hour, *_ in spent]
        return cls(
            lost_s=_time(record["lost_s"]),
            started_s=_time(record["started_s"]),
            pace_s=_time(record["pace_s"]),
            owner_hold_s=_time(record["owner_hold_s"]),
            gateway_hold_s=_time(record["gateway_hold_s"]),
            last_job=_cost(last),
            spent=tuple(Bucket(hour, _cost(cost)) for hour, (_, *cost) in zip(hours, spent, strict=True)),
            training=record["training"] is True,
        )


def _finite(at_s: float | None) -> float | str | None:
    return "resumed" if at_s == inf else at_s


def _time(found: object) -> float | None:
    if found is None:
        return None
    if found == "resumed":
        return inf
    return _number(found)


def _number(found: object) -> float:
    """Take a number that is finite; JSON has infinities and NaN, and integers beyond any float."""
    if isinstance(found, bool) or not isinstance(found, (int, float)):
        raise TypeError("a time is a number")
    if not abs(found) < 1e15:  # 30 million years
        raise ValueError("a number is finite")
    return float(found)


def _cost(found: list[object]) -> Cost:
    names = [item.name for item in fields(Cost)]
    if len(found) == len(names) - 1:  # an older fedclient did not count updates
        found = [*found, 0.0]
    return Cost(**{name: _number(value) for name, value in zip(names, found, strict=True)})
