"""`fedclient doctor`: one line per check of this machine and this device, each with its remedy.

It writes nothing: not in the state folder, not to the broker.  To add a check, write a function
(Patient) -> Finding in one of the files `doctor_*.py`, and give it a line in `CHECKS`.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from fedclient import boards, config, storage
from fedclient.cli import doctor_device as device
from fedclient.cli import doctor_machine as machine
from fedclient.cli import doctor_nodes as nodes
from fedclient.cli.doctor_finding import Finding, Patient, Verdict, fail
from fedclient.cli.main import become_owner, given
from fedclient.config import Config
from fedclient.device.folder import nearest
from fedclient.errors import ConfigError, FedClientError, UsageError
from fedclient.scheduler.probe import Probe
from fedclient.scheduler.profile import UNKNOWN_BOARD, Profile
from fedclient.scheduler.readings import Activity

CHECKS: Final[dict[str, Callable[[Patient], Finding]]] = {
    "board": machine.board,
    "system": machine.system,
    "python": machine.python,
    "installation": device.installation,
    "numpy": machine.numpy,
    "runtime": machine.runtime,
    "memory bound": machine.memory_bound,
    "power": machine.power,
    "supply voltage": machine.supply,
    "temperature": machine.temperature,
    "network": machine.network,
    "clock": machine.clock,
    "settings": device.settings,
    "state folder": device.state,
    "free space": device.room,
    "key": device.key,
    "database": device.database,
    "federation": device.membership,
    "broker": device.broker,
    "nodes": nodes.secrets,
    "nodes' broker": nodes.broker,
    "agent": device.agent,
    "service": device.service,
}

# What checks import when they need it; the owner of the state folder may not be able to read this Python,
# which is one of the findings.
LATE: Final = ("ctypes", "fedclient.transport.mqtt", "fedclient.transport.settings")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "doctor", help="check board, runtime, broker and permissions; writes nothing"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--root", type=Path, default=Path("/"), metavar="DIR", help="read /sys, /proc and /etc below DIR"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check everything; exit code 1 when a check failed."""
    if not args.root.is_dir():
        raise UsageError(f"--root {args.root} is no folder: name one that holds proc and sys")
    findings = _examined(_patient(args), as_json=args.json)
    failed = any(one.verdict is Verdict.FAIL for one in findings.values())
    if args.json:
        checks = [_as_dict(name, one) for name, one in findings.items()]
        print(json.dumps({"ok": not failed, "checks": checks}))
    return 1 if failed else 0


def _patient(args: argparse.Namespace) -> Patient:
    """Gather what the checks look at, as who owns the state folder; errors become findings later."""
    settings, error = _settings(args)
    profile, profile_error = _profile(args.root)
    for module in LATE:
        with suppress(ImportError):  # then the check that needs it says so
            import_module(module)
    become_owner(settings.state)
    try:
        policy = settings.policy_on(profile)
    except ConfigError as contradiction:
        policy, error = Config().policy_on(profile), error or str(contradiction)
    probe = Probe(
        nearest(settings.state),
        root=args.root,
        profile=profile,
        power=settings.power,
        own_gate=policy.gate,
    )
    return Patient(
        root=args.root,
        options=given(args),
        config=settings,
        config_error=error,
        policy=policy,
        identity=probe.identity,
        profile=profile,
        profile_error=profile_error,
        readings=probe.read(Activity(), 0.0),
    )


def _settings(args: argparse.Namespace) -> tuple[Config, str]:
    """Return the settings, or the defaults and what is wrong."""
    try:
        return config.load(args.config, os.environ, args.state), ""
    except ConfigError as error:
        return Config(state=storage.state_folder(args.state)), str(error)


def _profile(root: Path) -> tuple[Profile, str]:
    try:
        return boards.here(root), ""
    except ConfigError as error:
        return UNKNOWN_BOARD, str(error)


def _examined(patient: Patient, *, as_json: bool) -> dict[str, Finding]:
    """Do the checks in turn; for people, each is printed as soon as it is done."""
    findings = {}
    for name, finding in _checked(patient):
        findings[name] = finding
        if not as_json:
            print(_line(name, finding), flush=True)
    return findings


def _checked(patient: Patient) -> Iterator[tuple[str, Finding]]:
    for name, check in CHECKS.items():
        try:
            yield name, check(patient)
        except FedClientError as error:
            yield name, fail(str(error), "then run the doctor again")
        except Exception as error:  # noqa: BLE001 - what is broken here must not hide the other lines
            yield name, fail(f"{type(error).__name__}: {error}", "install fedclient again, or report this")


def _line(name: str, finding: Finding) -> str:
    remedy = f"; to do: {finding.remedy}" if finding.remedy else ""
    return f"{finding.verdict.value:<8} {name:<15} {finding.found}{remedy}"


def _as_dict(name: str, finding: Finding) -> dict[str, Any]:
    return {
        "check": name,
        "verdict": finding.verdict.value.lower(),
        "found": finding.found,
        "remedy": finding.remedy or None,
    }
