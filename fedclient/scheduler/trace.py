"""A record of readings as lines of JSON: small enough for a device's disk, exact enough to replay.  Pure.

    {"fedclient-trace":1,"board":"raspberry-pi-5","start_s":81250,"names":["power","charging",...]}
    [0,0,"mains",6,48.5,20,8040]
    [60,6,49]

A header comes first; another one stands wherever an agent began anew, and forgets all values.  (One that
begins at the very second of the line before is no new agent: two files were put together.)  Any other
line has the whole seconds since the line before, or since the header's device time; then pairs: the
place of a name in the header, and its value from now on (null: not known).  What is not in a line stays
as it was.  Sources and reasons are not kept.

Numbers are rounded to the side that closes a gate, so a replay may train a little less than the agent,
and not more.  The trainer's own load is taken out, so that a replay may train at other times.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from math import ceil, floor, isfinite
from typing import Any, Final

from fedclient.errors import DataError
from fedclient.scheduler.check import Now
from fedclient.scheduler.history import LONGEST_GAP_S
from fedclient.scheduler.readings import NETWORKS, SENSORS, Activity, Reading, Readings, SampleCounts, unknown
from fedclient.scheduler.windows import WEEK_MIN

VERSION: Final = 1
MAX_LINE_CHARS: Final = 4096  # a header has about 500, a line with every name changed about 300
MAX_TEXT_CHARS: Final = 64  # a board or a power mode
_MARK: Final = "fedclient-trace"
MAGIC: Final = f'{{"{_MARK}":'.encode()  # what every trace begins with
_SAMPLES: Final = ("new_samples", "distinct_samples")
_EXTRA: Final = {
    "minute_of_week": "int",  # local; only where it is not the last one plus the time since
    "new_samples": "int",
    "distinct_samples": "int",
    "broker_is_local": "bool",
    "training": "bool",
}
_KINDS: Final = {
    **{item.name: str(item.type)[len("Reading[") : -1] for item in fields(Readings) if item.name in SENSORS},
    **_EXTRA,
}
_CHOICES: Final = {"power": ("mains", "battery"), "network": NETWORKS}
NAMES: Final = tuple(_KINDS)
EVENTS: Final = tuple(name for name in SENSORS if _KINDS[name] in ("bool", "str"))
_BOARD: Final = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_.-]{{0,{MAX_TEXT_CHARS - 1}}}")

Value = float | str | bool | None
Values = Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Written:
    """What a reader of the lines so far knows."""

    at_s: int  # device time
    values: Values
    anchor: tuple[int, int] | None = None  # minute of the week, and when it was that


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """What the machine said at one moment, and says until the next."""

    at_s: float  # since the trace began
    readings: Readings  # `activity.training` tells whether the device trained then
    minute_of_week: int | None
    begins: bool  # the first one of an agent: it did not run just before


@dataclass(frozen=True, slots=True)
class Trace:
    """A header, and the points as they are read; reading one raises DataError for a bad line."""

    board: str
    counts_samples: bool  # a trace may be without
    points: Iterator[Point]


# --- writing -----------------------------------------------------------------------------------------


def begin(board: str, now_s: float) -> tuple[str, Written]:
    """Return the header of a new agent or a new file."""
    at_s = round(now_s)
    header = {_MARK: VERSION, "board": board, "start_s": at_s, "names": NAMES}
    return _dump(header), Written(at_s, {})


def encode(before: Written, readings: Readings, now: Now) -> tuple[str, Written]:
    """Return one line with what changed, and what its reader then knows."""
    at_s = max(before.at_s, round(now.elapsed_s))
    values = {**before.values, **_values(before, readings)}
    changed = {name: value for name, value in values.items() if before.values.get(name) != value}
    anchor, minute = before.anchor, now.minute_of_week
    if minute is None or _distance(minute, _minute(anchor, at_s)) > 1:
        anchor = None if minute is None else (minute, at_s)
        if anchor != before.anchor:
            changed["minute_of_week"] = minute
    pairs = [one for name, value in changed.items() for one in (NAMES.index(name), value)]
    return _dump([at_s - before.at_s, *pairs]), Written(at_s, values, anchor)


def restate(board: str, known: Written) -> str:
    """Return a header and one line with all that is known: the same agent goes on in another file."""
    header, _ = begin(board, known.at_s)
    minute = _minute(known.anchor, known.at_s)
    values = {**known.values, **({} if minute is None else {"minute_of_week": minute})}
    pairs = [one for name, value in values.items() if value is not None for one in (NAMES.index(name), value)]
    return header + _dump([0, *pairs])


def _values(before: Written, readings: Readings) -> dict[str, Value]:
    found = {name: _rounded(name, getattr(readings, name).value) for name in SENSORS}
    activity = readings.activity
    cpu, memory = readings.cpu_percent.value, readings.free_memory_mib.value
    if cpu is not None and isfinite(cpu):
        found["cpu_percent"] = _rounded("cpu_percent", max(cpu - activity.trainer_cpu_percent, 0.0))
    if memory is not None and isfinite(memory):
        found["free_memory_mib"] = _rounded("free_memory_mib", memory + activity.trainer_memory_mib)
    if activity.training:  # it counts in, by how much nobody knows
        found["psi_cpu_percent"] = before.values.get("psi_cpu_percent")
    return {
        **found,
        "new_samples": activity.samples.new,
        "distinct_samples": activity.samples.distinct,
        "broker_is_local": activity.broker_is_local,
        "training": activity.training,
    }


def _step(step: float, side: Callable[[float], int]) -> Callable[[float], float]:
    return lambda value: side(value / step) * step


def _digits(count: int) -> Callable[[float], float]:
    """Keep so many digits, rounding down."""

    def cut(value: float) -> float:
        text = str(max(0, floor(value)))
        return int(text[:count].ljust(len(text), "0"))

    return cut


_ROUNDING: Final = {
    "battery_percent": _step(1, floor),
    "cpu_cap_percent": _step(1, floor),
    "temp_c": _step(0.5, ceil),
    "trip_temp_c": _step(0.5, floor),
    "cpu_percent": _step(1, ceil),
    "psi_cpu_percent": _step(1, ceil),
    "free_memory_mib": _digits(3),
    "free_disk_mib": _digits(3),
    "input_idle_s": _digits(2),
    "power_w": _step(0.25, ceil),
}


def _rounded(name: str, value: Any) -> Value:
    if isinstance(value, str):
        return value[:MAX_TEXT_CHARS]
    if value is None or isinstance(value, bool):
        return value
    if not isfinite(value):
        return None
    rounded = _ROUNDING[name](value)
    return int(rounded) if rounded == int(rounded) else rounded


def _dump(value: object) -> str:
    return json.dumps(value, separators=(",", ":")) + "\n"


# --- reading -----------------------------------------------------------------------------------------


def decode(lines: Iterable[str]) -> Trace:
    """Read the header; the points follow as they are asked for.

    Each line still has its end; the last one may have been cut by a power cut, and is then left out.
    """
    reader = _Reader(lines)
    return Trace(reader.board, set(_SAMPLES) <= set(reader.names), reader.points())


class _Reader:
    """Goes through the lines; everything that is wrong is a DataError with the number of its line."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = enumerate(lines, 1)
        self.board = ""
        self.names: tuple[str, ...] = ()
        self._device_s = 0.0
        self._at_s = 0.0
        self._first = next(self._parsed(), None)
        if self._first is None:
            raise DataError("line 1: there is no header; is this a trace of fedclient?")
        number, found = self._first
        if not isinstance(found, dict):
            raise DataError("line 1: this is no header; is this a trace of fedclient?")
        self._header(number, found)

    def points(self) -> Iterator[Point]:
        """Yield the points."""
        values: dict[str, Value] = {}
        anchor: tuple[int, float] | None = None
        begins = True
        for number, found in self._parsed():
            if isinstance(found, dict):
                before_s = self._device_s
                self._header(number, found)
                values, anchor, begins = {}, None, begins or self._device_s != before_s
                continue
            changed = self._changed(number, found)
            if "minute_of_week" in changed:
                minute = changed.pop("minute_of_week")
                anchor = None if not isinstance(minute, int) else (minute, self._at_s)
            values.update(changed)
            yield Point(
                at_s=self._at_s,
                readings=_readings(values),
                minute_of_week=_minute(anchor, self._at_s),
                begins=begins,
            )
            begins = False

    def _parsed(self) -> Iterator[tuple[int, Any]]:
        for number, line in self._lines:
            try:
                found = _load(line)
            except (ValueError, RecursionError):
                if not line.endswith("\n") and len(line) <= MAX_LINE_CHARS and number > 1:
                    return  # the power went while it was written
                raise DataError(f"line {number}: this is not a line of a trace") from None
            yield number, found

    def _header(self, number: int, found: dict[str, Any]) -> None:
        if found.get(_MARK) != VERSION or isinstance(found[_MARK], bool):
            raise DataError(f"line {number}: this is no header of a trace, version {VERSION}")
        board, names, start_s = found.get("board"), found.get("names"), _number(found.get("start_s"))
        if not isinstance(board, str) or not _BOARD.fullmatch(board):
            raise DataError(f"line {number}: board is no name of a board")
        if not isinstance(names, list) or any(not isinstance(one, str) for one in names):
            raise DataError(f"line {number}: names is no list of names")
        strange = next((one for one in names if one not in _KINDS), None)
        if strange is not None:
            strange = repr(strange[:MAX_TEXT_CHARS])
            raise DataError(f"line {number}: {strange} is no reading that is known here")
        if len(set(names)) != len(names):
            raise DataError(f"line {number}: a name stands twice in names")
        if start_s is None or start_s < 0:
            raise DataError(f"line {number}: start_s is no device time")
        if self.board and (board, tuple(names)) != (self.board, self.names):
            raise DataError(f"line {number}: another board or other readings begin here: split the file")
        if self.board:  # the agent began anew; after a lost state folder, device time begins anew too
            self._at_s += min(max(0.0, start_s - self._device_s), LONGEST_GAP_S)
        self.board, self.names, self._device_s = board, tuple(names), start_s

    def _changed(self, number: int, found: Any) -> dict[str, Value]:
        """Return the new values of one line, and go on in time."""
        if not isinstance(found, list) or len(found) % 2 == 0:
            raise DataError(f"line {number}: this is not seconds, then pairs of place and value")
        since_s, places, values = _number(found[0]), found[1::2], found[2::2]
        if since_s is None or not 0 <= since_s <= LONGEST_GAP_S:
            raise DataError(f"line {number}: the seconds since the last line are not 0 to {LONGEST_GAP_S:g}")
        self._at_s += since_s
        self._device_s += since_s
        changed: dict[str, Value] = {}
        for place, value in zip(places, values, strict=True):
            if type(place) is not int or not 0 <= place < len(self.names):
                raise DataError(f"line {number}: the header has no name number {str(place)[:20]}")
            name = self.names[place]
            if name in changed:
                raise DataError(f"line {number}: {name} stands twice in it")
            if not _fits(name, value):
                raise DataError(f"line {number}: {str(value)[:MAX_TEXT_CHARS]!r} is no value of {name}")
            changed[name] = value
        return changed


def _fits(name: str, value: object) -> bool:
    if value is None:
        return name not in ("broker_is_local", "training")
    kind = _KINDS[name]
    if kind == "bool":
        return isinstance(value, bool)
    if kind == "str":
        choices = _CHOICES.get(name)
        known = choices is None or value in choices
        return isinstance(value, str) and known and len(value) <= MAX_TEXT_CHARS
    if kind == "int":
        most = WEEK_MIN - 1 if name == "minute_of_week" else 10**9
        return type(value) is int and 0 <= value <= most
    return _number(value) is not None


def _readings(values: Values) -> Readings:
    """Make readings of values that `_fits` let through."""
    found: dict[str, Any] = {
        name: _MISSING if values.get(name) is None else Reading(values[name], "trace") for name in SENSORS
    }
    new, distinct = (values.get(name) for name in _SAMPLES)
    activity = Activity(
        training=values.get("training") is True,
        broker_is_local=values.get("broker_is_local") is True,
        samples=SampleCounts(
            new=new if isinstance(new, int) else None,
            distinct=distinct if isinstance(distinct, int) else None,
        ),
    )
    return replace(_NOTHING, **found, activity=activity)


def _minute(anchor: tuple[int, float] | None, at_s: float) -> int | None:
    return None if anchor is None else (anchor[0] + int((at_s - anchor[1]) // 60)) % WEEK_MIN


def _distance(minute: int, expected: int | None) -> int:
    """Return how far apart two minutes of the week are; a minute is cut off, so one is nothing."""
    if expected is None:
        return WEEK_MIN
    return min((minute - expected) % WEEK_MIN, (expected - minute) % WEEK_MIN)


def _number(value: object) -> float | None:
    """Return a number of a sensible size; JSON's may be too large for a float."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if abs(value) < 1e15 else None


def _load(line: str) -> Any:
    if len(line) > MAX_LINE_CHARS:
        raise ValueError("no line is so long")
    return json.loads(line, parse_constant=_no_constant)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


_MISSING: Final[Reading[Any]] = unknown("not known in the trace")
_NOTHING: Final = Readings()
