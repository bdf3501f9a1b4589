"""Under-voltage now, not since the start."""

import pytest

from fedclient.scheduler.probe_board import Identity
from fedclient.scheduler.probe_throttle import ZERO, Frequency, Supply

PI = Identity(model="Raspberry Pi 4 Model B Rev 1.4", compatible=("raspberrypi,4-model-b",))
ALARM = "/sys/class/hwmon/hwmon2/in0_lcrit_alarm"
CPUFREQ = "/sys/devices/system/cpu/cpufreq"


def supply(root, identity: Identity = PI) -> Supply:
    return Supply(root.tree, root.commands, identity)


def say(root, bits: str) -> None:
    root.plant({"commands/vcgencmd-get_throttled": f"throttled={bits}"})


def test_the_kernels_alarm_comes_first_and_goes_away(root) -> None:
    say(root, "0x0")
    root.plant({"/sys/class/hwmon/hwmon0/name": "cpu_thermal", "/sys/class/hwmon/hwmon2/name": "rpi_volt"})
    root.plant({ALARM: 1})
    found = supply(root)
    reading = found.under_voltage()
    assert (reading.value, reading.source) == (True, ALARM)
    root.plant({ALARM: 0})
    assert found.under_voltage().value is False


def test_sticky_bits_close_nothing(root) -> None:
    say(root, "0xf0000")
    found = supply(root)
    assert (found.under_voltage().value, found.throttled().value) == (False, False)
    assert found.under_voltage().source.startswith(
        "vcgencmd get_throttled: 0xf0000 (since boot: under-voltage,"
    )


@pytest.mark.parametrize(
    ("bits", "low", "slowed"),
    [
        ("0x0", False, False),
        ("0x1", True, False),
        ("0x2", False, True),
        ("0x4", False, True),
        ("0x8", False, True),
        ("0x50005", True, True),
    ],
)
def test_bits_of_now(root, bits: str, low: bool, slowed: bool) -> None:
    say(root, bits)
    found = supply(root)
    assert (found.under_voltage().value, found.throttled().value) == (low, slowed)


@pytest.mark.parametrize("said", ["", "throttled=", "throttled=0xzz", "VCHI initialization failed", b"\xff"])
def test_what_the_firmware_does_not_say_is_unknown(root, said) -> None:
    root.plant({"commands/vcgencmd-get_throttled": said})
    assert supply(root).under_voltage().value is None
    assert supply(root).throttled().reason


def test_the_zero_family_has_no_detector_whatever_the_driver_says(root) -> None:
    root.plant({"/sys/class/hwmon/hwmon2/name": "rpi_volt", ALARM: 0})
    say(root, "0x4")
    zero = Identity(model="Raspberry Pi Zero 2 W Rev 1.0", compatible=("raspberrypi,model-zero-2-w",))
    found = supply(root, zero)
    assert (found.under_voltage().value, found.under_voltage().reason) == (None, ZERO)
    assert found.throttled().value is True


def test_other_boards_are_not_asked(root) -> None:
    say(root, "0x5")
    found = supply(
        root, Identity(model="NVIDIA Jetson Nano Developer Kit", compatible=("nvidia,jetson-nano",))
    )
    assert (
        found.under_voltage().reason
        == found.throttled().reason
        == "only the firmware of a Raspberry Pi tells"
    )


def test_an_alarm_that_moves_or_says_nonsense(root) -> None:
    root.plant({"/sys/class/hwmon/hwmon2/name": "rpi_volt", ALARM: 0})
    found = supply(root)
    assert found.under_voltage().value is False
    root.plant({ALARM: None, "/sys/class/hwmon/hwmon2/name": "nvme"})
    root.plant({"/sys/class/hwmon/hwmon3/name": "rpi_volt", "/sys/class/hwmon/hwmon3/in0_lcrit_alarm": 1})
    assert found.under_voltage().value is None  # this time; the firmware is not there to ask
    assert found.under_voltage().source == "/sys/class/hwmon/hwmon3/in0_lcrit_alarm"
    root.plant({"/sys/class/hwmon/hwmon3/in0_lcrit_alarm": 7})
    assert found.under_voltage().value is None


def test_the_least_allowed_processor_counts(root) -> None:
    root.plant({"policy0/scaling_max_freq": 600_000, "policy0/cpuinfo_max_freq": 2_400_000}, CPUFREQ)
    root.plant({"policy4/scaling_max_freq": 2_000_000, "policy4/cpuinfo_max_freq": 2_000_000}, CPUFREQ)
    found = Frequency(root.tree).read()
    assert (found.value, found.source) == (25.0, f"{CPUFREQ}/policy0/scaling_max_freq")


@pytest.mark.parametrize(
    ("allowed", "highest"), [(0, 1_500_000), (1_500_000, 0), (-1, -1), ("", 5), ("x", 5)]
)
def test_absurd_frequencies_are_unknown(root, allowed, highest) -> None:
    root.plant({"policy0/scaling_max_freq": allowed, "policy0/cpuinfo_max_freq": highest}, CPUFREQ)
    found = Frequency(root.tree).read()
    assert found.value is None
    assert "policy0" in found.reason


def test_without_cpufreq_it_is_unknown(root) -> None:
    assert "has no policy" in Frequency(root.tree).read().reason
