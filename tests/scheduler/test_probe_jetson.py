"""Power modes and rails of both generations of Jetsons."""

import pytest

from fedclient.scheduler.probe_jetson import Rails, power_mode
from fedclient.scheduler.profile import Profile

ANY = Profile(name="any", title="any")
MODERN = "/sys/bus/i2c/devices/1-0040/hwmon/hwmon3"
EARLY = "/sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0"
CONF = "< PARAM TYPE=FILE NAME=CPU_ONLINE >\n< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=2 NAME=15W >\n"


def test_the_modes_name(root) -> None:
    root.plant({"/var/lib/nvpmodel/status": "pmode:0002 fmode:fanNull"})
    assert power_mode(root.tree).value == "mode 2"
    root.plant({"/etc/nvpmodel.conf": CONF})
    found = power_mode(root.tree)
    assert (found.value, found.source) == ("15W", "/var/lib/nvpmodel/status")


@pytest.mark.parametrize("junk", [b"", b"pmode:", b"\xff", "pmode:" + "x" * 9])
def test_junk_is_no_mode(root, junk) -> None:
    root.plant({"/var/lib/nvpmodel/status": junk})
    assert power_mode(root.tree).value is None


def modern(root) -> None:
    root.plant({"name": "ina3221"}, MODERN)
    for number, label, millivolts, milliamperes in (
        (1, "VDD_IN", 5_000, 1_000),
        (2, "VDD_CPU_GPU_CV", 5_000, 400),
        (3, "NC", 5_000, 9_999),
        (7, "sum of shunt voltages", 1, 1),
    ):
        files = {
            f"in{number}_label": label,
            f"in{number}_input": millivolts,
            f"curr{number}_input": milliamperes,
        }
        root.plant(files, MODERN)


def test_rails_of_jetpack_5_and_later(root) -> None:
    modern(root)
    found = Rails(root.tree, ANY).read()
    assert (found.value, found.source) == (5.0, f"{MODERN} (VDD_IN)")
    cpu = Profile(name="x", title="x", rails=("VIN_SYS", "VDD_CPU_GPU_CV"))
    assert Rails(root.tree, cpu).read().value == 2.0
    every = Profile(name="x", title="x", rails=("none of these",))
    found = Rails(root.tree, every).read()
    assert (found.value, found.source) == (7.0, f"{MODERN} (sum of VDD_IN, VDD_CPU_GPU_CV)")


def test_rails_of_jetpack_4(root) -> None:
    for number, label, milliwatts in ((0, "POM_5V_IN", 2_104), (1, "POM_5V_GPU", 0), (2, "POM_5V_CPU", 500)):
        root.plant({f"rail_name_{number}": label, f"in_power{number}_input": milliwatts}, EARLY)
    found = Rails(root.tree, ANY).read()
    assert (found.value, found.source) == (2.104, f"{EARLY} (POM_5V_IN)")


def test_another_chip_is_no_power_sensor(root) -> None:
    root.plant({"name": "lm75", "in1_label": "VDD_IN", "in1_input": 5, "curr1_input": 5}, MODERN)
    assert Rails(root.tree, ANY).read().reason.startswith("there is no INA3221 sensor")


def test_a_rail_that_vanishes_or_says_nonsense(root) -> None:
    modern(root)
    rails = Rails(root.tree, ANY)
    assert rails.read().value == 5.0
    root.plant({f"{MODERN}/in1_input": -5_000})
    assert rails.read().reason == f"{MODERN}/in1_input makes -5 W"
    root.plant({f"{MODERN}/in1_input": 2**40})
    assert rails.read().value is None
    root.plant({f"{MODERN}/in1_input": None})
    assert rails.read().reason == f"there is no {MODERN}/in1_input"
    root.plant({f"{MODERN}/in1_input": 5_000, f"{MODERN}/curr1_input": ""})
    assert rails.read().reason == f"{MODERN}/curr1_input is empty"
    root.plant({f"{MODERN}/curr1_input": 2_000})
    assert rails.read().value == 10.0
