"""The gates about time: holds, windows, spacing, budgets.  Pure.

A budget is of any 24 hours of device time, so it needs no date.  Its gate closes while enough is
left for what a job may still take until it has ended: the budget is never exceeded.  A job that needs
more than a whole budget never begins.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf, isfinite
from typing import Any

from fedclient.scheduler import windows
from fedclient.scheduler.check import Asked, Check, duration, number, off, settled
from fedclient.scheduler.profile import Profile
from fedclient.scheduler.readings import Readings

MIB = 1 << 20
LOOK_S = 15.0  # a training that must end has ended so long after a decision: the next look, and the grace
UPDATE_BYTES = 16 * 1024.0  # of a job's messages, before the first one was sent
JOB_FLASH_BYTES = 2.0 * MIB  # of a job, before the first one was done


def paused(asked: Asked) -> Check:
    """The owner or the gateway said: not now."""
    now_s, history = asked.now.elapsed_s, asked.history
    holds = {"the owner": history.owner_hold_s, "the gateway": history.gateway_hold_s}
    held = {who: until_s for who, until_s in holds.items() if until_s is not None and until_s > now_s}
    if not held:
        return settled("paused", "nobody paused it", ok=True)
    who, until_s = max(held.items(), key=lambda one: one[1])
    span = "until resumed" if until_s == inf else f"for another {duration(until_s - now_s)}"
    remedy = "`fedclient resume`" if who == "the owner" else "`fedclient gateway resume`, at the gateway"
    return settled("paused", f"{who} paused it {span}", ok=False, opens_s=until_s, remedy=remedy)


def window(asked: Asked) -> Check:
    """Local hours, where the clock is known to be right."""
    wanted, minute = asked.policy.windows, asked.now.minute_of_week
    if not wanted:
        return off("window", "the time of day")
    if minute is None:
        because = "the time of day is not known: the clock is not synchronised"
        return settled("window", because, ok=False, remedy="let this machine reach a time server")
    if windows.is_open(wanted, minute):
        return settled("window", f"inside of {' or '.join(wanted)}", ok=True)
    opens_s = asked.now.elapsed_s + 60.0 * windows.opens_in_min(wanted, minute)
    because = f"outside of {' and '.join(wanted)}"
    return settled("window", because, ok=False, opens_s=opens_s, remedy="wait, or change [schedule] windows")


def spacing(asked: Asked) -> Check:
    """Not one job after the other."""
    started_s, spacing_s = asked.history.started_s, asked.policy.min_spacing_s
    if not asked.new_job:
        return settled("spacing", "the job has begun: spacing is not asked for again", ok=True)
    if spacing_s == 0:
        return off("spacing", "the time since the last job")
    if started_s is None:
        return settled("spacing", "there was no job yet", ok=True)
    waited_s = max(0.0, asked.now.elapsed_s - started_s)
    if asked.now.elapsed_s >= started_s + spacing_s:
        waited_s = max(waited_s, spacing_s)  # the difference of two floats may be a hair less
    return Check(
        name="spacing",
        noun="the time since the last job began",
        value=waited_s,
        threshold=spacing_s,
        unit="s",
        opens_s=started_s + spacing_s,
        remedy="wait, or lower [schedule] min_spacing_s",
    )


def pace(asked: Asked) -> Check:
    """The gateway spreads its devices over time: each drew a moment, and begins no job before it."""
    until_s = asked.history.pace_s
    if not asked.new_job or until_s is None or until_s <= asked.now.elapsed_s:
        return settled("pace", "the gateway asked for no pause", ok=True)
    because = f"the gateway asked to wait for another {duration(until_s - asked.now.elapsed_s)}"
    return settled("pace", because, ok=False, opens_s=until_s, remedy="wait")


def training_time(asked: Asked) -> Check:
    """Seconds with a trainer at work."""
    return _budget(asked, "training_s", "training_time", ("daily_training_s", 1.0, "s"), LOOK_S)


def traffic(asked: Asked) -> Check:
    """MQTT bytes, both ways; a job needs as many as the last one."""
    needed = max(asked.history.last_job.traffic_bytes, UPDATE_BYTES)
    return _budget(asked, "traffic_bytes", "traffic", ("daily_traffic_mib", MIB, "MiB"), needed)


def update_bytes(asked: Asked) -> Check:
    """Bytes of updates, as messages; a job that was begun has been promised its own already."""
    budget, activity = asked.policy.max_update_bytes_per_day, asked.readings.activity
    if budget is None:
        return off("update_bytes", "[limits] max_update_bytes_per_day")
    if activity.training or activity.resuming:
        return settled("update_bytes", "the job has begun: its update has its bytes", ok=True)
    spent, needed = asked.history.spent_of("update_bytes", asked.now.elapsed_s), activity.update_needs_bytes
    ok = spent + needed <= budget
    because = f"{spent:.0f} of {budget} bytes of updates sent in the last 24 hours"
    remedy = "wait, or raise [limits] max_update_bytes_per_day, or the plan's max_bytes_per_day"
    if not ok:
        because += f", and an update has {needed:.0f} at least"
    opens_s = None if ok else _affordable_s(asked, "update_bytes", lambda spent: spent + needed <= budget)
    told: dict[str, Any] = {"value": spent, "threshold": float(budget), "unit": "B", "source": "history"}
    return settled("update_bytes", because, ok=ok, remedy=remedy, opens_s=opens_s, **told)


def energy(asked: Asked) -> Check:
    """Joules by the board's rail, or by its profile's estimate; without either the budget cannot be kept."""
    drawn_w, last = watts(asked.readings, asked.profile), asked.history.last_job
    if asked.policy.daily_energy_j is not None and drawn_w is None:
        because = "[schedule] daily_energy_j cannot be kept: this board has no power rail and no estimate"
        remedy = "set daily_energy_j = false, or training_w in the board's profile"
        return settled("energy", because, ok=False, remedy=remedy)
    mean_w = last.energy_j / last.training_s if last.training_s else 0.0
    needed = LOOK_S * max(drawn_w or 0.0, mean_w)
    return _budget(asked, "energy_j", "energy", ("daily_energy_j", 1.0, "J"), needed)


def watts(readings: Readings, profile: Profile) -> float | None:
    """Return what is drawn while it trains: by the rail, before a start plus what training adds; or that."""
    rail_w, added_w = readings.power_w.value, profile.training_w
    if rail_w is None or not isfinite(rail_w) or rail_w <= 0:
        return added_w
    return rail_w if readings.activity.training else rail_w + (added_w or 0.0)


def flash(asked: Asked) -> Check:
    """Bytes written to the disk, by agent and trainer."""
    needed = max(asked.history.last_job.flash_bytes, JOB_FLASH_BYTES)
    return _budget(asked, "flash_bytes", "flash", ("daily_flash_mib", MIB, "MiB"), needed)


def dwell(asked: Asked) -> Check:
    """Keep a device that lost eligibility waiting for `dwell_s`."""
    now_s, lost_s, dwell_s = asked.now.elapsed_s, asked.history.lost_s, asked.policy.dwell_s
    if asked.history.eligible or lost_s is None or not lost_s <= now_s < lost_s + dwell_s:
        return settled("dwell", "conditions did not fail recently", ok=True)
    waited_s = now_s - lost_s
    because = f"conditions failed {waited_s:.0f} s ago; wait {dwell_s:.0f} s before the next try"
    told: dict[str, float | str] = {"value": waited_s, "threshold": dwell_s, "unit": "s"}
    return settled("dwell", because, ok=False, **told, opens_s=lost_s + dwell_s, remedy="wait")


def _budget(asked: Asked, field: str, name: str, key: tuple[str, float, str], needed: float) -> Check:
    """Compare what is left of a budget with what a job needs to come to its end."""
    setting, scale, unit = key
    budget: float | None = getattr(asked.policy, setting)
    if budget is None:
        return off(name, f"[schedule] {setting}")
    spent, needed = asked.history.spent_of(field, asked.now.elapsed_s) / scale, needed / scale
    ok = spent + needed <= budget
    because = f"{number(spent, unit)} of {number(budget, unit)} spent in the last 24 hours"
    remedy = f"wait, or raise [schedule] {setting}"
    if needed > budget:
        because += f", and a job needs {number(needed, unit)}: more than there ever is"
        remedy = f"raise [schedule] {setting}"
    elif not ok:
        because += f", and {number(needed, unit)} must be left"
    return settled(
        name,
        because,
        ok=ok,
        value=spent,
        unit=unit,
        source="history",
        opens_s=None if ok else _affordable_s(asked, field, lambda spent: spent / scale + needed <= budget),
        remedy=remedy,
    )


def _affordable_s(asked: Asked, field: str, fits: Callable[[float], bool]) -> float | None:
    """Return when so much is older than a day that what is left `fits`; None where nothing is enough."""
    for bucket in sorted(asked.history.spent, key=lambda one: one.hour):
        at_s = bucket.leaves_s()
        if fits(asked.history.spent_of(field, at_s)):
            return at_s
    return None
