"""Mains or battery: the owner's program or file, else the kernel's power supplies."""

from __future__ import annotations

import os
import shlex
import time
from pathlib import Path

from fedclient.scheduler.power import FOLDER, MAX_PERCENT, Found, Seen, Supply, Trend, judge, parse_report
from fedclient.scheduler.probe_command import Commands
from fedclient.scheduler.probe_files import Tree, Unreadable
from fedclient.scheduler.probe_settings import PowerSettings
from fedclient.scheduler.readings import unknown

SAID = "power-command"
MAX_AGE_S = 600.0  # a file that nobody kept for so long says nothing about now
MAX_AHEAD_S = 60.0  # written "in the future": before the clock was put right
MAX_FILE_BYTES = 4096
CLASSES = "/sys/class"


class Power:
    """Keeps the course of a battery that does not tell its direction."""

    def __init__(self, tree: Tree, commands: Commands, settings: PowerSettings) -> None:
        self._tree = tree
        self._commands = commands
        self._settings = settings
        self._trend = Trend()

    def read(self, now_s: float, *, loaded: bool) -> Found:
        """Return power, charging and battery_percent; `loaded`: a trainer runs."""
        try:
            if self._settings.command is not None:
                return self._command(self._settings.command)
            if self._settings.file is not None:
                source = str(self._settings.file)
                return parse_report(_fresh(self._settings.file), source)
            supplies = self._supplies()
        except (Unreadable, ValueError) as error:
            return unknown(str(error)), unknown(str(error)), unknown(str(error))
        batteries = [one for one in supplies if not one.external]
        if len(batteries) == 1:  # of several one may fill the other
            seen = Seen(now_s, batteries[0].volts, batteries[0].percent)
            self._trend = self._trend.after(seen, loaded=loaded)
        return judge(supplies, self._trend.verdict(now_s), self._settings.assume)

    def _command(self, text: str) -> Found:
        try:
            words = shlex.split(text)
        except ValueError as error:
            raise Unreadable(f"[power] command: {error}") from None
        if not words:
            raise Unreadable("[power] command is empty")
        return parse_report(self._commands.ask(SAID, words), "[power] command")

    def _supplies(self) -> list[Supply]:
        try:
            names = self._tree.names(FOLDER, r"[^.].*")
        except Unreadable as error:
            if error.absent and self._tree.exists(CLASSES):  # a kernel without such hardware
                return []
            raise
        found = (self._supply(name) for name in names)
        return [one for one in found if one is not None]

    def _supply(self, name: str) -> Supply | None:
        """Return what it says; None for one that does not power this machine, or is gone."""
        tree, folder = self._tree, f"{FOLDER}/{name}"
        if tree.word_or(f"{folder}/scope", "System") == "Device":  # a keyboard's or mouse's battery
            return None
        try:
            kind = tree.word(f"{folder}/type")
        except Unreadable:
            if not tree.exists(folder):
                return None
            raise  # it may be a battery: a silent one is not mains
        if tree.number_or_none(f"{folder}/present") == 0 or kind == "Unknown":
            return None
        online = tree.number_or_none(f"{folder}/online")
        microvolts = tree.number_or_none(f"{folder}/voltage_now")
        return Supply(
            name=name,
            kind=kind,
            status=tree.word_or(f"{folder}/status", "Unknown"),
            online=None if online is None else online > 0,  # 2: a programmable USB supply
            percent=self._percent(folder),
            volts=microvolts / 1e6 if microvolts is not None and 0 < microvolts < 10**9 else None,
        )

    def _percent(self, folder: str) -> float | None:
        """Return the charge, from energy or charge counters where there is no percentage."""
        capacity: float | None = self._tree.number_or_none(f"{folder}/capacity")
        for unit in ("energy", "charge"):
            if capacity is None:
                now = self._tree.number_or_none(f"{folder}/{unit}_now")
                full = self._tree.number_or_none(f"{folder}/{unit}_full")
                capacity = 100.0 * now / full if now is not None and full else None
        if capacity is None or not 0 <= capacity <= MAX_PERCENT:
            return None
        return min(100.0, float(capacity))


def _fresh(path: Path) -> str:
    """Return the owner's file, unless its last change was too long ago."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            age_s = time.time() - os.fstat(descriptor).st_mtime
            text = os.read(descriptor, MAX_FILE_BYTES)
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        raise Unreadable(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    if not -MAX_AHEAD_S <= age_s <= MAX_AGE_S:
        when = f"{age_s:.0f} s ago" if age_s > 0 else f"{-age_s:.0f} s in the future"
        raise Unreadable(f"{path} was last written {when}")
    return text.decode(errors="replace")
