"""Where the power comes from: the owner's word where sysfs has none, and the trend of a battery.  Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class PowerSettings:
    """Where to learn about a battery that the kernel does not know, such as a UPS HAT's."""

    command: str | None = field(
        default=None,
        metadata={"help": 'a program that prints {"source": "battery", "percent": 71, "charging": false}'},
    )
    file: Path | None = field(
        default=None, metadata={"help": "a file with the same, kept by your own program"}
    )
    assume: str | None = field(
        default=None,
        metadata={
            "help": "what to believe where nothing tells",
            "expected": ("mains", "battery"),
        },
    )
