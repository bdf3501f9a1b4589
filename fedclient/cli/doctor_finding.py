"""What `fedclient doctor` looks at, and what a check says of it.

A check is a function (Patient) -> Finding, and one line of the table in `doctor.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from fedclient.config import Config
from fedclient.device.folder import DeviceFolder
from fedclient.scheduler.probe_board import Identity
from fedclient.scheduler.probe_files import Tree
from fedclient.scheduler.profile import Profile
from fedclient.scheduler.readings import Readings
from fedclient.scheduler.schedule import Policy


class Verdict(Enum):
    """How bad it is; the value is what a person reads."""

    OK = "ok"
    WARNING = "warning"  # it works without, or will when the moment is right
    FAIL = "FAIL"  # it does not work like this


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found, and what would change it: never empty unless all is well."""

    verdict: Verdict
    found: str
    remedy: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Patient:
    """One machine with its settings; an error is a sentence, and then a default stands in."""

    root: Path  # in place of / for the machine's own files
    options: str  # --config and --state as they were given, for commands in remedies
    config: Config
    config_error: str
    policy: Policy  # the owner's settings on this board
    identity: Identity
    profile: Profile
    profile_error: str
    readings: Readings

    @property
    def folder(self) -> DeviceFolder:
        return DeviceFolder(self.config.state)

    @property
    def tree(self) -> Tree:
        return Tree(self.root)

    @property
    def runs_systemd(self) -> bool:
        return self.tree.exists("/run/systemd/system")

    def command(self, verb: str) -> str:
        """Return a fedclient command for this very device."""
        return f"`fedclient{self.options} {verb}`"


def ok(found: str) -> Finding:
    """All is well."""
    return Finding(Verdict.OK, found)


def warning(found: str, remedy: str) -> Finding:
    """Something to know, or not so yet."""
    return Finding(Verdict.WARNING, found, remedy)


def fail(found: str, remedy: str) -> Finding:
    """It does not work like this."""
    return Finding(Verdict.FAIL, found, remedy)
