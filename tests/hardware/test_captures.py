"""Each board's capture: who it is, and what every sensor of it says, or why it says nothing.

The expectations are written by hand from the documents that the captures are written from.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from fedclient import boards
from fedclient.cli.main import main
from fedclient.scheduler.profile import Profile
from fedclient.scheduler.readings import SENSORS

HARDWARE = Path(__file__).parent.parent.parent / "hardware" / "boards"
PROFILES = {one.name: one for one in boards.load_all(HARDWARE)}


class No:
    """No value, and what the reason must say."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


EVERY = {
    "power": "mains",
    "charging": No("there is no battery"),
    "battery_percent": No("there is no battery"),
    "network": "ethernet",
    "metered": False,
    "clock_synchronised": True,
    "graphical_session": False,
    "input_idle_s": No("nobody sits at a screen"),
    "own_gate": No("no [schedule] gate is set"),
}
NO_PRESSURE = No("there is no /proc/pressure/cpu")
NO_TRIP = No("no zone in /sys/class/thermal has a passive or hot trip point")
NO_MODE = No("there is no /var/lib/nvpmodel/status")
NO_RAIL = No("there is no INA3221 sensor")
NO_FLAG = No("only the firmware of a Raspberry Pi tells")
PI = {
    **EVERY,
    "under_voltage": False,
    "throttled": False,
    "cpu_cap_percent": 100.0,
    "trip_temp_c": NO_TRIP,
    "cpu_percent": 3.0,  # a load average of 0.12 on four cores
    "psi_cpu_percent": NO_PRESSURE,
    "power_mode": NO_MODE,
    "power_w": NO_RAIL,
}
JETSON = {**EVERY, "under_voltage": NO_FLAG, "throttled": NO_FLAG, "psi_cpu_percent": NO_PRESSURE}
GENERIC = {
    **EVERY,
    "under_voltage": NO_FLAG,
    "throttled": NO_FLAG,
    "trip_temp_c": NO_TRIP,
    "cpu_percent": 2.0,
    "psi_cpu_percent": 0.0,
    "power_mode": NO_MODE,
    "power_w": NO_RAIL,
}
EXPECTED: dict[str, tuple[str | None, dict[str, object]]] = {
    "raspberry-pi-zero-2-w": (
        "Raspberry Pi Zero 2 W Rev 1.0",
        {
            **PI,
            "under_voltage": No("Zero family has no low-voltage detector"),
            "temp_c": 43.47,
            "free_memory_mib": 256.0,
            "network": "wifi",
        },
    ),
    "raspberry-pi-3b-plus": (
        "Raspberry Pi 3 Model B Plus Rev 1.3",
        {**PI, "temp_c": 46.16, "free_memory_mib": 691.598},
    ),
    "raspberry-pi-4b": (
        "Raspberry Pi 4 Model B Rev 1.4",
        {**PI, "temp_c": 44.79, "free_memory_mib": 3408.996},
    ),
    "raspberry-pi-cm4": (
        "Raspberry Pi Compute Module 4 Rev 1.0",
        {**PI, "temp_c": 47.71, "free_memory_mib": 1536.0},
    ),
    # Not the 45.21 degrees of its I/O chip, nor the fan's trip points.
    "raspberry-pi-5": ("Raspberry Pi 5 Model B Rev 1.0", {**PI, "temp_c": 49.65, "free_memory_mib": 7441.0}),
    "jetson-nano": (
        "NVIDIA Jetson Nano Developer Kit",
        {
            **JETSON,
            "cpu_cap_percent": 100.0,
            "temp_c": 41.5,  # AO-therm, not the 100 degrees of PMIC-Die
            "trip_temp_c": 97.0,
            "cpu_percent": 7.75,
            "free_memory_mib": 2867.199,
            "power_mode": "MAXN",
            "power_w": 2.104,
        },
    ),
    "jetson-xavier-nx": (
        "NVIDIA Jetson Xavier NX Developer Kit",
        {
            **JETSON,
            "cpu_cap_percent": 74.497,  # 1420.8 of 1907.2 MHz in 15 W
            "temp_c": 38.5,
            "trip_temp_c": 90.5,
            "cpu_percent": 5.167,
            "free_memory_mib": 5734.0,
            "power_mode": "MODE_15W_6CORE",
            "power_w": 4.2,  # 5.048 V, 0.832 A
        },
    ),
    "jetson-orin-nano": (
        "NVIDIA Jetson Orin Nano Developer Kit",
        {
            **JETSON,
            "cpu_cap_percent": 100.0,
            "temp_c": 47.906,
            "trip_temp_c": 95.0,
            "cpu_percent": 5.167,
            "free_memory_mib": 6144.0,
            "power_mode": "15W",
            "power_w": 5.008,
        },
    ),
    "jetson-agx-orin": (
        "NVIDIA Jetson AGX Orin Developer Kit",
        {
            **JETSON,
            "cpu_cap_percent": 78.488,  # 1728 of 2201.6 MHz in 30 W
            "temp_c": 47.4,
            "trip_temp_c": 95.0,
            "cpu_percent": 3.875,
            "free_memory_mib": 60416.0,
            "power_mode": "MODE_30W",
            "power_w": 6.687,  # 2.38848 + 0.79616 + 3.0192 + 0.483072
        },
    ),
    # The mouse's battery with its 12 % is not this machine's.
    "generic-x86_64": (
        "Mini PC",
        {**GENERIC, "cpu_cap_percent": 100.0, "temp_c": 41.0, "free_memory_mib": 6252.0},
    ),
    "generic-aarch64": (
        "linux,dummy-virt",
        {
            **GENERIC,
            "cpu_cap_percent": No("this kernel does not scale the frequency"),
            "temp_c": No("there is no sensor"),
            "trip_temp_c": NO_TRIP,
            "free_memory_mib": 3319.0,
        },
    ),
}


def test_every_profile_is_expected_here_and_has_what_a_board_needs() -> None:
    assert PROFILES.keys() == EXPECTED.keys()
    for board in EXPECTED:
        assert (HARDWARE / board / "README.md").is_file()
        assert re.match(r"# (Recorded|Written)", (HARDWARE / board / "capture/CAPTURE.md").read_text())


@pytest.mark.parametrize("board", EXPECTED)
def test_detect_names_the_board_and_every_sensor_resolves_or_says_why_not(
    board: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words, expected = EXPECTED[board]
    assert main(["boards", "detect", "--root", str(HARDWARE / board / "capture"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    readings = found["readings"]
    assert (found["profile"], found["board"]) == (board, words)
    assert readings.keys() == set(SENSORS)
    assert expected.keys() | {"free_disk_mib"} == set(SENSORS)
    assert readings["free_disk_mib"]["value"] > 0  # of the real disk, whatever the root
    for name, value in expected.items():
        if isinstance(value, No):
            assert readings[name]["value"] is None, name
            assert value.reason in readings[name]["reason"], name
        else:
            assert readings[name]["value"] == value, name
            assert readings[name]["source"], name


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_a_profile_says_of_each_reading_where_it_is_or_why_it_is_not(profile: Profile) -> None:
    assert profile.sensors.keys() | profile.missing.keys() == set(SENSORS)
    assert not profile.sensors.keys() & profile.missing.keys()
    assert profile.threads >= 1
    assert None not in (profile.memory_mib, profile.feature_batch, profile.training_w)


# With an add-on only: on the bare board of the capture there is nothing to read.
ADD_ONS = {"charging", "battery_percent", "input_idle_s", "own_gate"}


@pytest.mark.parametrize("board", EXPECTED)
def test_a_reading_that_the_profile_promises_is_there(board: str) -> None:
    promised = PROFILES[board].sensors.keys() - ADD_ONS
    absent = {name for name, value in EXPECTED[board][1].items() if isinstance(value, No)}
    virtual = {"cpu_cap_percent"} if board == "generic-aarch64" else set()
    assert promised & absent == virtual


@pytest.mark.parametrize(
    ("compatible", "model", "board"),
    [
        # with JetPack 6.2 the same board says more
        (
            ["nvidia,p3768-0000+p3767-0005-super", "nvidia,p3767-0005", "nvidia,tegra234"],
            "",
            "jetson-orin-nano",
        ),
        # JetPack 5.1.1 forgot a word
        (["nvidia,tegra234"], "NVIDIA Orin Nano Developer Kit", "jetson-orin-nano"),
        (["nvidia,p3541-0000", "nvidia,p3450-0000", "nvidia,tegra210"], "", "jetson-nano"),
        (["brcm,bcm2711"], "Raspberry Pi 4 Model B Rev 1.5", "raspberry-pi-4b"),
        # relatives that are not described
        (["nvidia,p3768-0000+p3767-0000", "nvidia,tegra234"], "NVIDIA Jetson Orin NX", "generic-aarch64"),
        (["raspberrypi,400", "brcm,bcm2711"], "Raspberry Pi 400 Rev 1.0", "generic-aarch64"),
        (["raspberrypi,3-model-b", "brcm,bcm2837"], "Raspberry Pi 3 Model B Rev 1.2", "generic-aarch64"),
    ],
)
def test_relatives_are_told_apart(compatible: list[str], model: str, board: str, tmp_path: Path) -> None:
    folder = tmp_path / "proc" / "device-tree"
    folder.mkdir(parents=True)
    (folder / "compatible").write_bytes(b"".join(one.encode() + b"\0" for one in compatible))
    (folder / "model").write_bytes(model.encode() + b"\0")
    (tmp_path / "proc/sys/kernel").mkdir(parents=True)
    (tmp_path / "proc/sys/kernel/arch").write_text("aarch64\n")
    assert boards.here(tmp_path).name == board
