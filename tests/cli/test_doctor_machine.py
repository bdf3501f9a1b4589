"""The doctor's checks of the machine: what is found, how bad it is, and what to do."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from fedclient.cli import doctor_machine as machine
from fedclient.cli.doctor_finding import Verdict
from fedclient.config import Config, TrainerSettings
from fedclient.errors import ModelError
from fedclient.runtime import child
from fedclient.scheduler.probe_board import Identity
from fedclient.scheduler.profile import UNKNOWN_BOARD
from fedclient.scheduler.readings import Reading, unknown
from tests.cli.patients import PI, patient

NOWHERE = Path("/nowhere")
OK, WARNING, FAIL = Verdict.OK, Verdict.WARNING, Verdict.FAIL


def test_a_known_board_is_named_with_its_evidence() -> None:
    found = machine.board(patient(NOWHERE))
    assert found.verdict is OK
    assert "Raspberry Pi 4 Model B Rev 1.4 (profile raspberry-pi-4b, made from documents only)" in found.found


def test_a_jetson_tells_its_release_too() -> None:
    found = machine.board(patient(NOWHERE, identity=Identity(model="NVIDIA Orin NX", l4t="36.4.4")))
    assert found.found.startswith("NVIDIA Orin NX, L4T 36.4.4 (profile ")


@pytest.mark.parametrize(
    ("changes", "verdict", "words"),
    [
        ({"profile": UNKNOWN_BOARD, "identity": Identity(machine="riscv64")}, WARNING, "riscv64"),
        ({"profile_error": "profile.toml, line 3: no"}, FAIL, "line 3"),
    ],
)
def test_a_board_without_a_sound_profile(changes, verdict, words) -> None:
    found = machine.board(patient(NOWHERE, **changes))
    assert found.verdict is verdict
    assert words in found.found
    assert found.remedy


def test_the_system_is_named_as_it_names_itself(tmp_path: Path) -> None:
    assert "there is no /etc/os-release" in machine.system(patient(NOWHERE, root=tmp_path)).found
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/os-release").write_text(
        'NAME="x"\nPRETTY_NAME="Debian GNU/Linux 13 (trixie)"\nID=debian\n'
    )
    found = machine.system(patient(NOWHERE, root=tmp_path))
    assert found.found.startswith("Debian GNU/Linux 13 (trixie), Linux ")
    assert found.verdict is OK


def test_32_bits_are_told(monkeypatch) -> None:
    monkeypatch.setattr(machine.struct, "calcsize", lambda _: 4)
    found = machine.system(patient(NOWHERE))
    assert found.verdict is WARNING
    assert "32-bit" in found.found


@pytest.mark.parametrize(("version", "verdict"), [((3, 10), OK), ((3, 13), OK), ((3, 14), WARNING)])
def test_a_python_that_was_not_tried_is_told(monkeypatch, version, verdict) -> None:
    monkeypatch.setattr(machine.sys, "version_info", (*version, 0))
    assert machine.python(patient(NOWHERE)).verdict is verdict


# --- the runtime -----------------------------------------------------------------------------------


def test_the_installed_runtime_trains() -> None:
    found = machine.runtime(patient(NOWHERE))
    assert found.verdict is OK
    assert "trained a small head" in found.found
    assert "loss 1.099, then 0." in found.found


def crash(_data: bytes) -> bytes:
    signal.raise_signal(signal.SIGSEGV)
    return b""


def told(function: str):
    """Have the child process run a function of this file instead."""
    run = child.run
    return lambda _module, _function, data, *, timeout_s: run(
        "tests.cli.test_doctor_machine", function, data, timeout_s=timeout_s
    )


def test_a_crash_of_the_runtime_is_a_line(monkeypatch) -> None:
    monkeypatch.setattr(child, "run", told("crash"))
    found = machine.runtime(patient(NOWHERE))
    assert found.verdict is FAIL
    assert "crashed on it (SIGSEGV)" in found.found
    assert "damaged" not in found.found  # the file is ours, and sound
    assert "pip install --force-reinstall" in found.remedy


def nonsense(_data: bytes) -> bytes:
    return b"\xff"


def test_nonsense_from_the_child_is_a_line(monkeypatch) -> None:
    monkeypatch.setattr(child, "run", told("nonsense"))
    assert "damaged the process" in machine.runtime(patient(NOWHERE)).found


def sentence(_data: bytes) -> bytes:
    return b'{"reason": "tflite-runtime cannot run with this"}'


def test_what_the_child_says_is_a_line(monkeypatch) -> None:
    monkeypatch.setattr(child, "run", told("sentence"))
    found = machine.runtime(patient(NOWHERE))
    assert found.verdict is FAIL
    assert found.found.endswith("cannot train here: tflite-runtime cannot run with this")


def test_a_child_that_cannot_be_started_is_a_line(monkeypatch) -> None:
    monkeypatch.setattr(child.sys, "executable", "/nowhere/python")
    found = machine.runtime(patient(NOWHERE))
    assert found.verdict is FAIL
    assert "no child process starts" in found.found


def packages(monkeypatch, **versions: str) -> None:
    """Have only these modules installed, in these versions."""
    names = {**machine.RUNTIMES, "numpy": "numpy"}
    monkeypatch.setattr(machine, "find_spec", lambda module: versions.get(module))
    by_name = {names[module]: found for module, found in versions.items()}
    monkeypatch.setattr(machine, "version", by_name.__getitem__)


def test_no_runtime_is_a_failure_with_both_names(monkeypatch) -> None:
    packages(monkeypatch, numpy="1.26.4")
    found = machine.runtime(patient(NOWHERE))
    assert found.verdict is FAIL
    assert "tflite-runtime, or ai-edge-litert" in found.remedy


def test_numpy_2_beside_tflite_runtime_is_a_failure_in_both_lines(monkeypatch) -> None:
    packages(monkeypatch, numpy="2.1.0", tflite_runtime="2.14.0")
    found = machine.numpy(patient(NOWHERE))
    assert (found.verdict, found.remedy) == (FAIL, "pip install 'numpy<2'")

    def refuse(*_args, **_options) -> bytes:
        raise ModelError("tflite-runtime cannot run with NumPy 2")

    monkeypatch.setattr(child, "run", refuse)
    found = machine.runtime(patient(NOWHERE))
    assert (found.verdict, found.remedy) == (FAIL, "pip install 'numpy<2'")


@pytest.mark.parametrize(
    ("versions", "verdict", "words"),
    [
        ({"numpy": "2.5.5", "ai_edge_litert": "2.3.0"}, OK, "suits ai-edge-litert 2.3.0"),
        ({"numpy": "1.26.4", "tflite_runtime": "2.14.0"}, OK, "suits tflite-runtime 2.14.0"),
        ({"numpy": "1.26.4"}, OK, "1.26.4"),
        ({"tflite_runtime": "2.14.0"}, FAIL, "not installed"),
    ],
)
def test_which_numpy_suits(monkeypatch, versions, verdict, words) -> None:
    packages(monkeypatch, **versions)
    if "numpy" not in versions:
        monkeypatch.setattr(machine, "_version", lambda _: "of unknown version")
    found = machine.numpy(patient(NOWHERE))
    assert found.verdict is verdict
    assert words in found.found


def test_a_second_runtime_is_mentioned(monkeypatch) -> None:
    packages(monkeypatch, numpy="1.26.4", tflite_runtime="2.14.0", ai_edge_litert="2.3.0")
    found = machine.runtime(patient(NOWHERE))
    assert found.found.startswith("tflite-runtime 2.14.0 trained")
    assert found.found.endswith("ai-edge-litert 2.3.0 is there, too, and not used")


def test_a_file_that_is_missing_is_said(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine.fedclient, "__file__", str(tmp_path / "__init__.py"))
    found = machine.runtime(patient(NOWHERE))
    assert found.verdict is FAIL
    assert "trial.tflite: No such file" in found.found


def test_the_checks_load_neither_numpy_nor_a_runtime() -> None:
    program = (
        "import sys; from fedclient.cli import doctor, main; main.main(['doctor', '--json']);"
        "sys.exit(bool({'numpy', 'tflite_runtime', 'ai_edge_litert'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


# --- memory and sensors ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "text", "verdict"),
    [
        ("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory pids", OK),
        ("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io pids", WARNING),
        ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712", OK),
        ("sys/other", "", WARNING),
    ],
)
def test_the_memory_cgroup_is_found_or_what_bounds_instead(tmp_path: Path, file, text, verdict) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(text)
    found = machine.memory_bound(patient(NOWHERE, root=tmp_path))
    assert found.verdict is verdict
    assert "the agent ends a trainer above 512 MiB" in found.found


def test_without_any_memory_bound_the_remedy_is_to_set_one(tmp_path: Path) -> None:
    one = patient(NOWHERE, root=tmp_path, profile=replace(PI, memory_mib=None))
    assert machine.memory_bound(one).remedy == "set [trainer] memory_mib"
    owners = Config(state=NOWHERE, trainer=TrainerSettings(memory_mib=77))
    assert "above 77 MiB" in machine.memory_bound(patient(NOWHERE, root=tmp_path, config=owners)).found


BATTERY = {"power": Reading("battery", "BAT0"), "charging": Reading(value=False, source="BAT0")}
LOW = {**BATTERY, "battery_percent": Reading(20.0, "BAT0")}
HIGH = {**BATTERY, "battery_percent": Reading(71.4, "BAT0")}


@pytest.mark.parametrize(
    ("check", "readings", "policy", "verdict", "words"),
    [
        (machine.power, {}, {}, OK, "mains (no battery)"),
        (machine.power, {"power": unknown("EACCES")}, {}, WARNING, "EACCES"),
        (machine.power, HIGH, {}, OK, "battery at 71 %, not charging (BAT0)"),
        (machine.power, LOW, {}, WARNING, "20 %"),
        (machine.power, LOW, {"min_battery_percent": None}, OK, "20 %"),
        (machine.power, LOW, {"min_battery_percent": 20.0}, OK, "20 %"),
        (machine.power, HIGH, {"require_charging": True}, WARNING, "71 %"),
        (machine.power, BATTERY, {}, WARNING, "level unknown"),
        (machine.supply, {}, {}, OK, "no low voltage now (rpi_volt)"),
        (machine.supply, {"under_voltage": Reading(True, "rpi_volt")}, {}, WARNING, "too low now"),  # noqa: FBT003
        (machine.supply, {"under_voltage": unknown("no vcgencmd")}, {}, WARNING, "no vcgencmd"),
        (machine.temperature, {}, {}, OK, "45.0 °C (thermal_zone0)"),
        (machine.temperature, {"temp_c": Reading(75.0, "z")}, {}, WARNING, "it trains below 75 °C"),
        (machine.temperature, {"temp_c": Reading(75.0, "z")}, {"pause_temp_c": None}, OK, "75.0"),
        (machine.temperature, {"temp_c": unknown("no zone")}, {}, WARNING, "no zone"),
        (machine.network, {}, {}, OK, "wifi (wlan0), not metered (NetworkManager)"),
        (machine.network, {"network": Reading("none", "route")}, {}, WARNING, "no default route"),
        (machine.network, {"network": unknown("EIO")}, {}, WARNING, "EIO"),
        (machine.network, {"network": Reading("cellular", "wwan0")}, {}, WARNING, "cellular"),
        (machine.network, {"network": Reading("cellular", "wwan0")}, {"networks": ()}, OK, "cellular"),
        (machine.network, {"metered": Reading(True, "NM")}, {}, WARNING, "metered (NM)"),  # noqa: FBT003
        (machine.network, {"metered": Reading(True, "NM")}, {"allow_metered": True}, OK, "metered (NM)"),  # noqa: FBT003
        (machine.network, {"metered": unknown("no busctl")}, {}, WARNING, "no busctl"),
        (machine.network, {"metered": unknown("no busctl")}, {"allow_metered": True}, OK, "no busctl"),
        (machine.clock, {}, {}, OK, "synchronised (timesyncd)"),
        (machine.clock, {"clock_synchronised": Reading(False, "adjtimex")}, {}, WARNING, "not synchronised"),  # noqa: FBT003
        (machine.clock, {"clock_synchronised": unknown("denied")}, {}, WARNING, "denied"),
    ],
)
def test_a_sensor_is_judged_by_the_owners_policy(check, readings, policy, verdict, words) -> None:
    found = check(patient(NOWHERE, readings=readings, policy=policy))
    assert found.verdict is verdict
    assert words in found.found
    assert bool(found.remedy) == (verdict is not OK)


@pytest.mark.parametrize(
    ("check", "name"),
    [
        (machine.power, "power"),
        (machine.supply, "under_voltage"),
        (machine.temperature, "temp_c"),
        (machine.network, "network"),
        (machine.network, "metered"),
    ],
)
def test_what_a_board_cannot_tell_is_no_warning(check, name) -> None:
    excused = replace(PI, missing={name: "it has none"})
    found = check(patient(NOWHERE, readings={name: unknown("no file")}, profile=excused))
    assert found.verdict is OK
    assert "it has none" in found.found
