"""Power supplies as boards have them, and the owner's own word."""

import os
import time
from pathlib import Path

import pytest

from fedclient.scheduler.probe_command import Commands
from fedclient.scheduler.probe_files import Tree
from fedclient.scheduler.probe_power import Power
from fedclient.scheduler.probe_settings import PowerSettings

SUPPLIES = "/sys/class/power_supply"
REPORT = '{"source": "battery", "percent": 71, "charging": false}'


def read(root, now_s: float = 0.0, **settings):
    return Power(root.tree, root.commands, PowerSettings(**settings)).read(now_s, loaded=False)


def values(found) -> list[object]:
    return [one.value for one in found]


def test_a_board_on_a_supply_has_no_battery(root) -> None:
    root.empty(SUPPLIES)
    assert values(read(root)) == ["mains", None, None]


def test_a_kernel_without_supplies_is_mains_but_without_sys_nobody_knows(root) -> None:
    assert read(root)[0].reason == f"there is no {SUPPLIES}"
    root.empty("/sys/class")
    assert read(root)[0].value == "mains"


def test_a_keyboards_battery_is_not_this_machines(root) -> None:
    keyboard = {"type": "Battery", "scope": "Device", "status": "Discharging", "capacity": 12, "online": 1}
    root.plant(keyboard, f"{SUPPLIES}/hid-00:1f:20:aa:bb:cc-battery")
    assert values(read(root)) == ["mains", None, None]


def test_a_missing_scope_is_the_systems(root) -> None:
    root.plant({"type": "Battery", "status": "Discharging", "capacity": 64}, f"{SUPPLIES}/BAT0")
    assert values(read(root)) == ["battery", False, 64.0]


def test_a_battery_bay_that_is_empty_is_none(root) -> None:
    root.plant({"type": "Battery", "present": 0, "status": "Unknown"}, f"{SUPPLIES}/BAT1")
    assert read(root)[0].value == "mains"


def test_a_fuel_gauge_with_status_unknown_tells_by_its_course(root) -> None:
    gauge = {"type": "Battery", "status": "Unknown", "online": 1, "capacity": 80, "voltage_now": 3_900_000}
    root.plant(gauge, f"{SUPPLIES}/battery")
    power = Power(root.tree, root.commands, PowerSettings())
    assert values(power.read(0.0, loaded=False)) == [None, None, 80.0]
    for minute in range(1, 10):
        root.plant({"voltage_now": 3_900_000 - 6_000 * minute}, f"{SUPPLIES}/battery")
        found = power.read(60.0 * minute, loaded=False)
    assert values(found) == ["battery", False, 80.0]
    assert found[0].source == f"the course of {SUPPLIES}/battery"
    for minute in range(10, 22):
        root.plant({"voltage_now": 3_840_000 + 15_000 * minute}, f"{SUPPLIES}/battery")
        found = power.read(60.0 * minute, loaded=False)
    assert values(found) == ["mains", True, 80.0]
    assert values(read(root, assume="battery"))[:2] == ["battery", None]


@pytest.mark.parametrize("capacity", [-5, 106, 2**31, "", "full", b"\xff"])
def test_absurd_charges_are_unknown(root, capacity) -> None:
    root.plant({"type": "Battery", "status": "Discharging", "capacity": capacity}, f"{SUPPLIES}/BAT0")
    found = read(root)
    assert values(found) == ["battery", False, None]
    assert found[2].reason == f"{SUPPLIES}/BAT0 does not tell its charge"


def test_a_little_beyond_full_is_full_and_counters_stand_in(root) -> None:
    root.plant({"type": "Battery", "status": "Full", "capacity": 103}, f"{SUPPLIES}/BAT0")
    assert read(root)[2].value == 100.0
    root.plant({"capacity": None, "energy_now": 30_000_000, "energy_full": 40_000_000}, f"{SUPPLIES}/BAT0")
    assert read(root)[2].value == 75.0
    root.plant({"energy_full": 0, "charge_now": 1_000, "charge_full": 4_000}, f"{SUPPLIES}/BAT0")
    assert read(root)[2].value == 25.0


def test_a_silent_entry_may_be_a_battery(root) -> None:
    root.plant({"status": "Discharging", "type": ""}, f"{SUPPLIES}/BAT0")
    found = read(root)
    assert values(found) == [None, None, None]
    assert found[0].reason == f"{SUPPLIES}/BAT0/type is empty"


def test_a_supply_that_vanishes_between_two_reads(root, monkeypatch: pytest.MonkeyPatch) -> None:
    root.plant({"type": "USB", "online": 1}, f"{SUPPLIES}/ucsi-source-psy-1")
    power = Power(root.tree, root.commands, PowerSettings())
    # listed, and unplugged before it is read: what only a race does to real files
    monkeypatch.setattr(root.tree, "names", lambda *_: ["BAT0", "ucsi-source-psy-1"])
    assert power.read(0.0, loaded=False)[0].value == "mains"


def test_the_owners_command_is_the_only_source(root) -> None:
    root.plant({"type": "Battery", "status": "Charging", "capacity": 5}, f"{SUPPLIES}/BAT0")
    found = read(root, command="pijuice --json")
    assert values(found) == [None, None, None]
    assert found[0].reason == "there is no /commands/power-command"
    root.plant({"commands/power-command": REPORT})
    assert values(read(root, command="pijuice --json")) == ["battery", False, 71.0]
    root.plant({"commands/power-command": "segmentation fault"})
    assert (
        read(root, command="pijuice --json", assume="mains")[0].reason == "[power] command: this is not JSON"
    )


def test_the_owners_command_runs() -> None:
    live = Commands(Tree())
    words = f"echo '{REPORT}'"
    found = Power(Tree(), live, PowerSettings(command=words)).read(0.0, loaded=False)
    assert values(found) == ["battery", False, 71.0]
    broken = Power(Tree(), live, PowerSettings(command="echo 'unclosed")).read(0.0, loaded=False)
    assert broken[0].reason == "[power] command: No closing quotation"


def test_the_owners_file(root, tmp_path: Path) -> None:
    file = tmp_path / "ups.json"
    assert read(root, file=file)[0].reason == f"{file}: No such file or directory"
    file.write_text(REPORT)
    assert values(read(root, file=file)) == ["battery", False, 71.0]
    file.write_text('{"source": "battery", "percent": 1e9}')
    assert read(root, file=file)[0].reason == f'{file}: "percent" must be a number from 0 to 100'


@pytest.mark.parametrize(("age_s", "words"), [(3600, "3600 s ago"), (-3600, "s in the future")])
def test_a_file_that_nobody_keeps_says_nothing(root, tmp_path: Path, age_s: int, words: str) -> None:
    file = tmp_path / "ups.json"
    file.write_text(REPORT)
    then = time.time() - age_s
    os.utime(file, (then, then))
    found = read(root, file=file)
    assert found[0].value is None
    assert words in found[0].reason


def test_a_pipe_in_place_of_the_owners_file_is_not_waited_for(root, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "ups.json")
    descriptor = os.open(tmp_path / "ups.json", os.O_RDWR)
    try:
        assert "Resource temporarily unavailable" in read(root, file=tmp_path / "ups.json")[0].reason
    finally:
        os.close(descriptor)
