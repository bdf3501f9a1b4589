"""What a kind of board is, has and has not: data that `boards.py` reads from `hardware/boards`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

EVIDENCE = {  # what a profile rests on, best first; in words
    "board": "tried on a board",
    "emulation": "tried under emulation only",
    "documents": "made from documents only",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Match:
    """What a board says of itself; `boards.detect` tells which rule wins."""

    compatible: tuple[str, ...] = ()  # entries of the device tree's list
    model: tuple[str, ...] = ()  # what the model's name begins with; a revision may follow
    machine: str | None = None  # of generic profiles: any machine of this kind


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """One board.  Thresholds are defaults: what the owner's config says comes first."""

    name: str  # of its folder
    title: str
    evidence: str = "documents"  # a key of EVIDENCE
    match: Match = field(default_factory=Match)
    sensors: Mapping[str, str] = field(default_factory=dict)  # reading -> where this board tells it
    missing: Mapping[str, str] = field(default_factory=dict)  # reading -> why this board cannot tell it
    zones: tuple[str, ...] = ()  # types of the thermal zones that count; none: all but `skip_zones`
    skip_zones: tuple[str, ...] = ()  # constant, or of parts that training does not warm
    rails: tuple[str, ...] = ()  # labels of the INA3221 channel with the whole board's power, best first
    training_w: float | None = None  # what training adds, where no rail tells: an estimate
    threads: int = 1
    memory_mib: int | None = None  # bound of the trainer
    feature_batch: int | None = None  # samples the backbone takes at once
    schedule: Mapping[str, object] = field(default_factory=dict)  # defaults of [schedule]

    def excuses(self, reading: str) -> str:
        """Return why `reading` may be unknown on this board, or nothing: then unknown means no."""
        return self.missing.get(reading, "")


# Where no profile fits: nobody vouches that a sensor is missing, so each gate wants its reading.
UNKNOWN_BOARD = Profile(name="unknown", title="a board without a profile")
