"""Hours of the week in which to train: texts such as "Mon-Fri 22:00-06:00" -> minutes.  Pure.

A window is days, then hours, both optional: "22:00-06:00" is every night, "Sat,Sun" all day.  One
that ends before it begins runs into the next day.  Times are local; minute 0 is Monday 00:00.
"""

from __future__ import annotations

import re
from functools import lru_cache

DAY_MIN = 24 * 60
WEEK_MIN = 7 * DAY_MIN
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_WINDOW = re.compile(r"(?P<days>[A-Za-z, -]*?)\s*(?:(\d{1,2}):(\d\d)\s*-\s*(\d{1,2}):(\d\d))?")


@lru_cache(maxsize=64)  # asked at every decision, about the same few texts
def spans(text: str) -> tuple[tuple[int, int], ...]:
    """Return (first minute, length) of a window on each of its days.  Raises ValueError."""
    found = _WINDOW.fullmatch(text.strip())
    if found is None or not text.strip():
        raise ValueError(f'{text!r} is no window: write one such as "Mon-Fri 22:00-06:00"')
    days, from_h, from_min, to_h, to_min = found.groups()
    begin, end = 0, DAY_MIN
    if from_h is not None:
        begin, end = _minute(text, from_h, from_min), _minute(text, to_h, to_min)
    if begin in {end, DAY_MIN}:
        raise ValueError(f"{text!r} is no window: it begins when it ends")
    length = (end - begin) % DAY_MIN or DAY_MIN
    return tuple((day * DAY_MIN + begin, length) for day in _days(text, days))


def is_open(windows: tuple[str, ...], minute: int) -> bool:
    """Tell whether this minute of the week is in a window; no windows: always."""
    return not windows or any(
        (minute - begin) % WEEK_MIN < length for window in windows for begin, length in spans(window)
    )


def opens_in_min(windows: tuple[str, ...], minute: int) -> int:
    """Return how many minutes from this one the next window begins; 0 inside of one."""
    if is_open(windows, minute):
        return 0
    return min((begin - minute) % WEEK_MIN for window in windows for begin, _ in spans(window))


def _minute(text: str, hour: str, minute: str) -> int:
    found = int(hour) * 60 + int(minute)
    if int(minute) > 59 or found > DAY_MIN:
        raise ValueError(f"{text!r}: there is no {hour}:{minute} in a day")
    return found


def _days(text: str, days: str) -> tuple[int, ...]:
    if not days.strip():
        return tuple(range(7))
    found: list[int] = []
    for part in days.split(","):
        first, to, last = (piece.strip().lower() for piece in part.partition("-"))
        if first not in DAYS or (to and last not in DAYS):
            raise ValueError(f"{text!r}: days are Mon, Tue, Wed, Thu, Fri, Sat and Sun")
        begin = DAYS.index(first)
        count = (DAYS.index(last or first) - begin) % 7
        found += [(begin + step) % 7 for step in range(count + 1)]
    return tuple(dict.fromkeys(found))
