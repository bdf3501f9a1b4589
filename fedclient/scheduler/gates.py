"""The gates about the machine: one function (asked) -> Check each.  Pure.

To add one: a reading in `readings.py`, a key in `schedule.py`, a function here, its line in `GATES`.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite

from fedclient.scheduler import timing
from fedclient.scheduler.check import Asked, Check, compare, flag, off, settled, unread

LEAST_MARGIN_C = 2.0  # between pause and resume: what a sensor's noise is
TRIP_DISTANCE_C = 10.0  # stay so far below the lowest trip point: heat still rises after a stop


def power(asked: Asked) -> Check:
    """Mains, charging, or enough in the battery."""
    policy, found = asked.policy, asked.readings
    threshold = policy.min_battery_percent
    if threshold is None and not policy.require_charging:
        return off("power", "the power source")
    if found.power.value is None:
        return unread(asked, "power", "the power source", "power")
    if found.power.value == "mains":
        return settled("power", "on mains power", ok=True, value="mains", source=found.power.source)
    if found.charging.value:
        because = "the battery is charging or full"
        return settled("power", because, ok=True, value="charging", source=found.charging.source)
    if threshold is None or policy.require_charging:
        because = "not known to be charging, and [schedule] require_charging is set"
        source = found.charging.source or found.charging.reason
        return settled("power", because, ok=False, value="battery", source=source, remedy="connect power")
    return compare(
        asked,
        "power",
        "the battery level",
        "battery_percent",
        threshold=threshold,
        unit="%",
        margin=min(5.0, 100.0 - threshold),
        remedy="connect power, or lower [schedule] min_battery_percent",
    )


def supply(asked: Asked) -> Check:
    """A supply that sags writes garbage to SD cards."""
    if not asked.policy.pause_on_under_voltage:
        return off("supply", "the supply voltage")
    words = ("the supply voltage", "the supply voltage is too low now", "the supply voltage is fine")
    remedy = "a stronger power supply, or a shorter and thicker cable"
    return flag(asked, "supply", "under_voltage", words, remedy)


def throttling(asked: Asked) -> Check:
    """The firmware slows the processor down: it is hot or starved already."""
    if not asked.policy.pause_on_throttling:
        return off("throttling", "throttling")
    words = ("throttling", "the firmware slows the processor down now", "the processor is not slowed down")
    return flag(asked, "throttling", "throttled", words, "cooling, or a stronger power supply")


def frequency(asked: Asked) -> Check:
    """How much of its speed the processor is allowed."""
    return compare(
        asked,
        "frequency",
        "the highest allowed frequency of the processor",
        "cpu_cap_percent",
        threshold=asked.policy.min_cpu_cap_percent,
        unit="%",
        remedy="lift the cap on scaling_max_freq, or lower [schedule] min_cpu_cap_percent",
    )


def temperature(asked: Asked) -> Check:
    """Stop below what the board itself throttles at; go on when it is really cooler."""
    policy, trip_c = asked.policy, asked.readings.trip_temp_c.value
    pause_c = policy.pause_temp_c
    if pause_c is not None and trip_c is not None and isfinite(trip_c):
        pause_c = min(pause_c, trip_c - TRIP_DISTANCE_C)
    # a trip point that lowers the pause leaves the owner's resume where it is, while that is below
    margin = 0.0 if pause_c is None else max(pause_c - policy.resume_temp_c, LEAST_MARGIN_C)
    return compare(
        asked,
        "temperature",
        "the temperature",
        "temp_c",
        threshold=pause_c,
        unit="°C",
        at_most=True,
        margin=margin,
        remedy="cooling, or a higher [schedule] pause_temp_c",
    )


def load(asked: Asked) -> Check:
    """Other programs' share of the processor."""
    found, limit = asked.readings, asked.policy.max_cpu_percent
    terms = {
        "threshold": limit,
        "unit": "%",
        "at_most": True,
        "margin": 0.2 * (limit or 0.0),
        "remedy": "less other work on this machine, or a higher [schedule] max_cpu_percent",
    }
    if found.cpu_percent.value is not None:  # in this order a NaN stays one
        terms["value"] = max(found.cpu_percent.value - found.activity.trainer_cpu_percent, 0.0)
    return compare(asked, "load", "the processor load", "cpu_percent", **terms)


def pressure(asked: Asked) -> Check:
    """Programs that wait for a processor; the trainer itself would count in."""
    limit = asked.policy.max_pressure_percent
    if limit is not None and asked.readings.activity.training:
        return settled("pressure", "the job has begun: pressure is not asked for again", ok=True)
    return compare(
        asked,
        "pressure",
        "the time that programs wait for a processor",
        "psi_cpu_percent",
        threshold=limit,
        unit="%",
        at_most=True,
        margin=0.2 * (limit or 0.0),
        remedy="less other work on this machine, or a higher [schedule] max_pressure_percent",
    )


def memory(asked: Asked) -> Check:
    """Free memory, counted as if the trainer had not started."""
    found, floor = asked.readings, asked.policy.min_free_memory_mib
    terms = {
        "threshold": floor,
        "unit": "MiB",
        "margin": 0.1 * (floor or 0.0),
        "remedy": "end programs, or lower [schedule] min_free_memory_mib",
    }
    if found.free_memory_mib.value is not None:
        terms["value"] = found.free_memory_mib.value + found.activity.trainer_memory_mib
    return compare(asked, "memory", "free memory", "free_memory_mib", **terms)


def disk(asked: Asked) -> Check:
    """Room where the state folder is."""
    floor = asked.policy.min_free_disk_mib
    return compare(
        asked,
        "disk",
        "free disk space",
        "free_disk_mib",
        threshold=floor,
        unit="MiB",
        margin=0.1 * (floor or 0.0),
        remedy="delete files, or lower [schedule] min_free_disk_mib",
    )


def network(asked: Asked) -> Check:
    """The kind of network that the default route uses."""
    found, wanted = asked.readings.network, asked.policy.networks
    if not wanted:
        return off("network", "the network")
    if asked.readings.activity.broker_is_local:
        return settled("network", "the broker is on this machine: no network is needed", ok=True)
    if found.value is None:
        return unread(asked, "network", "the network", "network")
    ok = found.value in wanted
    because = f"the network is {found.value}" + ("" if ok else f", but must be {' or '.join(wanted)}")
    if found.value == "none":
        because = "there is no network: no default route"
    remedy = "connect to another network, or change [schedule] networks"
    return settled("network", because, ok=ok, value=found.value, source=found.source, remedy=remedy)


def metered(asked: Asked) -> Check:
    """Somebody pays for each byte."""
    if asked.policy.allow_metered:
        return off("metered", "whether the network is metered")
    if asked.readings.activity.broker_is_local or asked.readings.network.value == "none":
        return settled("metered", "no network is used", ok=True)
    words = ("whether the network is metered", "the network is metered", "the network is not metered")
    remedy = "connect to another network, or set [schedule] allow_metered"
    return flag(asked, "metered", "metered", words, remedy)


def session(asked: Asked) -> Check:
    """Whoever sits at the screen must not notice; a headless board has nobody."""
    if asked.policy.min_input_idle_s is None:
        return off("session", "whether somebody uses this machine")
    seated = asked.readings.graphical_session
    if seated.value is None:
        return unread(asked, "session", "whether somebody sits at the screen", "graphical_session")
    if not seated.value:
        return settled(
            "session", "nobody is logged in at a screen", ok=True, value=False, source=seated.source
        )
    return compare(
        asked,
        "session",
        "the time since the last input",
        "input_idle_s",
        threshold=asked.policy.min_input_idle_s,
        unit="s",
        remedy="leave keyboard and mouse alone, or lower [schedule] min_input_idle_s",
    )


def new_samples(asked: Asked) -> Check:
    """Enough that the last job did not see; asked before a job only."""
    floor = asked.policy.min_new_samples
    if floor is not None and asked.readings.activity.training:
        because = "the job has begun: new samples are not asked for again"
        return settled("new_samples", because, ok=True)
    return _samples("new_samples", "the number of new samples", asked.readings.activity.samples.new, floor)


def distinct_samples(asked: Asked) -> Check:
    """Enter no job below the owner's privacy floor (PROTOCOL section 8)."""
    found = asked.readings.activity.samples.distinct
    floor = asked.policy.min_distinct_samples
    return _samples("distinct_samples", "the number of distinct samples", found, floor)


def _samples(name: str, noun: str, found: int | None, floor: int | None) -> Check:
    remedy = "record samples"
    if floor is None:
        return off(name, noun)
    if found is None:
        because = f"{noun} is not known: the sample store cannot be read"
        return settled(name, because, ok=False, remedy="`fedclient doctor` tells what is wrong with it")
    source = "samples/, less those held out ([adoption] holdout)"
    return Check(name=name, noun=noun, value=found, threshold=floor, source=source, remedy=remedy)


def own_gate(asked: Asked) -> Check:
    """The owner's own function."""
    found = asked.readings.own_gate
    if asked.policy.gate is None:
        return off("own_gate", "a gate of your own")
    if found.value is None:
        because = found.reason or f"{asked.policy.gate} gave no answer"
        return settled("own_gate", because, ok=False, source=found.reason, remedy=f"mend {asked.policy.gate}")
    because = f"{asked.policy.gate} says {'yes' if found.value else 'no'}"
    remedy = f"what {asked.policy.gate} asks for"
    return settled("own_gate", because, ok=found.value, value=found.value, source=found.source, remedy=remedy)


GATES: tuple[Callable[[Asked], Check], ...] = (
    timing.paused,
    power,
    supply,
    throttling,
    temperature,
    frequency,
    load,
    pressure,
    memory,
    disk,
    network,
    metered,
    session,
    new_samples,
    distinct_samples,
    timing.window,
    timing.spacing,
    timing.pace,
    timing.training_time,
    timing.traffic,
    timing.update_bytes,
    timing.energy,
    timing.flash,
    own_gate,
    timing.dwell,
)
