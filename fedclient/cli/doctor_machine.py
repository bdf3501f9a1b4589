"""Checks of the machine: board, system, Python, the TFLite runtime, and what the sensors say."""

from __future__ import annotations

import os
import platform
import re
import struct
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import fedclient
from fedclient.cli.doctor_finding import Finding, Patient, fail, ok, warning
from fedclient.errors import ModelError
from fedclient.runtime import child
from fedclient.scheduler.probe_files import Unreadable
from fedclient.scheduler.profile import EVIDENCE, UNKNOWN_BOARD

_PRETTY_NAME: Final = re.compile(r"^PRETTY_NAME=[\"']?(.*?)[\"']?$", re.MULTILINE)
TRIED_PYTHONS: Final = ((3, 10), (3, 13))
TRIAL_S: Final = 120.0  # a second on a small board; under emulation it takes ten
# The order in which the adapter takes them; it is not asked, since loading NumPy may end this process.
RUNTIMES: Final = {"tflite_runtime": "tflite-runtime", "ai_edge_litert": "ai-edge-litert"}


def board(patient: Patient) -> Finding:
    """Tell whether the board has a profile."""
    if patient.profile_error:
        return fail(patient.profile_error, "mend that profile, or install fedclient again")
    identity = patient.identity
    said = identity.model or f"a machine ({identity.machine or 'of unknown kind'}) that does not say its name"
    said += f", L4T {identity.l4t}" if identity.l4t else ""
    if patient.profile is UNKNOWN_BOARD:
        return warning(
            f"{said}: no profile fits",
            "record it with tools/capture_board, and describe it in hardware/boards",
        )
    return ok(f"{said} (profile {patient.profile.name}, {EVIDENCE[patient.profile.evidence]})")


def system(patient: Patient) -> Finding:
    """Name the operating system; old C libraries and 32 bits have fewer wheels."""
    try:
        named = _PRETTY_NAME.search(patient.tree.text("/etc/os-release"))
        name = named[1] if named else "a system without a name"
    except Unreadable as error:
        name = str(error)
    bits, kernel = 8 * struct.calcsize("P"), os.uname()
    found = f"{name}, {kernel.sysname} {kernel.release}, {kernel.machine}"
    if bits < 64:
        return warning(
            f"{found}, a {bits}-bit Python",
            "32-bit systems have no wheels for NumPy and PyNaCl: take those from apt, or a 64-bit system",
        )
    return ok(f"{found}, {platform.libc_ver()[0] or 'libc'} {platform.libc_ver()[1]}".rstrip())


def python(_patient: Patient) -> Finding:
    """Name the interpreter; only some versions were tried."""
    here, (oldest, newest) = sys.version_info[:2], TRIED_PYTHONS
    found = f"{platform.python_version()} at {sys.executable}, fedclient {fedclient.__version__}"
    if not oldest <= here <= newest:
        tried = " to ".join(".".join(map(str, one)) for one in TRIED_PYTHONS)
        return warning(f"{found}: fedclient was tried on {tried}", f"use one of Python {tried}")
    return ok(found)


def runtime(_patient: Patient) -> Finding:
    """Build a real interpreter, and train a small head on it, in a child process that may crash."""
    installed = _runtimes()
    if not installed:
        return fail("no TFLite runtime is installed", "pip install tflite-runtime, or ai-edge-litert")
    name, *others = installed
    try:
        told = _trial()
    except ModelError as error:
        sentence = str(error).removesuffix(child.BLAME)
        return fail(f"{name} cannot train here: {sentence}", _runtime_remedy(name))
    except OSError as error:
        return fail(f"no child process starts: {error}", "see the line `installation`")
    also = f"; {', '.join(others)} is there, too, and not used" if others else ""
    return ok(
        f"{name} trained a small head in {told['seconds']:.2f} s: loss {told['first_loss']:.3f}, then "
        f"{told['last_loss']:.3f}, as NumPy computes{also}"
    )


def _runtimes() -> list[str]:
    return [f"{name} {_version(name)}" for module, name in RUNTIMES.items() if find_spec(module)]


def _runtime_remedy(name: str) -> str:
    if name.startswith("tflite") and _major(_version("numpy")) >= 2:
        return "pip install 'numpy<2'"
    package = name.split()[0]
    return f"take the wheel for this processor and Python: pip install --force-reinstall {package}"


def _trial() -> dict[str, Any]:
    """Train the shipped head; raises ModelError."""
    path = Path(fedclient.__file__).parent / "model" / "trial.tflite"
    try:
        model = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from None
    found: dict[str, Any] = child.ask("fedclient.model.trial", "train_json", model, timeout_s=TRIAL_S)
    if "reason" in found:
        raise ModelError(found["reason"])
    return found


def numpy(_patient: Patient) -> Finding:
    """Tell whether the runtime was built for this NumPy: the wrong one imports, and then fails."""
    found = _version("numpy")
    if not find_spec("numpy"):
        return fail("NumPy is not installed", "install fedclient again, with its dependencies")
    first = next(iter(_runtimes()), "")
    if first.startswith("tflite") and _major(found) >= 2:
        return fail(f"{found}, but {first} was built for NumPy 1", "pip install 'numpy<2'")
    return ok(f"{found}, which suits {first}" if first else found)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # copied into place without pip
        return "of unknown version"


def _major(text: str) -> int:
    found = re.match(r"\d+", text)
    return int(found[0]) if found else 0


def memory_bound(patient: Patient) -> Finding:
    """Tell who keeps a trainer from taking all memory."""
    bound_mib = patient.config.trainer_on(patient.profile).memory_mib
    own = f"the agent ends a trainer above {bound_mib} MiB" if bound_mib else "the agent has no bound"
    if _has_memory_cgroup(patient):
        return ok(f"the kernel has a memory cgroup, for MemoryMax= of a service; {own}")
    found = f"no memory cgroup (stock Raspberry Pi OS has it off), so MemoryMax= does nothing; {own}"
    if not bound_mib:
        return warning(found, "set [trainer] memory_mib")
    return warning(found, "no need to act; cgroup_enable=memory on the kernel's command line adds it")


def _has_memory_cgroup(patient: Patient) -> bool:
    tree = patient.tree
    if "memory" in tree.word_or("/sys/fs/cgroup/cgroup.controllers", "").split():
        return True
    return tree.exists("/sys/fs/cgroup/memory/memory.limit_in_bytes")  # version 1


def power(patient: Patient) -> Finding:
    """Tell mains or battery, and how that was found out."""
    readings, policy = patient.readings, patient.policy
    source, percent = readings.power.value, readings.battery_percent.value
    if source is None:
        return _unknown(patient, "power", "set [power] assume, file or command")
    found = f"{source} ({readings.power.source})"
    if source != "battery":
        return ok(found)
    charging = {True: "charging", False: "not charging", None: "charging or not is unknown"}
    level = "level unknown" if percent is None else f"{percent:.0f} %"
    found = f"battery at {level}, {charging[readings.charging.value]} ({readings.power.source})"
    if policy.require_charging:
        return warning(found, "it trains on mains alone: [schedule] require_charging")
    if policy.min_battery_percent is not None and (percent is None or percent < policy.min_battery_percent):
        return warning(
            found, f"it trains from {policy.min_battery_percent:g} % on: [schedule] min_battery_percent"
        )
    return ok(found)


def supply(patient: Patient) -> Finding:
    """Tell whether the supply's voltage is too low now."""
    reading = patient.readings.under_voltage
    if reading.value is None:
        return _unknown(patient, "under_voltage", "see docs/hardware.md for what this board can tell")
    if reading.value:
        return warning(
            f"the voltage is too low now ({reading.source})",
            "take a stronger power supply, and a short cable",
        )
    return ok(f"no low voltage now ({reading.source})")


def temperature(patient: Patient) -> Finding:
    """Tell the temperature that counts."""
    reading, limit_c = patient.readings.temp_c, patient.policy.pause_temp_c
    if reading.value is None:
        return _unknown(patient, "temp_c", "set [schedule] pause_temp_c = false to train without knowing it")
    found = f"{reading.value:.1f} °C ({reading.source})"
    if limit_c is not None and reading.value >= limit_c:
        return warning(
            f"{found}: it trains below {limit_c:g} °C", "cool the board, or set [schedule] pause_temp_c"
        )
    return ok(found)


def network(patient: Patient) -> Finding:
    """Tell which network is used, and whether it is metered."""
    kind, metered = patient.readings.network, patient.readings.metered
    if kind.value is None:
        return _unknown(patient, "network", "set [schedule] networks = [] to train on any")
    if kind.value == "none":
        return warning(f"no default route ({kind.source})", "connect it; a broker on this machine needs none")
    if metered.value is None and not patient.policy.allow_metered:
        return _unknown(patient, "metered", "set [schedule] allow_metered = true if it costs nothing")
    words = {True: "metered", False: "not metered", None: "metered or not is unknown"}
    found = f"{kind.value} ({kind.source}), {words[metered.value]} ({metered.source or metered.reason})"
    if metered.value and not patient.policy.allow_metered:
        return warning(found, "it does not train here; [schedule] allow_metered = true lets it")
    if patient.policy.networks and kind.value not in patient.policy.networks:
        return warning(found, f"it does not train on {kind.value}; [schedule] networks lets it")
    return ok(found)


def clock(patient: Patient) -> Finding:
    """Tell whether a time server has set the clock."""
    reading = patient.readings.clock_synchronised
    remedy = "time windows and certificates need it: sudo timedatectl set-ntp true"
    if reading.value is None:
        return warning(f"unknown: {reading.reason}", remedy)
    return (
        ok(f"synchronised ({reading.source})")
        if reading.value
        else warning(f"not synchronised ({reading.source})", remedy)
    )


def _unknown(patient: Patient, name: str, remedy: str) -> Finding:
    """Judge a reading that is not there: this board need not have it, or its gate stays closed."""
    reason = getattr(patient.readings, name).reason
    excuse = patient.profile.excuses(name)
    if excuse:
        return ok(f"unknown, and this board need not tell: {excuse}")
    return warning(f"unknown, so it does not train: {reason}", remedy)
