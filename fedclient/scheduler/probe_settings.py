"""What the owner says about this machine's sensors: the config's `[power]`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class PowerSettings:
    """Where to learn about a battery that the kernel does not know, such as a UPS HAT's.

    `command` or `file`, where set, is the only source; else the kernel's power supplies are; and
    where these do not tell, or there is none, `assume` is what holds.
    """

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

    def contradiction(self) -> str:
        """Say which keys do not go together."""
        if self.command is not None and self.file is not None:
            return "command and file are two answers to one question: set one of them"
        return ""
