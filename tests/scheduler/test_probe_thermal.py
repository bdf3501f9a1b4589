"""The hottest zone that counts."""

import os

import pytest

from fedclient.scheduler.probe_thermal import Thermal
from fedclient.scheduler.profile import Profile

ANY = Profile(name="any", title="any")
ZONE = "/sys/class/thermal/thermal_zone"


def zones(root, *found) -> None:
    for number, (kind, temp) in enumerate(found):
        root.plant({f"{ZONE}{number}/type": kind, f"{ZONE}{number}/temp": temp})


def test_the_hottest_zone_counts(root) -> None:
    zones(root, ("cpu-thermal", 48_312), ("gpu-thermal", 51_000), ("tj-thermal", 50_999))
    found, trip = Thermal(root.tree, ANY).read()
    assert (found.value, found.source) == (51.0, f"{ZONE}1/temp (gpu-thermal)")
    assert trip.value is None


def test_a_zone_that_says_eagain_is_skipped(root) -> None:
    zones(root, ("cpu-thermal", 48_000), ("gpu-thermal", 47_000))
    root.plant({f"{ZONE}2/type": "cv0-thermal"})
    pipe = root.path / ZONE[1:].replace("thermal_zone", "thermal_zone2") / "temp"
    os.mkfifo(pipe)
    descriptor = os.open(pipe, os.O_RDWR)
    try:
        assert Thermal(root.tree, ANY).read()[0].value == 48.0
        root.plant({f"{ZONE}0/temp": "", f"{ZONE}1/temp": ""})
        only = Thermal(root.tree, Profile(name="x", title="x", zones=("cv0-thermal",))).read()[0]
        assert only.value is None
        assert "thermal_zone2/temp: Resource temporarily unavailable" in only.reason
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("absurd", [-256_000, 0, 127_000, 2**31, -41_000])
def test_absurd_numbers_are_no_temperatures(root, absurd: int) -> None:
    zones(root, ("cpu-thermal", 60_000), ("broken", absurd))
    assert Thermal(root.tree, ANY).read()[0].value == 60.0
    root.plant({f"{ZONE}0/temp": absurd})
    found = Thermal(root.tree, ANY).read()[0]
    assert found.value is None
    assert "which no working sensor does" in found.reason


def test_frost_is_no_absurdity(root) -> None:
    zones(root, ("cpu-thermal", -20_500))
    assert Thermal(root.tree, ANY).read()[0].value == -20.5


def test_a_profile_names_the_zones_that_count(root) -> None:
    zones(root, ("CPU-therm", 40_000), ("PMIC-Die", 100_000), ("AO-therm", 45_000))
    without = Profile(name="x", title="x", skip_zones=("PMIC-Die",))
    assert Thermal(root.tree, without).read()[0].value == 45.0
    only = Profile(name="x", title="x", zones=("CPU-therm",))
    assert Thermal(root.tree, only).read()[0].value == 40.0
    none = Profile(name="x", title="x", zones=("GPU-therm",))
    assert Thermal(root.tree, none).read()[0].reason == "/sys/class/thermal has no zone of type GPU-therm"


def test_a_zone_that_vanishes_is_looked_for_again(root) -> None:
    zones(root, ("cpu-thermal", 40_000), ("usb-stick", 45_000))
    thermal = Thermal(root.tree, ANY)
    assert thermal.read()[0].value == 45.0
    root.plant({f"{ZONE}1/temp": None})
    assert thermal.read()[0].value == 40.0
    zones(root, ("cpu-thermal", 41_000), ("another", 50_000), ("third", 55_000))
    assert thermal.read()[0].value == 55.0


def test_the_lowest_passive_or_hot_trip_point(root) -> None:
    zones(root, ("cpu-thermal", 40_000), ("gpu-thermal", 40_000))
    points = [("active", 60_000), ("critical", 104_500), ("hot", 99_000), ("passive", 95_000)]
    for number, (kind, temp) in enumerate(points):
        root.plant({f"{ZONE}1/trip_point_{number}_type": kind, f"{ZONE}1/trip_point_{number}_temp": temp})
    found = Thermal(root.tree, ANY).read()[1]
    assert (found.value, found.source) == (95.0, f"{ZONE}1/trip_point_3_temp (gpu-thermal)")
    root.plant({f"{ZONE}1/trip_point_3_temp": -274_000, f"{ZONE}1/trip_point_2_temp": 2_000})
    assert Thermal(root.tree, ANY).read()[1].value is None


def test_a_pc_without_zones_has_its_processors_sensor(root) -> None:
    chips = {"name": "k10temp", "temp1_input": 52_000, "temp2_input": 54_500}
    root.plant(chips, "/sys/class/hwmon/hwmon1")
    root.plant({"name": "nvme", "temp1_input": 70_000}, "/sys/class/hwmon/hwmon0")
    found = Thermal(root.tree, ANY).read()[0]
    assert (found.value, found.source) == (54.5, "/sys/class/hwmon/hwmon1/temp2_input (k10temp)")


def test_no_sensor_at_all(root) -> None:
    assert (
        Thermal(root.tree, ANY).read()[0].reason
        == "there is no sensor in /sys/class/thermal or /sys/class/hwmon"
    )
