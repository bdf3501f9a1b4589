"""What the owner asks of a good moment: the config's `[schedule]`.  Pure.

A field with `help` is a key there.  Boards bring defaults of their own (`hardware/boards`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fedclient.scheduler import windows
from fedclient.scheduler.readings import NETWORKS

DAY_S = 86_400


def _key(default: Any, text: str, *expected: object) -> Any:
    return field(default=default, metadata={"help": text, "expected": expected})


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """When to train; a gate that is `false` is switched off."""

    # power
    min_battery_percent: float | None = _key(50.0, "on battery, train at this level or above", 0, 100)
    require_charging: bool = _key(default=False, text="never train on battery, whatever its level")
    pause_on_under_voltage: bool = _key(default=True, text="stop at once while the supply voltage is too low")
    # heat
    pause_on_throttling: bool = _key(default=True, text="stop while the firmware slows the processor down")
    min_cpu_cap_percent: float | None = _key(
        None, "train while the processor may run at this share of its highest frequency", 1, 100
    )
    pause_temp_c: float | None = _key(75.0, "stop above this temperature, in degrees Celsius", 20, 110)
    resume_temp_c: float = _key(67.0, "go on below this temperature, in degrees Celsius", 10, 110)
    # the machine's own work
    max_cpu_percent: float | None = _key(
        50.0, "train while other programs use at most this share of all cores", 1, 100
    )
    max_pressure_percent: float | None = _key(
        40.0, "start while programs waited for a processor at most this share of 10 s", 0, 100
    )
    min_free_memory_mib: float | None = _key(
        128.0, "memory that must be free before the trainer starts", 0, 1 << 20
    )
    min_free_disk_mib: float | None = _key(
        100.0, "room that must be free where the state folder is", 0, 1 << 30
    )
    min_input_idle_s: float | None = _key(
        300.0, "where somebody is logged in at the screen: train after so long without input", 0, DAY_S
    )
    # network
    networks: tuple[str, ...] = _key(
        ("ethernet", "wifi", "other"),
        "kinds of network to train on; empty: any; a local broker needs none",
        *NETWORKS,
    )
    allow_metered: bool = _key(default=False, text="train and fetch heads on a metered network too")
    # samples
    min_new_samples: int | None = _key(
        None, "wait for so many samples newer than the last job's", 0, 1_000_000
    )
    # time
    windows: tuple[str, ...] = _key(
        (), 'local hours to train in, such as "Mon-Fri 22:00-06:00"; none: always'
    )
    min_spacing_s: float = _key(900.0, "between the starts of two jobs", 0, 30 * DAY_S)
    dwell_s: float = _key(300.0, "after conditions failed, wait at least so long", 0, DAY_S)
    poll_s: float = _key(60.0, "how often to look again, while there is a job", 1, DAY_S)
    # budgets, each of any 24 hours
    daily_training_s: float | None = _key(3600.0, "seconds of training in any 24 hours", 30, DAY_S)
    daily_traffic_mib: float | None = _key(None, "MQTT traffic, both ways, in any 24 hours", 0.1, 1 << 20)
    daily_energy_j: float | None = _key(None, "energy for training in any 24 hours", 1, 1e9)
    daily_flash_mib: float | None = _key(None, "bytes written to disk in any 24 hours", 2, 1 << 20)
    # the owner's own
    gate: str | None = _key(None, "your own gate, package.module:function; it gets the readings as a dict")
    min_distinct_samples: int = 32  # the privacy floor; its key is [privacy] min_samples
    max_update_bytes_per_day: int | None = None  # its key is in [limits]; the plan's where that is less

    def contradiction(self) -> str:
        """Say which keys do not go together, or are no windows."""
        if self.pause_temp_c is not None and self.resume_temp_c >= self.pause_temp_c:
            return f"resume_temp_c ({self.resume_temp_c:g}) is not below pause_temp_c ({self.pause_temp_c:g})"
        for text in self.windows:
            try:
                windows.spans(text)
            except ValueError as error:
                return f"windows: {error}"
        if self.gate is not None and not all(self.gate.partition(":")[::2]):
            return f"gate: {self.gate!r} is not package.module:function"
        return ""
