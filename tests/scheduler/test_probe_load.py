"""How busy the processor is, with the trainer's share known."""

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from fedclient.scheduler import probe_load
from fedclient.scheduler.probe_files import Tree
from fedclient.scheduler.probe_load import Load, pressure

TICKS = probe_load._TICKS


class Machine:
    """Two cores whose counters a test moves by hand, and a trainer."""

    def __init__(self, root, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        root.tree.live = True  # its counters move, as those of a real machine
        self.busy = self.idle = 100.0
        self.trainer = self.reaped = 0.0
        self.alive = True
        monkeypatch.setattr(probe_load, "_cpu_s", lambda pid: self.trainer if pid and self.alive else 0.0)
        monkeypatch.setattr(
            probe_load.resource, "getrusage", lambda _: Ended(self.reaped / 2, self.reaped / 2)
        )
        self.write()

    def write(self) -> None:
        busy, idle = int(self.busy * TICKS), int(self.idle * TICKS)
        guest = busy // 2  # of a virtual machine: it is in `user`, too
        text = f"cpu  {busy} 0 0 {idle - idle // 2} {idle // 2} 0 0 0 {guest} 0\ncpu0 1 2\ncpu1 1 2\nintr 5 0"
        self.root.plant({"/proc/stat": text, "/proc/loadavg": "0.50 9.00 9.00 1/100 999"})

    def run(self, seconds: float, *, busy: float, trainer: float = 0.0) -> None:
        """Let both cores run; `busy` and `trainer` are shares of both together."""
        self.busy += 2 * seconds * busy
        self.idle += 2 * seconds * (1 - busy)
        self.trainer += 2 * seconds * trainer
        self.write()


class Ended(NamedTuple):
    ru_utime: float
    ru_stime: float


@pytest.fixture
def machine(root, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(root, monkeypatch)


def test_load_is_the_busy_share_between_two_reads(machine: Machine) -> None:
    load = Load(machine.root.tree)
    found, _ = load.read(None)
    assert (found.value, found.source) == (25.0, "/proc/loadavg, of the last minute")  # 0.5 on two cores
    machine.run(60, busy=0.6)
    found, _ = load.read(None)
    assert found.value == pytest.approx(60)
    assert found.source == "/proc/stat since the last look"
    machine.run(0.1, busy=1.0)  # too short to mean anything: the last answer stands
    assert load.read(None)[0].value == pytest.approx(60)
    machine.run(59.9, busy=0.1)
    assert load.read(None)[0].value == pytest.approx(10.15, abs=0.01)
    machine.run(3600, busy=0.9)  # too long ago to mean now
    assert load.read(None)[0].value == 25.0
    machine.run(60, busy=0.2)
    assert load.read(None)[0].value == pytest.approx(20)


def test_the_trainers_share_is_known_while_it_runs_and_after(machine: Machine) -> None:
    load = Load(machine.root.tree)
    machine.run(60, busy=0.9, trainer=0.5)
    found, trainer = load.read(77)
    assert (found.value, trainer) == (pytest.approx(90), pytest.approx(50))
    machine.run(30, busy=0.5, trainer=0.5)
    machine.alive, machine.reaped = False, machine.trainer
    machine.run(30, busy=0.1)
    found, trainer = load.read(None)
    assert (found.value, trainer) == (pytest.approx(30), pytest.approx(25))


def test_during_training_the_load_average_is_not_asked(machine: Machine) -> None:
    load = Load(machine.root.tree)
    assert load.read(77)[0].reason == "no window since the last look is long enough yet"
    machine.run(3600, busy=0.5, trainer=0.4)
    assert load.read(77)[0].value == pytest.approx(50)


def test_a_core_that_is_taken_away_begins_anew(machine: Machine) -> None:
    load = Load(machine.root.tree)
    machine.run(60, busy=0.6)
    load.read(None)
    machine.busy = machine.idle = 10.0
    machine.write()
    assert load.read(None)[0].value == 25.0


def test_a_recorded_tree_has_its_load_average_while_training_too(root) -> None:
    root.plant(
        {"/proc/stat": "cpu 1 2 3 4 5 6 7 8\ncpu0 1\ncpu1 1\ncpu2 1\ncpu3 1", "/proc/loadavg": "1.0 0 0"}
    )
    load = Load(root.tree)
    assert load.read(None)[0].value == 25.0
    assert load.read(77)[0].value == 25.0
    root.plant({"/proc/loadavg": "9.0 0 0"})
    assert load.read(77)[0].value == 100.0


@pytest.mark.parametrize(
    "stat",
    [
        b"",
        b"\x0b",
        b"cpu",
        b"cpu 1 2 3",
        b"intr 1 2 3 4 5 6 7 8",
        b"cpu a b c d e f g h",
        b"cpu 0 0 0 0 0 0 0 0",
        b"\xff",
    ],
)
def test_counters_that_are_none(root, stat: bytes) -> None:
    root.plant({"/proc/stat": stat, "/proc/loadavg": "1.0 0 0"})
    found, trainer = Load(root.tree).read(None)
    assert (found.value, trainer) == (None, 0.0)
    assert found.reason.startswith("/proc/stat ")


@pytest.mark.parametrize("average", ["", "busy", "-1.0 2.0", "nan 1.0", "1" * 9 + " 1"])
def test_an_average_that_is_none(root, average: str) -> None:
    root.plant({"/proc/stat": "cpu 1 2 3 4 5 6 7 8\ncpu0 1", "/proc/loadavg": average})
    assert Load(root.tree).read(None)[0].value is None


def test_a_real_child_is_measured(tmp_path: Path) -> None:
    load = Load(Tree())
    waiting = "import sys; print(sum(range(3_000_000)), flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", waiting], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        before = load._cpu(None)
        alive = load._cpu(child.pid)
        child.communicate()
    assert alive.trainer_s > before.trainer_s
    # Reaped: its time has moved to our own account, nothing is lost.
    assert load._cpu(None).trainer_s >= alive.trainer_s


def test_pressure(root) -> None:
    assert "psi=1" in pressure(root.tree).reason
    root.plant(
        {"/proc/pressure/cpu": "some avg10=12.50 avg60=3.00 avg300=1.00 total=99\nfull avg10=99.00 avg60=0"}
    )
    found = pressure(root.tree)
    assert (found.value, found.source) == (12.5, "/proc/pressure/cpu, some avg10")


@pytest.mark.parametrize(
    "junk", ["", "some", "some avg10=", "some avg10=101.0 x", "full avg10=1.0 x", b"\xff"]
)
def test_pressure_that_is_none(root, junk) -> None:
    root.plant({"/proc/pressure/cpu": junk})
    found = pressure(root.tree)
    assert found.value is None
    assert "psi=1" not in found.reason
