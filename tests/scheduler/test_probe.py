"""All readings together: on this machine, on a board with every sensor, and on any nonsense."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from math import isfinite
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedclient.scheduler import probe_command
from fedclient.scheduler.probe import Probe
from fedclient.scheduler.probe_settings import PowerSettings
from fedclient.scheduler.profile import Profile
from fedclient.scheduler.readings import NETWORKS, SENSORS, Activity, Readings, SampleCounts

ANY = Profile(name="any", title="any")
COUNTS = SampleCounts(new=3, distinct=40)
SUPPLY = "/sys/class/power_supply/BAT0"
ZONE = "/sys/class/thermal/thermal_zone0"
RAIL = "/sys/bus/i2c/devices/1-0040/hwmon/hwmon3"
ZERO = "0" * 32
# A board that has every sensor there is, which none does.
BOARD = {
    "/proc/device-tree/model": b"Raspberry Pi 5 Model B Rev 1.0\0",
    "/proc/device-tree/compatible": b"raspberrypi,5-model-b\0brcm,bcm2712\0",
    "/proc/sys/kernel/arch": b"aarch64\n",
    "/etc/nv_tegra_release": b"# R35 (release), REVISION: 2.1, GCID: 1\n",
    "/proc/stat": b"cpu  100 0 50 900 10 0 0 0 0 0\ncpu0 50 0 25 450 5 0 0 0 0 0\ncpu1 1 1\n",
    "/proc/loadavg": b"0.20 0.10 0.05 1/100 999\n",
    "/proc/meminfo": b"MemTotal: 8000000 kB\nMemAvailable: 4194304 kB\n",
    "/proc/pressure/cpu": b"some avg10=1.50 avg60=0.00 avg300=0.00 total=1\n",
    "/proc/uptime": b"4000.00 8000.00\n",
    "/proc/net/route": b"Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n"
    b"wlan0\t00000000\t010200C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n",
    "/proc/net/ipv6_route": f"{ZERO} 00 {ZERO} 00 {ZERO} 00000400 1 0 00000003 wlan0\n".encode(),
    "/sys/class/net/wlan0/uevent": b"DEVTYPE=wlan\nINTERFACE=wlan0\n",
    "/sys/class/net/wlan0/device/uevent": b"DRIVER=brcmfmac\n",
    f"{SUPPLY}/type": b"Battery\n",
    f"{SUPPLY}/scope": b"System\n",
    f"{SUPPLY}/present": b"1\n",
    f"{SUPPLY}/status": b"Discharging\n",
    f"{SUPPLY}/capacity": b"71\n",
    f"{SUPPLY}/voltage_now": b"3900000\n",
    "/sys/class/power_supply/AC/type": b"Mains\n",
    "/sys/class/power_supply/AC/online": b"0\n",
    f"{ZONE}/type": b"cpu-thermal\n",
    f"{ZONE}/temp": b"48312\n",
    f"{ZONE}/trip_point_0_type": b"passive\n",
    f"{ZONE}/trip_point_0_temp": b"85000\n",
    "/sys/class/hwmon/hwmon0/name": b"rpi_volt\n",
    "/sys/class/hwmon/hwmon0/in0_lcrit_alarm": b"0\n",
    "/sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq": b"1200000\n",
    "/sys/devices/system/cpu/cpufreq/policy0/cpuinfo_max_freq": b"2400000\n",
    f"{RAIL}/name": b"ina3221\n",
    f"{RAIL}/in1_label": b"VDD_IN\n",
    f"{RAIL}/in1_input": b"5000\n",
    f"{RAIL}/curr1_input": b"900\n",
    "/sys/class/drm/card1-HDMI-A-1/status": b"connected\n",
    "/sys/class/drm/card1-HDMI-A-1/dpms": b"On\n",
    "/run/systemd/sessions/1": b"TYPE=wayland\nCLASS=user\nACTIVE=1\nSTATE=active\nSEAT=seat0\n",
    "/run/systemd/timesync/synchronized": b"",
    "/var/lib/nvpmodel/status": b"pmode:0002\n",
    "/etc/nvpmodel.conf": b"< POWER_MODEL ID=2 NAME=15W >\n",
    "/commands/vcgencmd-get_throttled": b"throttled=0x50000\n",
    "/commands/busctl-metered": b"u 4\n",
    "/commands/busctl-idle": b"b true\nt 90000000\n",
}
FOUND = {
    "power": "battery",
    "charging": False,
    "battery_percent": 71.0,
    "under_voltage": False,
    "throttled": False,
    "cpu_cap_percent": 50.0,
    "temp_c": 48.312,
    "trip_temp_c": 85.0,
    "cpu_percent": 10.0,
    "psi_cpu_percent": 1.5,
    "free_memory_mib": 4096.0,
    "network": "wifi",
    "metered": False,
    "clock_synchronised": True,
    "graphical_session": True,
    "input_idle_s": 3910.0,
    "power_mode": "15W",
    "power_w": 4.5,
}
KINDS: dict[str, type] = {name: type(value) for name, value in FOUND.items()} | {
    "free_disk_mib": float,
    "own_gate": bool,
}


def values(readings: Readings) -> dict[str, Any]:
    return {name: one["value"] for name, one in readings.as_dict().items()}


def check(readings: Readings) -> None:
    """Each reading is a value of its type with a source, or None with a reason."""
    for name in SENSORS:
        one = getattr(readings, name)
        if one.value is None:
            assert one.reason, name
            assert not one.source
        else:
            assert type(one.value) is KINDS[name], name
            assert one.source, name
            assert not isinstance(one.value, float) or isfinite(one.value), name
        assert (one.source + one.reason).isprintable(), name
    assert readings.power.value in (None, "mains", "battery")
    assert readings.network.value in (None, *NETWORKS)
    assert 0 <= (readings.battery_percent.value or 0) <= 100
    assert 0 <= (readings.cpu_percent.value or 0) <= 100
    assert 0 < (readings.cpu_cap_percent.value or 1) <= 100


def test_a_board_with_every_sensor(root) -> None:
    root.plant(BOARD)
    probe = Probe(root.path, root=root.path, profile=ANY)
    readings = probe.read(Activity(samples=COUNTS, resuming=True), 5.0)
    check(readings)
    found = values(readings)
    assert found.pop("free_disk_mib") > 1
    assert found.pop("own_gate") is None
    assert found == FOUND
    assert (readings.activity.samples, readings.activity.resuming) == (COUNTS, True)
    assert not readings.activity.training
    assert probe.identity.model == "Raspberry Pi 5 Model B Rev 1.0"
    for name in set(SENSORS) - {"free_disk_mib"}:
        assert str(root.path) not in getattr(readings, name).source + getattr(readings, name).reason


def test_this_machine_answers_at_once(tmp_path: Path) -> None:
    readings = Probe(tmp_path, profile=ANY).read(Activity(samples=COUNTS), 0.0)
    check(readings)
    assert readings.free_memory_mib.value > 1
    assert readings.free_disk_mib.value > 1
    assert readings.cpu_percent.value is not None


def test_a_real_child_is_known_as_the_trainer(tmp_path: Path) -> None:
    probe = Probe(tmp_path, profile=ANY)
    with subprocess.Popen(
        [sys.executable, "-c", "import sys; print(1, flush=True); sys.stdin.read()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        child.stdout.readline()
        activity = probe.read(Activity(), 0.0, child.pid).activity
        assert activity.training
        assert activity.trainer_memory_mib > 1
        child.communicate()
    activity = probe.read(Activity(training=True, trainer_memory_mib=9.0), 1.0).activity
    assert (activity.training, activity.trainer_memory_mib) == (False, 0.0)


def test_the_owners_gate_sees_the_other_readings(root, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "def gate(readings): return readings['temp_c']['value'] < 40, 'the enclosure is warm'\n"
    root.plant({**BOARD, "/own_gate_of_a_board.py": code})
    monkeypatch.syspath_prepend(root.path)
    probe = Probe(root.path, root=root.path, profile=ANY, own_gate="own_gate_of_a_board:gate")
    own = probe.read(Activity(), 0.0).own_gate
    assert (own.value, own.source) == (False, "own_gate_of_a_board:gate: the enclosure is warm")
    sys.modules.pop("own_gate_of_a_board")


def test_a_recorded_tree_runs_no_program(root, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a program was run")

    monkeypatch.setattr(probe_command.subprocess, "Popen", never)
    root.plant(BOARD)
    for name in ("vcgencmd-get_throttled", "busctl-metered", "busctl-idle"):
        root.plant({f"/commands/{name}": None})
    root.plant({"/run/systemd/timesync/synchronized": None})
    shutil.rmtree(root.path / "run/systemd/timesync")
    probe = Probe(root.path, root=root.path, profile=ANY, power=PowerSettings(command="ups"))
    check(probe.read(Activity(), 0.0))


def test_an_idle_minute_runs_no_program_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[str, ...]] = []

    def run(command: Any) -> str:
        ran.append(tuple(command))
        return '{"source": "mains"}'

    monkeypatch.setattr(probe_command, "_run", run)
    probe = Probe(tmp_path, profile=ANY, power=PowerSettings(command="ups --json"))
    for now_s in range(0, 60, 5):
        probe.read(Activity(), float(now_s))
    assert ("ups", "--json") in ran
    assert len(ran) == len(set(ran))
    probe.read(Activity(), 60.0)
    assert ran.count(("ups", "--json")) == 2


@pytest.mark.parametrize("path", sorted(BOARD))
def test_a_file_that_vanishes_or_turns_bad_between_two_reads(root, path: str) -> None:
    root.plant(BOARD)
    probe = Probe(root.path, root=root.path, profile=ANY)
    check(probe.read(Activity(), 0.0))
    target = root.path / path[1:]
    for bad in (b"", b"\xff\xfe\xfd", b"-256000\n", b"9" * 40 + b"\n", b"\0" * 9):
        target.write_bytes(bad)
        check(probe.read(Activity(), 60.0))
    target.unlink()
    check(probe.read(Activity(), 120.0))
    target.mkdir()
    check(probe.read(Activity(), 180.0))
    target.rmdir()
    target.write_bytes(BOARD[path])
    probe.read(Activity(), 240.0)  # what was gone is looked for again
    back = values(probe.read(Activity(), 300.0))
    assert {name: back[name] for name in FOUND} == FOUND


def test_nothing_at_all(root) -> None:
    readings = Probe(root.path, root=root.path, profile=ANY).read(Activity(), 0.0)
    check(readings)
    known = {name for name, value in values(readings).items() if value is not None}
    assert known == {"free_disk_mib"}
    gone = Probe(root.path / "absent", root=root.path / "absent", profile=ANY).read(Activity(), 0.0)
    check(gone)
    assert not any(value is not None for value in values(gone).values())


@pytest.fixture(scope="module")
def board():
    """One tree for all examples: each puts back what it broke."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path, content in BOARD.items():
            (folder / path[1:]).parent.mkdir(parents=True, exist_ok=True)
            (folder / path[1:]).write_bytes(content)
        yield folder


NONSENSE = st.one_of(
    st.binary(max_size=80),
    st.text(max_size=80).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.integers().map(lambda number: b"%d\n" % number),
    st.floats().map(lambda number: str(number).encode()),
)


@given(
    broken=st.dictionaries(st.sampled_from(sorted(BOARD)), NONSENSE, min_size=1, max_size=6),
    cut=st.integers(0, 60),
    mix=st.booleans(),
)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nonsense_never_raises_and_never_gives_a_value_of_another_type(
    board: Path, broken: dict[str, bytes], cut: int, mix: bool
) -> None:
    before = Probe(board, root=board, profile=ANY)
    try:
        for path, junk in broken.items():  # all of it, or only the end
            (board / path[1:]).write_bytes(BOARD[path][:cut] + junk if mix else junk)
        check(before.read(Activity(), 0.0))
        check(Probe(board, root=board, profile=ANY).read(Activity(), 1.0))
    finally:
        for path in broken:
            (board / path[1:]).write_bytes(BOARD[path])
