"""What the gateway asks of single devices: the newest command of each (docs/wire-format.md, section 12).

Part of the gateway's database (`store.py` has the table); `shelf.py` keeps on the broker what `wanted` says.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from fedclient.gateway.roster import Standing
from fedclient.storage import Database
from fedclient.values import Command, CommandKind

HEARD_S: Final = 24 * 3600  # a device that says something so long after a resume, and no pause, has had it
_GATE: Final = "paused"  # how a status names a pause, whoever asked for it

# A pause that has run out is news to nobody: a device that was away all the time need not pause now.
# A resume must wait for its device, however long that is away: it may be paused until resumed.
_WANTED: Final = """
    SELECT command.device, command.sequence, kind, seconds FROM command
    JOIN device ON device.id = command.device LEFT JOIN status ON status.device = command.device
    WHERE device.standing != ? AND CASE kind
        WHEN ? THEN seconds = 0 OR command.unix_s + seconds > ?
        ELSE status.unix_s IS NULL OR status.unix_s <= command.unix_s + ?
            OR ' ' || closed_gates || ' ' LIKE ? END
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pause:
    """A pause that has not ended by what the gateway knows."""

    since_unix_s: int
    until_unix_s: int | None  # None: until resumed; by the device's own count it may be later


class Commands:
    """One row per device that was ever sent a command; rows stay, for the sequence."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def give(self, devices: Collection[str], kind: CommandKind, seconds: int, unix_s: float) -> int:
        """Make this the newest command of each device, and return its sequence.

        The sequence counts over all devices.  The clock only lifts it, beyond what was sent before the
        database was restored from a backup: a device follows nothing that is not above what it has seen.
        """
        sequence = max(self.newest() + 1, int(unix_s))
        self._db.executemany(
            "INSERT OR REPLACE INTO command VALUES (?, ?, ?, ?, ?)",
            [(device, sequence, kind.value, seconds, int(unix_s)) for device in devices],
        )
        return sequence

    def newest(self) -> int:
        """Return the highest sequence given; 0 before the first."""
        row = self._db.one("SELECT max(sequence) FROM command")
        return (row and row[0]) or 0

    def wanted(self, unix_s: float) -> dict[str, Command]:
        """Return by device the commands that somebody may still have to hear."""
        bounds = (Standing.REVOKED.value, CommandKind.PAUSE.value, int(unix_s), HEARD_S, f"% {_GATE} %")
        return {row[0]: _command(row[1:]) for row in self._db.execute(_WANTED, bounds)}

    def pauses(self, unix_s: float) -> dict[str, Pause]:
        """Return who is asked to pause now."""
        rows = self._db.execute(
            "SELECT device, unix_s, seconds FROM command"
            " WHERE kind = ? AND (seconds = 0 OR unix_s + seconds > ?)",
            (CommandKind.PAUSE.value, int(unix_s)),
        )
        return {
            device: Pause(since_unix_s=since, until_unix_s=since + seconds if seconds else None)
            for device, since, seconds in rows
        }


def _command(row: tuple[Any, ...]) -> Command:
    return Command(sequence=row[0], kind=CommandKind(row[1]), seconds=row[2])
