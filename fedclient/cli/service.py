"""`fedclient service`: the systemd units of agent and gateway, put in place and taken away.

    /etc/systemd/system/fedclient.service           the unit, with the path of this very command
    /etc/systemd/system/fedclient.service.d/        drop-ins for what this machine has
    /etc/sysusers.d/fedclient.conf                  the users fedclient and fedclient-gateway
    /etc/fedclient/config.toml                      commented defaults; never overwritten

`--root DIR` does the same below DIR, as systemd's own tools have it: for an image, and without root.
What is written comes from `hardware/systemd` (shipped in the wheel).
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import fedclient
from fedclient import config, storage
from fedclient.cli.init import CONFIG_MODE
from fedclient.errors import FinalError, UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

UNITS: Final = Path("/etc/systemd/system")
SYSUSERS: Final = Path("/etc/sysusers.d/fedclient.conf")
BACKOFF_SINCE: Final = 254  # the systemd that knows RestartSteps=
ELSEWHERE: Final = "make the environment elsewhere: python3 -m venv /opt/fedclient"
_PLACEHOLDER: Final = "/opt/fedclient/bin/fedclient"  # in the units as they are shipped
_PLAIN: Final = re.compile(r"/[A-Za-z0-9/._+@-]*")  # what needs no quoting in a unit
_HIDDEN: Final = tuple(map(Path, ("/home", "/root", "/run/user")))  # by ProtectHome=yes
_PRIVATE_TMP: Final = tuple(map(Path, ("/tmp", "/var/tmp")))  # noqa: S108 - by PrivateTmp=yes


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser("service", help="the systemd units: install or remove them")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, function, text in (
        ("install", install, "write unit, user and config, and enable the service; again after an upgrade"),
        ("remove", remove, "stop and remove the service; keeps state, config and users"),
    ):
        action = actions.add_parser(name, help=text)
        action.add_argument("--gateway", action="store_true", help="the gateway's service, not the agent's")
        action.add_argument(
            "--root", type=Path, metavar="DIR", help="of a system that is not running: an image"
        )
        action.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
        action.set_defaults(run=function)
        if name == "install":
            action.add_argument(
                "--program", type=Path, metavar="PATH", help="the fedclient command to start (this one)"
            )


@dataclass(frozen=True, kw_only=True)
class _Target:
    """The system that is changed."""

    root: Path
    running: bool  # it is this one: systemd can be told at once
    dry_run: bool
    unit: str

    def path(self, inside: Path) -> Path:
        """Return where a path of that system is, seen from here."""
        return self.root / inside.relative_to("/")

    @property
    def drop_ins(self) -> Path:
        return UNITS / f"{self.unit}.d"

    def do(self, word: str, what: object, act: Callable[[], object]) -> None:
        """Say a step, and take it."""
        print(f"{'would ' if self.dry_run else ''}{word:<8} {what}")
        if not self.dry_run:
            act()

    def write(self, inside: Path, text: str) -> None:
        """Write a file of ours."""
        self._check_inside(inside)
        self.do("write", self.path(inside), lambda: _write(self.path(inside), text))

    def delete(self, inside: Path) -> None:
        """Delete a file of ours, and the folder of drop-ins with the last of them."""
        path = self.path(inside)
        if path.exists():
            self._check_inside(inside)
            self.do("delete", path, path.unlink)
            if inside.parent == self.drop_ins and not self.dry_run and not any(path.parent.iterdir()):
                path.parent.rmdir()

    def _check_inside(self, inside: Path) -> None:
        """Refuse a link in an image that is absolute: followed from here it names this machine's files."""
        if not self.path(inside).parent.resolve().is_relative_to(self.root.resolve()):
            raise FinalError(f"{self.path(inside.parent)} leads out of {self.root}, by a link")

    def call(self, *words: str) -> None:
        """Run one of systemd's commands on that system."""
        command = [words[0], *([] if self.running else [f"--root={self.root}"]), *words[1:]]
        self.do("run", " ".join(command), lambda: _call(command))


def install(args: argparse.Namespace) -> int:
    """Put the service in place, and enable it."""
    target = _target(args)
    program = _program(args, target)
    options = _options(args, target)
    text = _shipped(target.unit).replace(_PLACEHOLDER, f"{program}{options}")
    target.write(UNITS / target.unit, text)
    for name, wanted in (("vcio.conf", _is_raspberry_pi(target)), ("backoff.conf", _knows_steps(target))):
        if wanted and not (name == "vcio.conf" and args.gateway):
            target.write(target.drop_ins / name, _shipped(name))
        else:
            target.delete(target.drop_ins / name)  # of an earlier machine or systemd
    target.write(SYSUSERS, _shipped("fedclient.sysusers"))
    if target.running or (os.geteuid() == 0 and shutil.which("systemd-sysusers")):
        target.call("systemd-sysusers", SYSUSERS.name)
    else:
        print(f"later    the system itself makes the users of {SYSUSERS} when it boots")
    settings = target.path(args.config or config.DEFAULT)
    if settings.exists():
        print(f"keep     {settings}")
    else:
        target.write(args.config or config.DEFAULT, config.template())
    if target.running:
        target.call("systemctl", "daemon-reload")
    target.call("systemctl", "enable", target.unit)
    _say_next(args, target, f"{program}{options}")
    return 0


def remove(args: argparse.Namespace) -> int:
    """Take the service away, and leave what only its owner may delete."""
    target = _target(args)
    if not target.path(UNITS / target.unit).exists():
        raise FinalError(f"{target.unit} is not installed: there is no {target.path(UNITS / target.unit)}")
    if target.running:
        target.call("systemctl", "disable", "--now", target.unit)
    else:
        target.call("systemctl", "disable", target.unit)
    target.delete(UNITS / target.unit)
    for name in ("vcio.conf", "backoff.conf"):
        target.delete(target.drop_ins / name)
    other = {"fedclient.service", "fedclient-gateway.service"} - {target.unit}
    if not any(target.path(UNITS / unit).exists() for unit in other):
        target.delete(SYSUSERS)
    if target.running:
        target.call("systemctl", "daemon-reload")
    state = target.path(Path("/var/lib") / target.unit.removesuffix(".service"))
    print(f"keep     {state}, {target.path(config.DEFAULT)} and the user: delete them if they are done with")
    return 0


def _target(args: argparse.Namespace) -> _Target:
    """Return the system that is meant; refuses one that has no systemd, and ours without root."""
    root = args.root or Path("/")
    unit = "fedclient-gateway.service" if args.gateway else "fedclient.service"
    if args.state is not None:
        raise UsageError(f"--state: the service keeps its state in /var/lib/{unit.removesuffix('.service')}")
    if args.root is not None:
        if not any((root / folder).is_dir() for folder in ("usr/lib/systemd", "lib/systemd")):
            raise FinalError(f"{root} has no systemd (no usr/lib/systemd in it): is it the root of a system?")
    elif not Path("/run/systemd/system").is_dir():
        raise FinalError("this machine does not run systemd: start `fedclient run` by what it has instead")
    elif os.geteuid() != 0 and not args.dry_run:
        raise FinalError("this writes to /etc: run it with sudo, or see what it would do with --dry-run")
    return _Target(root=root.absolute(), running=args.root is None, dry_run=args.dry_run, unit=unit)


def _program(args: argparse.Namespace, target: _Target) -> Path:
    """Return the command to start, as that system sees it; refuses one that the service could not run."""
    program: Path = args.program or Path(sys.executable).with_name("fedclient")
    if args.program is None and program.is_relative_to(target.root):
        program = Path("/") / program.relative_to(target.root)
    if not program.is_absolute() or not _PLAIN.fullmatch(str(program)):
        raise UsageError(
            f"{program}: the command's path must begin with / and have no spaces or quotes in it"
        )
    found = target.path(program)
    if not os.access(found, os.X_OK):
        raise FinalError(
            f"there is no command {found}: install fedclient with pip into an environment of that system, "
            "for example /opt/fedclient, or name the command with --program PATH"
        )
    needed = [program]
    if target.running and args.program is None:  # what it starts: an interpreter, and the package
        needed += [Path(sys.executable).resolve(), Path(sys.base_prefix), Path(fedclient.__file__)]
    for path in needed:
        _check_reachable(path, target)
    return program


def _check_reachable(path: Path, target: _Target) -> None:
    """Refuse what the sandbox hides, and what only its owner can read."""
    why, remedy = unreachable(path, target.root)
    if why:
        raise FinalError(f"{why}; {remedy}")


def unreachable(path: Path, root: Path = Path("/")) -> tuple[str, str]:
    """Return why the service could not use a path of the system below `root`, and a remedy; empty: it can."""
    for folder in (*_HIDDEN, *_PRIVATE_TMP):
        if path.is_relative_to(folder):
            return f"{path}: the service does not see {folder} (its sandbox hides it)", ELSEWHERE
    for one in reversed([path, *path.parents]):
        try:
            found = (root / one.relative_to("/")).stat()
        except OSError as error:
            return f"{one}: {error.strerror}", ELSEWHERE
        bit = stat.S_IXOTH if stat.S_ISDIR(found.st_mode) else stat.S_IROTH
        if not found.st_mode & bit:
            return f"{one}: the service's user may not read it", f"`chmod -R a+rX` it, or {ELSEWHERE}"
    return "", ""


def _options(args: argparse.Namespace, target: _Target) -> str:
    """Return the options that the service needs before its verb."""
    if args.config is None:
        return ""
    path = Path(os.path.abspath(args.config))  # noqa: PTH100 - not resolve(): it may be in another root
    if not _PLAIN.fullmatch(str(path)):
        raise UsageError(f"--config {path}: no spaces or quotes in the path, please")
    hidden = next((one for one in (*_HIDDEN, *_PRIVATE_TMP) if path.is_relative_to(one)), None)
    if hidden is not None and target.running:
        raise UsageError(f"--config {path}: the service does not see {hidden}: keep it in /etc/fedclient")
    args.config = path
    return f" --config {path}"


def _is_raspberry_pi(target: _Target) -> bool:
    try:
        return target.path(Path("/proc/device-tree/model")).read_bytes().startswith(b"Raspberry Pi")
    except OSError:
        return False


def _knows_steps(target: _Target) -> bool:
    """Tell by the name of its shared library whether that systemd is new enough."""
    names = [
        path.name
        for folder in ("usr/lib/systemd", "lib/systemd", "usr/lib/*/systemd")
        for path in target.root.glob(f"{folder}/libsystemd-shared-*.so")
    ]
    versions = [int(found[1]) for name in names if (found := re.match(r"libsystemd-shared-(\d+)", name))]
    return max(versions, default=0) >= BACKOFF_SINCE


def _say_next(args: argparse.Namespace, target: _Target, command: str) -> None:
    if args.gateway:
        steps = ["gateway init --federation NAME --broker HOST:PORT", "gateway publish MODEL.tflite"]
    else:
        steps = ["init", "enroll INVITATION"]
    lines = [f"{command} {step}" for step in steps]
    if target.running:
        lines.append(f"systemctl restart {target.unit.removesuffix('.service')}")
    for number, line in enumerate(lines):
        print(f"{'' if number else 'next':<8} {line}")


def _shipped(name: str) -> str:
    """Read a file of `hardware/systemd`: beside the package in a checkout, inside it in a wheel."""
    package = Path(fedclient.__file__).parent
    for folder in (package / "hardware", package.parent / "hardware"):
        path = folder / "systemd" / name
        if path.is_file():
            return path.read_text(encoding="utf-8")
    raise FinalError(f"hardware/systemd/{name} is missing from this installation: install fedclient again")


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FinalError(f"cannot write {path}: {error.strerror}") from None
    storage.write_file(path, text.encode(), mode=CONFIG_MODE)


def _call(command: list[str]) -> None:
    """Run a command of systemd; raises FinalError with what it said."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FinalError(f"{command[0]} could not be run: {error}") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or [f"exit {done.returncode}"]
        raise FinalError(f"{' '.join(command)}: {said[-1]}")
