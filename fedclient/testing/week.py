"""A made-up week of readings, the same for the same seed: the test bed for policy, traces and replay.

calm      a gateway on mains in a rack: temperature by day and night, hardly any load
busy      a kiosk on mains: load every evening, too hot on two afternoons, a supply that sags
battery   a solar node: charges by day, discharges by night, on a metered link before noon
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import Final

from fedclient.scheduler import trace
from fedclient.scheduler.check import Now
from fedclient.scheduler.readings import Activity, Reading, Readings, SampleCounts
from fedclient.scheduler.windows import WEEK_MIN

KINDS: Final = ("calm", "busy", "battery")
_HOT_DAYS: Final = (2, 5)
_DAY_S: Final = 86_400


def readings(
    kind: str, seed: int, *, days: float = 7, every_s: float = 60.0
) -> Iterator[tuple[float, Readings]]:
    """Yield (seconds since Monday 00:00, readings)."""
    if kind not in KINDS:
        raise ValueError(f"there is no {kind} week")
    rng = random.Random(f"{kind} {seed}")  # noqa: S311 - repeatable, keeps no secret
    samples, percent = 0, 80.0
    for step in range(int(days * _DAY_S / every_s)):
        at_s = step * every_s
        hour = at_s / 3600 % 24
        samples += rng.random() < every_s / 600 and 7 <= hour < 22
        sun = max(0.0, math.sin(math.pi * (hour - 6) / 12))
        percent = min(100.0, max(5.0, percent + every_s / 3600 * (14 * sun - 4.5)))
        yield at_s, _moment(kind, at_s, rng, (samples, percent, sun))


def _moment(kind: str, at_s: float, rng: random.Random, now: tuple[int, float, float]) -> Readings:
    samples, percent, sun = now
    day, hour = int(at_s // _DAY_S), at_s / 3600 % 24
    evening = kind == "busy" and 18 <= hour < 23
    cpu = rng.uniform(55, 95) if evening else rng.uniform(2, 4 if kind == "calm" else 20)
    temp_c = 44 + 7 * sun + 0.18 * cpu + rng.gauss(0, 0.2 if kind == "calm" else 1.0)
    if kind == "busy" and day in _HOT_DAYS and 12 <= hour < 17:
        temp_c += 30 + rng.gauss(0, 2)
    battery = kind == "battery"
    return Readings(
        power=Reading("battery" if battery else "mains"),
        charging=Reading(sun > 0.32) if battery else Reading(),
        battery_percent=Reading(percent) if battery else Reading(),
        under_voltage=Reading(kind == "busy" and rng.random() < 0.001),
        throttled=Reading(temp_c > 80),
        cpu_cap_percent=Reading(100.0),
        temp_c=Reading(temp_c),
        cpu_percent=Reading(cpu),
        psi_cpu_percent=Reading(max(0.0, 0.6 * cpu - 10) if evening else 0.0),
        free_memory_mib=Reading(612.0 - 2 * cpu + rng.gauss(0, 0.5 if kind == "calm" else 12)),
        free_disk_mib=Reading(8240.0 - at_s / 7200),
        network=Reading("wifi" if battery else "ethernet"),
        metered=Reading(battery and 10 <= hour < 12),
        clock_synchronised=Reading(value=True),
        graphical_session=Reading(value=False),
        power_w=Reading(3.1 + 0.04 * cpu + rng.gauss(0, 0.05)) if battery else Reading(),
        activity=Activity(samples=SampleCounts(new=samples, distinct=200 + samples)),
    )


def lines(
    kind: str, seed: int = 0, *, days: float = 7, every_s: float = 60.0, board: str = "raspberry-pi-4b"
) -> Iterator[str]:
    """Yield the lines of a trace that begins on Monday at 00:00."""
    header, written = trace.begin(board, 0.0)
    yield header
    for at_s, found in readings(kind, seed, days=days, every_s=every_s):
        minute = int(at_s // 60) % WEEK_MIN
        line, written = trace.encode(written, found, Now(elapsed_s=at_s, minute_of_week=minute))
        yield line
