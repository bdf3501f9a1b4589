"""What the machine says: each reading is a value with its source, or None with a reason.

None is "unknown", never "no": a gate whose reading is None is closed, unless the board's
profile says that this board has no such sensor.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from math import isfinite
from typing import Generic, TypeVar

from fedclient.limits import UPDATE_BYTES

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Reading(Generic[T]):
    """One measured value and the file or command it is from; or None and why it is not known."""

    value: T | None = None
    source: str = ""
    reason: str = ""

    def as_dict(self) -> dict[str, object]:
        """Return what `--json` prints."""
        value = self.value
        if value is None or (isinstance(value, float) and not isfinite(value)):
            return {"value": None, "reason": self.reason or "not a number"}
        return {"value": round(value, 3) if isinstance(value, float) else value, "source": self.source}


def unknown(reason: str) -> Reading[T]:
    """Say why there is no value."""
    return Reading(None, reason=reason)


def _unread() -> Reading[T]:
    return Reading(None, reason="not read")


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleCounts:
    """What the sample store holds: usable rows since the last settled job, and distinct usable rows."""

    new: int | None = None
    distinct: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Activity:
    """What fedclient itself is doing: it must not count against itself."""

    training: bool = False
    resuming: bool = False  # the job that waits was begun before: spacing and pace are not asked again
    trainer_cpu_percent: float = 0.0  # of all cores together; also just after a trainer's end
    trainer_memory_mib: float = 0.0
    broker_is_local: bool = False  # on this machine: no network is used
    samples: SampleCounts = SampleCounts()
    update_needs_bytes: float = float(UPDATE_BYTES[0])  # the least that the next update can be made to have


@dataclass(frozen=True, kw_only=True, slots=True)
class Readings:
    """All that is measured; the field names are those of `boards detect --json` and of profiles."""

    power: Reading[str] = field(default_factory=_unread)  # "mains" or "battery"
    charging: Reading[bool] = field(default_factory=_unread)  # or on mains with the battery full
    battery_percent: Reading[float] = field(default_factory=_unread)
    under_voltage: Reading[bool] = field(default_factory=_unread)  # now, not since boot
    throttled: Reading[bool] = field(default_factory=_unread)  # the firmware slows the CPU down now
    cpu_cap_percent: Reading[float] = field(default_factory=_unread)  # allowed of its highest frequency
    temp_c: Reading[float] = field(default_factory=_unread)  # the hottest zone that counts
    trip_temp_c: Reading[float] = field(default_factory=_unread)  # lowest passive or hot trip point
    cpu_percent: Reading[float] = field(default_factory=_unread)  # of all cores, the trainer's included
    psi_cpu_percent: Reading[float] = field(default_factory=_unread)  # /proc/pressure/cpu, some avg10
    free_memory_mib: Reading[float] = field(default_factory=_unread)
    free_disk_mib: Reading[float] = field(default_factory=_unread)  # where the state folder is
    network: Reading[str] = field(default_factory=_unread)  # NETWORKS: of the default route
    metered: Reading[bool] = field(default_factory=_unread)
    clock_synchronised: Reading[bool] = field(default_factory=_unread)
    graphical_session: Reading[bool] = field(default_factory=_unread)  # somebody sits at it
    input_idle_s: Reading[float] = field(default_factory=_unread)  # only with a graphical session
    power_mode: Reading[str] = field(default_factory=_unread)  # Jetson's nvpmodel; reported, never set
    power_w: Reading[float] = field(default_factory=_unread)  # what the whole board draws, by its rails
    own_gate: Reading[bool] = field(default_factory=_unread)  # what [schedule] gate returned
    activity: Activity = field(default_factory=Activity)

    def as_dict(self) -> dict[str, dict[str, object]]:
        """Return the readings by name, as `--json` prints them."""
        return {name: getattr(self, name).as_dict() for name in SENSORS}


NETWORKS = ("ethernet", "wifi", "cellular", "tether", "other", "none")
SENSORS = tuple(item.name for item in fields(Readings) if item.name != "activity")
