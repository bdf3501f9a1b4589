"""Measure what the policy asks about; whatever cannot be measured is None.

The processor load is the share of busy time between two reads: nothing blocks or samples in
the background.  Where there is no useful earlier read (the first one, or one long ago) the
load average of the last minute stands in, except during training, which it would count in.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import psutil

from fedclient.scheduler.power import PowerSettings
from fedclient.scheduler.profile import Profile
from fedclient.scheduler.readings import Activity, Reading, Readings, unknown

if TYPE_CHECKING:
    from collections.abc import Callable

MIN_WINDOW_S = 1.0  # two cores give 200 ticks in it: finer is noise
MAX_WINDOW_S = 300.0  # a mean over more than this says little about now
MIB = 1 << 20
T = TypeVar("T")


class _Cpu(NamedTuple):
    """Seconds since boot, over all cores; `trainer_s` is of this process's children, alive and reaped."""

    busy_s: float
    total_s: float
    trainer_s: float


class Probe:
    """Reads this machine; keep one, since load is what happened since the last read."""

    def __init__(
        self,
        state_folder: Path,
        *,
        root: Path = Path("/"),
        profile: Profile,
        power: PowerSettings = PowerSettings(),  # noqa: B008 - frozen
        own_gate: str | None = None,
    ) -> None:
        self._state_folder = state_folder
        self._power_supply = root / "sys/class/power_supply"
        self._process = psutil.Process()
        self._cores = psutil.cpu_count() or 1
        self._before: _Cpu | None = None
        self._load: tuple[float, float] | None = None  # of the last window: all, and the trainer's share
        self._before = _known(lambda: self._cpu(None))

    def read(self, activity: Activity, now_s: float, trainer_pid: int | None = None) -> Readings:
        """Measure now; `trainer_pid` is the child that trains, if one does."""
        has_battery, charging, battery_percent = self._power()
        cpu = self._cpu_percent(trainer_pid)
        memory = _known(lambda: psutil.virtual_memory().available / MIB)
        disk = _known(lambda: psutil.disk_usage(str(self._state_folder)).free / MIB)
        power = None if has_battery is None else "battery" if has_battery else "mains"
        return Readings(
            power=Reading(power, "power_supply"),
            charging=Reading(charging, "power_supply"),
            battery_percent=Reading(battery_percent, "power_supply"),
            cpu_percent=unknown("no window yet") if cpu is None else Reading(cpu[0], "psutil"),
            free_memory_mib=Reading(memory, "psutil"),
            free_disk_mib=Reading(disk, "psutil"),
            activity=replace(
                activity,
                training=trainer_pid is not None,
                trainer_cpu_percent=0.0 if cpu is None else cpu[1],
                trainer_memory_mib=_private_mib(trainer_pid),
            ),
        )

    def _power(self) -> tuple[bool | None, bool | None, float | None]:
        """Return (has battery, charging, percent).

        psutil says None for "no battery" and for "a battery that does not tell": the names tell
        these apart, by psutil's own rule.
        """
        try:
            names = [entry.name for entry in self._power_supply.iterdir()]
        except FileNotFoundError:  # a kernel without such hardware; but without /sys, who knows
            return (False if self._power_supply.parent.is_dir() else None), None, None
        except OSError:
            return None, None, None
        if not any(name.startswith("BAT") or "battery" in name.lower() for name in names):
            return False, None, None
        battery = _known(psutil.sensors_battery)
        return (True, None, None) if battery is None else (True, battery.power_plugged, battery.percent)

    def _cpu_percent(self, trainer_pid: int | None) -> tuple[float, float] | None:
        """Return the share of all cores in percent that was busy, and that the trainer used."""
        before, now = self._before, _known(lambda: self._cpu(trainer_pid))
        if now is None:
            return None
        window_s = 0.0 if before is None else (now.total_s - before.total_s) / self._cores
        if before is not None and window_s >= MIN_WINDOW_S:
            self._before = now
            if window_s <= MAX_WINDOW_S or trainer_pid is not None:
                self._load = _percent(before, now)
                return self._load
            self._load = None
        if self._load is None and trainer_pid is None:
            average = _known(lambda: psutil.getloadavg()[0])
            return None if average is None else (min(100.0, 100.0 * average / self._cores), 0.0)
        return self._load

    def _cpu(self, trainer_pid: int | None) -> _Cpu:
        """Read the counters.  A trainer's time moves to its parent's `children_*` when it is reaped."""
        times = psutil.cpu_times()
        guest_s = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)  # counted in user, too
        total_s = sum(times) - guest_s
        ours = self._process.cpu_times()
        trainer_s: float = ours.children_user + ours.children_system
        if trainer_pid is not None:
            trainer = _known(lambda: psutil.Process(trainer_pid).cpu_times())
            trainer_s += 0.0 if trainer is None else trainer.user + trainer.system
        idle_s = times.idle + getattr(times, "iowait", 0.0)
        return _Cpu(busy_s=total_s - idle_s, total_s=total_s, trainer_s=trainer_s)


def _percent(before: _Cpu, now: _Cpu) -> tuple[float, float]:
    """Clamp both: the kernel's counters are not read at one instant, and iowait may run backwards."""
    elapsed_s = now.total_s - before.total_s
    busy = 100.0 * (now.busy_s - before.busy_s) / elapsed_s
    trainer = 100.0 * (now.trainer_s - before.trainer_s) / elapsed_s
    return min(100.0, max(0.0, busy)), min(100.0, max(0.0, trainer))


def _private_mib(pid: int | None) -> float:
    """Return what the end of process `pid` would free, 0 when there is none."""
    if pid is None:
        return 0.0
    memory = _known(lambda: psutil.Process(pid).memory_info())
    return 0.0 if memory is None else max(0.0, (memory.rss - memory.shared) / MIB)


def _known(measure: Callable[[], T]) -> T | None:
    """Return the measurement, or None where this machine does not give it."""
    try:
        return measure()
    except (psutil.Error, OSError, RuntimeError, ValueError, AttributeError):
        return None
