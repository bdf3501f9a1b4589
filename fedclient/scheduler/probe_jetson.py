"""A Jetson's power mode, and what the board draws by its INA3221 sensors.  Modes are never set."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fedclient.scheduler.probe_files import Tree, Unreadable, known
from fedclient.scheduler.profile import Profile
from fedclient.scheduler.readings import Reading

MODE = "/var/lib/nvpmodel/status"
MODES = "/etc/nvpmodel.conf"
DEVICES = "/sys/bus/i2c/devices"  # JetPack 5 and later: .../hwmon/hwmonN/inN_label
DRIVER = "/sys/bus/i2c/drivers/ina3221x"  # JetPack 4: .../iio:deviceN/rail_name_N
TOTALS = ("VDD_IN", "POM_5V_IN")  # the whole board, where the profile names no rail
MAX_W = 500.0  # a channel that says more is broken
_SUM_CHANNEL = "7"  # of shunt voltages: no rail
_MODE = re.compile(r"pmode:([0-9]{1,6})")
_BLOCK = re.compile(r"<\s*POWER_MODEL\s+ID=([0-9]{1,6})\s+NAME=(\S+?)\s*>")


def power_mode(tree: Tree) -> Reading[str]:
    """Return the mode's name, or its number where its list is not there."""
    return known(lambda: _power_mode(tree))


def _power_mode(tree: Tree) -> Reading[str]:
    found = _MODE.search(tree.text(MODE))
    if not found:
        raise Unreadable(f"{MODE} has no pmode:")
    mode = int(found[1])
    try:
        names = {int(number): name for number, name in _BLOCK.findall(tree.text(MODES))}
    except Unreadable:
        names = {}
    return Reading(names.get(mode, f"mode {mode}"), MODE)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rail:
    """One channel: milliwatts in one file, or millivolts and milliamperes in two."""

    label: str
    files: tuple[str, ...]


class Rails:
    """The sensors are looked for once, and again when one of their files is gone."""

    def __init__(self, tree: Tree, profile: Profile) -> None:
        self._tree = tree
        self._wanted = profile.rails or TOTALS
        self._rails: list[_Rail] | None = None

    def read(self) -> Reading[float]:
        """Return what the whole board draws, in watts: one rail, or the sum."""
        return known(self._read)

    def _read(self) -> Reading[float]:
        if self._rails is None:
            self._rails = [*_modern(self._tree), *_early(self._tree)]
        labels = [rail.label for rail in self._rails]
        total = next((label for label in self._wanted if label in labels), None)
        rails = [rail for rail in self._rails if total in (None, rail.label)]
        if not rails:
            self._rails = None
            raise Unreadable(f"there is no INA3221 sensor in {DEVICES} or {DRIVER}")
        try:
            watts = sum(self._watts(rail) for rail in rails)
        except Unreadable:
            self._rails = None
            raise
        folder = rails[0].files[0].rpartition("/")[0]
        return Reading(watts, f"{folder} ({total or 'sum of ' + ', '.join(rail.label for rail in rails)})")

    def _watts(self, rail: _Rail) -> float:
        values = [self._tree.number(path) for path in rail.files]
        watts = values[0] / 1e3 if len(values) == 1 else values[0] * values[1] / 1e6
        if not 0 <= watts <= MAX_W:
            raise Unreadable(f"{rail.files[0]} makes {watts:g} W")
        return watts


def _modern(tree: Tree) -> list[_Rail]:
    found = []
    for device in tree.names_or_none(DEVICES):
        for name in tree.names_or_none(f"{DEVICES}/{device}/hwmon", r"hwmon\d+"):
            folder = f"{DEVICES}/{device}/hwmon/{name}"
            if tree.word_or(f"{folder}/name", "") != "ina3221":
                continue
            for entry in tree.names_or_none(folder, r"in\d+_label"):
                label = tree.word_or(f"{folder}/{entry}", "NC")
                number = entry.removeprefix("in").removesuffix("_label")
                if label != "NC" and number != _SUM_CHANNEL:
                    files = f"{folder}/in{number}_input", f"{folder}/curr{number}_input"
                    found.append(_Rail(label=label, files=files))
    return found


def _early(tree: Tree) -> list[_Rail]:
    found = []
    for device in tree.names_or_none(DRIVER):
        for name in tree.names_or_none(f"{DRIVER}/{device}", r"iio:device\d+"):
            folder = f"{DRIVER}/{device}/{name}"
            for entry in tree.names_or_none(folder, r"rail_name_\d+"):
                label = tree.word_or(f"{folder}/{entry}", "NC")
                number = entry.removeprefix("rail_name_")
                if label != "NC":
                    found.append(_Rail(label=label, files=(f"{folder}/in_power{number}_input",)))
    return found
