"""A machine and a device that `fedclient doctor` finds nothing wrong with, for tests to spoil."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from fedclient.cli.doctor_finding import Patient
from fedclient.config import Config
from fedclient.scheduler.probe_board import Identity
from fedclient.scheduler.profile import Profile
from fedclient.scheduler.readings import Reading, Readings
from fedclient.scheduler.schedule import Policy

PI = Profile(name="raspberry-pi-4b", title="Raspberry Pi 4", memory_mib=512)
WELL = Readings(
    power=Reading("mains", "no battery"),
    under_voltage=Reading(value=False, source="rpi_volt"),
    temp_c=Reading(45.0, "thermal_zone0"),
    network=Reading("wifi", "wlan0"),
    metered=Reading(value=False, source="NetworkManager"),
    clock_synchronised=Reading(value=True, source="timesyncd"),
    free_disk_mib=Reading(900.0, "statvfs"),
)


def patient(state: Path, *, root: Path = Path("/nowhere"), **changes: Any) -> Patient:
    """Return one; `readings` and `policy` are dicts of what is different."""
    readings = replace(WELL, **changes.pop("readings", {}))
    policy = replace(Policy(), **changes.pop("policy", {}))
    usual: dict[str, Any] = {
        "options": "",
        "config": Config(state=state),
        "config_error": "",
        "identity": Identity(model="Raspberry Pi 4 Model B Rev 1.4", machine="aarch64"),
        "profile": PI,
        "profile_error": "",
    }
    return Patient(root=root, policy=policy, readings=readings, **{**usual, **changes})
