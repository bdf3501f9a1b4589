"""The probe, on this machine and on a recorded folder of power supplies."""

import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from fedclient.scheduler import probe as module
from fedclient.scheduler.policy import SampleCounts
from fedclient.scheduler.probe import Probe

COUNTS = SampleCounts(new=3, distinct=40)
Times = namedtuple("Times", "user system idle iowait guest")  # noqa: PYI024 - psutil's own kind
Ours = namedtuple("Ours", "user system children_user children_system")  # noqa: PYI024


class Machine:
    """Stands where psutil stands: counters in seconds that a test moves by hand."""

    def __init__(self) -> None:
        self.busy = self.idle = self.trainer = self.reaped = 0.0
        self.alive = True

    def cpu_times(self) -> Times:
        # Of the busy seconds half is a guest's: psutil lists those twice.
        return Times(self.busy, 0.0, self.idle / 2, self.idle / 2, self.busy / 2)

    def process(self, pid: int | None = None) -> SimpleNamespace:
        if pid is None:
            return SimpleNamespace(cpu_times=lambda: Ours(1.0, 1.0, self.reaped / 2, self.reaped / 2))
        if not self.alive:
            raise psutil.NoSuchProcess(pid)
        return SimpleNamespace(
            cpu_times=lambda: Ours(self.trainer, 0.0, 0.0, 0.0),
            memory_info=lambda: SimpleNamespace(rss=70 << 20, shared=20 << 20),
        )

    def run(self, seconds: float, *, busy: float, trainer: float = 0.0) -> None:
        """Let two cores run; `busy` and `trainer` are shares of both together."""
        self.busy += 2 * seconds * busy
        self.idle += 2 * seconds * (1 - busy)
        self.trainer += 2 * seconds * trainer


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    fake = Machine()
    monkeypatch.setattr(module.psutil, "cpu_times", fake.cpu_times)
    monkeypatch.setattr(module.psutil, "Process", fake.process)
    monkeypatch.setattr(module.psutil, "cpu_count", lambda: 2)
    monkeypatch.setattr(module.psutil, "getloadavg", lambda: (0.5, 9.0, 9.0))
    return fake


def test_this_machine_answers_at_once(tmp_path: Path) -> None:
    readings = Probe(tmp_path).read(COUNTS)
    assert readings.samples == COUNTS
    assert not readings.training
    assert readings.cpu_percent is not None
    assert 0 <= readings.cpu_percent <= 100
    assert readings.free_memory_mib is not None
    assert readings.free_memory_mib > 1
    assert readings.free_disk_mib is not None
    assert readings.free_disk_mib > 1


def test_a_real_child_is_measured(tmp_path: Path) -> None:
    probe = Probe(tmp_path)
    waiting = "import sys; print(sum(range(3_000_000)), flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", waiting], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        before = probe._cpu(None)
        alive = probe._cpu(child.pid)
        assert probe.read(COUNTS, child.pid).trainer_memory_mib > 1
        child.communicate()
    assert alive.trainer_s > before.trainer_s
    # Reaped: its time has moved to our own account, nothing is lost.
    assert probe._cpu(None).trainer_s >= alive.trainer_s


def test_load_is_the_busy_share_between_two_reads(tmp_path: Path, machine: Machine) -> None:
    probe = Probe(tmp_path)
    assert probe.read(COUNTS).cpu_percent == 25.0  # the load average of 0.5 on two cores
    machine.run(60, busy=0.6)
    assert probe.read(COUNTS).cpu_percent == pytest.approx(60)
    machine.run(0.1, busy=1.0)  # too short to mean anything: the last answer stands
    assert probe.read(COUNTS).cpu_percent == pytest.approx(60)
    machine.run(59.9, busy=0.1)
    assert probe.read(COUNTS).cpu_percent == pytest.approx(10.15)
    machine.run(3600, busy=0.9)  # too long ago to mean now
    assert probe.read(COUNTS).cpu_percent == 25.0
    machine.run(60, busy=0.2)
    assert probe.read(COUNTS).cpu_percent == pytest.approx(20)


def test_the_trainers_share_is_known_while_it_runs_and_after(tmp_path: Path, machine: Machine) -> None:
    probe = Probe(tmp_path)
    machine.run(60, busy=0.9, trainer=0.5)
    readings = probe.read(COUNTS, 77)
    assert readings.training
    assert readings.cpu_percent == pytest.approx(90)
    assert readings.trainer_cpu_percent == pytest.approx(50)
    assert readings.trainer_memory_mib == 50
    machine.run(30, busy=0.5, trainer=0.5)
    machine.alive, machine.reaped = False, machine.trainer
    machine.run(30, busy=0.1)
    after = probe.read(COUNTS)
    assert (after.cpu_percent, after.trainer_cpu_percent) == (pytest.approx(30), pytest.approx(25))
    assert after.trainer_memory_mib == 0


def test_during_training_the_load_average_is_not_asked(tmp_path: Path, machine: Machine) -> None:
    probe = Probe(tmp_path)
    assert probe.read(COUNTS, 77).cpu_percent is None
    machine.run(3600, busy=0.5, trainer=0.4)
    assert probe.read(COUNTS, 77).cpu_percent == pytest.approx(50)


def test_what_fails_is_none(tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    for name in ("cpu_times", "getloadavg", "virtual_memory", "disk_usage", "sensors_battery"):
        monkeypatch.setattr(module.psutil, name, fail)
    (tmp_path / "BAT0").mkdir()
    readings = Probe(tmp_path, tmp_path).read(COUNTS)
    assert (readings.cpu_percent, readings.free_memory_mib, readings.free_disk_mib) == (None, None, None)
    assert (readings.has_battery, readings.charging, readings.battery_percent) == (True, None, None)


def test_a_state_folder_that_is_not_there_has_no_free_space(tmp_path: Path) -> None:
    assert Probe(tmp_path / "absent").read(COUNTS).free_disk_mib is None


@pytest.mark.parametrize(
    ("names", "psutil_says", "expected"),
    [
        ((), None, (False, None, None)),
        (("AC0", "ucsi-source-psy-1"), None, (False, None, None)),
        (("BAT0", "AC0"), (71.5, True), (True, True, 71.5)),
        (("battery",), (40.0, None), (True, None, 40.0)),  # a fuel gauge
        (("BAT0",), None, (True, None, None)),  # it is there and does not tell: not mains
    ],
)
def test_a_silent_battery_is_not_mains(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    names: tuple[str, ...],
    psutil_says: tuple[float, bool | None] | None,
    expected: tuple[bool, bool | None, float | None],
) -> None:
    for name in names:
        (tmp_path / name).mkdir()
    battery = psutil_says and SimpleNamespace(percent=psutil_says[0], power_plugged=psutil_says[1])
    monkeypatch.setattr(module.psutil, "sensors_battery", lambda: battery)
    readings = Probe(tmp_path, tmp_path).read(COUNTS)
    assert (readings.has_battery, readings.charging, readings.battery_percent) == expected


def test_without_the_folder_it_is_mains_without_sys_it_is_unknown(tmp_path: Path) -> None:
    assert Probe(tmp_path, tmp_path / "power_supply").read(COUNTS).has_battery is False
    assert Probe(tmp_path, tmp_path / "class" / "power_supply").read(COUNTS).has_battery is None
