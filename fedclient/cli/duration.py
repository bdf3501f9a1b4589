"""Lengths of time as people write them: 90s, 30m, 2h, 1d.  How they are told: `scheduler.check.duration`."""

from __future__ import annotations

import re

from fedclient.errors import UsageError

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600}
_WRITTEN = re.compile(r"([0-9]{1,9})([smhd])")


def parse(text: str, option: str, longest_s: int) -> int:
    """Return the seconds in `text`, the value of `option`; raises UsageError, also for none at all."""
    found = _WRITTEN.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"{option} {text!r}: expected a number and s, m, h or d, for example 30m")
    seconds = int(found[1]) * _UNITS_S[found[2]]
    if not 0 < seconds <= longest_s:
        raise UsageError(f"{option} {text}: expected 1s to {spell(longest_s)}")
    return seconds


def spell(seconds: int) -> str:
    """Write whole seconds in the largest unit that fits."""
    unit, size = next((u, s) for u, s in reversed(_UNITS_S.items()) if seconds % s == 0)
    return f"{seconds // size}{unit}"
