"""Figures for Prometheus as a text file, for node_exporter's textfile collector.

A file takes the place of a port: nothing listens, nothing wakes up.  It is replaced as one, so that a
reader sees the old file or the new one.  It is not synced to the disk: a power cut may take it.
That the supply sags is written once; while it does, nothing more is.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import isnan
from pathlib import Path
from typing import Final

from fedclient import __version__
from fedclient.config import MetricsSettings
from fedclient.scheduler.gates import GATES
from fedclient.values import Phase

log = logging.getLogger(__name__)

_GATES: Final = tuple(gate.__name__ for gate in GATES)
_PHASES: Final = tuple(phase.value for phase in Phase)
Samples = Iterable[tuple[Mapping[str, str], float | None]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """What the agent knows anyway; None is not known, and is left out."""

    phase: str
    connected: bool
    eligible: bool | None = None  # None: it was never asked
    closed: tuple[str, ...] = ()  # gates
    decided_unix_s: float | None = None  # only where the wall clock is right
    rounds: Mapping[str, int] = field(default_factory=dict)  # result -> how many, ever
    bytes_up: int = 0  # ever
    bytes_down: int = 0
    head_bytes: int = 0  # ever, of the heads that were fetched
    head_bytes_saved: int = 0  # by deltas
    spent: Mapping[str, float] = field(default_factory=dict)  # in 24 hours, by the names of `Cost`
    temp_c: float | None = None
    battery_percent: float | None = None
    power_w: float | None = None
    new_samples: int | None = None


class Metrics:
    """Keeps one file up to date."""

    def __init__(self, path: Path, settings: MetricsSettings) -> None:
        self._path = path
        self._every_s = settings.every_s
        self._written = ""
        self._written_s: float | None = None
        self._last: Snapshot | None = None
        self._trouble = ""

    def due(self, now_s: float) -> bool:
        """Tell whether `update` would write, so that nobody makes a snapshot for nothing."""
        recent = self._written_s is not None and 0 <= now_s - self._written_s < self._every_s
        return not recent

    def update(self, snapshot: Snapshot, now_s: float) -> None:
        """Write what changed, unless that was done a moment ago; call it whenever the agent is awake."""
        self._last = snapshot
        held_back = "supply" in snapshot.closed and 'gate="supply"} 1\n' in self._written
        if held_back or not self.due(now_s):
            return
        text = render(snapshot)
        if text != self._written:
            self._written_s = now_s
            self._write(text)

    def close(self) -> None:
        """Say that the agent has ended, with its last figures."""
        if self._last is not None:
            self._write(render(self._last, up=False))

    def _write(self, text: str) -> None:
        try:
            _replace(self._path, text.encode())
        except OSError as error:
            trouble = error.strerror or str(error)
            if trouble != self._trouble:  # once per change
                log.warning("[metrics] file %s cannot be written: %s", self._path, trouble)
            self._written, self._trouble = "", trouble
        else:
            if self._trouble:
                log.info("[metrics] file %s is written again", self._path)
            self._written, self._trouble = text, ""


def render(snapshot: Snapshot, *, up: bool = True) -> str:
    """Return the file: families of samples, each with its help and type."""
    return "".join(line for family in _families(snapshot, up=up) for line in _family(*family))


def _families(one: Snapshot, *, up: bool) -> Iterator[tuple[str, str, str, Samples]]:
    """Yield name, type, help and samples."""
    yield "up", "gauge", "Whether the agent runs; 0 after an orderly end.", [({}, up)]
    yield "info", "gauge", "The software; always 1.", [({"version": __version__}, 1)]
    phases = [({"phase": name}, name == one.phase) for name in _PHASES]
    yield "phase", "gauge", "1 for what the device does now.", phases
    yield "connected", "gauge", "Whether there is a connection to the broker.", [({}, one.connected)]
    yield "eligible", "gauge", "Whether every gate was open at the last decision.", [({}, one.eligible)]
    gates = [({"gate": name}, name in one.closed) for name in _GATES] if one.eligible is not None else []
    yield "gate_closed", "gauge", "1 for a gate that was closed at the last decision.", gates
    text = "When the last decision was made, where the clock is right."
    yield "last_decision_timestamp_seconds", "gauge", text, [({}, one.decided_unix_s)]
    rounds = [({"result": result}, count) for result, count in sorted(one.rounds.items())]
    yield "rounds_total", "counter", "Finished updates by what became of them.", rounds
    mqtt = [({"direction": "up"}, one.bytes_up), ({"direction": "down"}, one.bytes_down)]
    yield "mqtt_bytes_total", "counter", "MQTT bytes, counted when an update is settled.", mqtt
    text = "Bytes of the heads that were fetched, as they travel."
    yield "head_bytes_total", "counter", text, [({}, one.head_bytes)]
    text = "Bytes that deltas have saved against whole heads."
    yield "head_bytes_saved_total", "counter", text, [({}, one.head_bytes_saved)]
    for name, key in _SPENT.items():
        text = f"{key.partition('_')[0].capitalize()} in the last 24 hours, as its budget counts it."
        yield name, "gauge", text, [({}, one.spent.get(key))]
    yield "temperature_celsius", "gauge", "The hottest thermal zone that counts.", [({}, one.temp_c)]
    battery = None if one.battery_percent is None else one.battery_percent / 100
    yield "battery_ratio", "gauge", "Charge of the battery, 0 to 1.", [({}, battery)]
    yield "power_watts", "gauge", "What the board draws, by its rails.", [({}, one.power_w)]
    yield "new_samples", "gauge", "Samples since the last settled job.", [({}, one.new_samples)]


_SPENT: Final = {
    "training_seconds_24h": "training_s",
    "traffic_bytes_24h": "traffic_bytes",
    "energy_joules_24h": "energy_j",
    "flash_bytes_24h": "flash_bytes",
    "update_bytes_24h": "update_bytes",
}


def _family(name: str, kind: str, text: str, samples: Samples) -> Iterator[str]:
    """Yield a family's lines; one without a known value is left out."""
    known = [(labels, value) for labels, value in samples if value is not None and not isnan(value)]
    if not known:
        return
    name = f"fedclient_{name}"
    yield f"# HELP {name} {_escaped(text)}\n"
    yield f"# TYPE {name} {kind}\n"
    for labels, value in known:
        shown = ",".join(f'{label}="{_quoted(text)}"' for label, text in labels.items())
        yield f"{name}{{{shown}}} {_number(value)}\n" if shown else f"{name} {_number(value)}\n"


def _number(value: float) -> str:
    """Write a number as Go reads it; whole ones without a point."""
    value = float(value)
    if value in (float("inf"), float("-inf")):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) else repr(round(value, 3))


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")


def _quoted(text: str) -> str:
    return _escaped(text).replace('"', r"\"")


def _replace(path: Path, data: bytes) -> None:
    """Put `data` at `path` at once; the other file's name does not end in .prom, so nobody reads it."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)  # of an agent that was killed
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - Path cannot open a descriptor
            os.fchmod(descriptor, 0o644)  # whatever the umask says: node_exporter is another user
            file.write(data)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
