"""Whether the supply sags, and whether somebody slows the processor down.

The kernel's `rpi_volt` asks the firmware every 2 s for under-voltage since its last question and
clears that bit with the question: its alarm means "in the last seconds", and goes away.  The
firmware's own word (`vcgencmd get_throttled`) has "now" in bits 0-3 and "since boot" in bits
16-19: the latter are told, and close nothing, since they stay until the next start.
"""

from __future__ import annotations

import re

from fedclient.scheduler.probe_board import Identity
from fedclient.scheduler.probe_command import Commands
from fedclient.scheduler.probe_files import Tree, Unreadable, known
from fedclient.scheduler.readings import Reading, unknown

HWMON = "/sys/class/hwmon"
CPUFREQ = "/sys/devices/system/cpu/cpufreq"
SAID = "vcgencmd-get_throttled"
_COMMAND = ("vcgencmd", "get_throttled")
_ANSWER = re.compile(r"throttled=0x([0-9a-fA-F]{1,8})")
UNDER_VOLTAGE = 1 << 0
SLOWED = (1 << 1) | (1 << 2) | (1 << 3)  # frequency capped, throttled, soft temperature limit
_SINCE_BOOT = {16: "under-voltage", 17: "frequency capped", 18: "throttled", 19: "soft temperature limit"}
ZERO = "the Raspberry Pi Zero family has no low-voltage detector"


class Supply:
    """A Raspberry Pi's opinion of its power supply."""

    def __init__(self, tree: Tree, commands: Commands, identity: Identity) -> None:
        self._tree = tree
        self._commands = commands
        self._identity = identity
        self._alarm: str | None = None  # the file; empty: this kernel has none

    def under_voltage(self) -> Reading[bool]:
        """Tell whether the supply is too low now.  A detector that is not there would always say no."""
        return unknown(ZERO) if self._identity.is_raspberry_pi_zero else known(self._under_voltage)

    def _under_voltage(self) -> Reading[bool]:
        if not self._alarm:
            self._alarm = _find_alarm(self._tree)
        if self._alarm:
            try:
                alarm = self._tree.number(self._alarm)
                if alarm in (0, 1):
                    return Reading(alarm == 1, self._alarm)
                why = f"{self._alarm} says {alarm}, not 0 or 1"
            except Unreadable as error:
                self._alarm, why = None, str(error)  # the numbering of hwmon may have changed
            if not self._identity.is_raspberry_pi:
                return unknown(why)
        bits, source = self._firmware()
        return Reading(bool(bits & UNDER_VOLTAGE), source)

    def throttled(self) -> Reading[bool]:
        """Tell whether the firmware slows the processor down now."""
        return known(self._throttled)

    def _throttled(self) -> Reading[bool]:
        bits, source = self._firmware()
        return Reading(bool(bits & SLOWED), source)

    def _firmware(self) -> tuple[int, str]:
        """Return the firmware's bits; only a Raspberry Pi has them."""
        if not self._identity.is_raspberry_pi:
            raise Unreadable("only the firmware of a Raspberry Pi tells")
        said = self._commands.ask(SAID, _COMMAND)
        found = _ANSWER.fullmatch(said)
        if not found:
            raise Unreadable("`vcgencmd get_throttled` gave no throttled=0x...")
        bits = int(found[1], 16)
        before = ", ".join(words for bit, words in _SINCE_BOOT.items() if bits >> bit & 1)
        return bits, f"vcgencmd get_throttled: 0x{bits:x}" + (f" (since boot: {before})" if before else "")


def _find_alarm(tree: Tree) -> str:
    for name in tree.names_or_none(HWMON, r"hwmon\d+"):
        if tree.word_or(f"{HWMON}/{name}/name", "") == "rpi_volt":
            return f"{HWMON}/{name}/in0_lcrit_alarm"
    return ""


class Frequency:
    """What share of its highest frequency each processor is allowed; the least counts."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._highest: dict[str, int] = {}  # it does not change

    def read(self) -> Reading[float]:
        return known(self._read)

    def _read(self) -> Reading[float]:
        least: tuple[float, str] | None = None
        reason = f"{CPUFREQ} has no policy: this kernel does not scale the frequency"
        for name in self._tree.names_or_none(CPUFREQ, r"policy\d+"):
            path = f"{CPUFREQ}/{name}/scaling_max_freq"
            try:
                allowed = self._tree.number(path)
                highest = self._highest.get(name) or self._tree.number(f"{CPUFREQ}/{name}/cpuinfo_max_freq")
            except Unreadable as error:
                reason = str(error)
                continue
            if allowed <= 0 or highest <= 0:
                reason = f"{path} says {allowed} of {highest} kHz"
                continue
            self._highest[name] = highest
            percent = min(100.0, 100.0 * allowed / highest)
            if least is None or percent < least[0]:
                least = percent, path
        if least is None:
            raise Unreadable(reason)
        return Reading(*least)
