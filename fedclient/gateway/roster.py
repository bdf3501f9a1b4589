"""Who is enrolled, what each device was answered, and the invitations still out.

Part of the gateway's database (`store.py` has its tables, and says what is one commit).
A receipt is kept for ever, with the hash of its envelope (PROTOCOL 4.2, docs/adr/0006).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from fedclient.storage import Database
from fedclient.values import Status

_DEVICE = "SELECT id, public_key, standing, conflicts, last_counter, enrolled_unix_s FROM device"


class Standing(str, Enum):
    """What the gateway thinks of a device; only ACTIVE counts."""

    ACTIVE = "active"
    SUSPENDED = "suspended"  # three conflicts: an old SD image, or two devices with one key
    REVOKED = "revoked"  # by a person


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """A row of the roster."""

    id: str
    public_key: bytes
    standing: Standing
    conflicts: int
    last_counter: int
    enrolled_unix_s: int


class Roster:
    """Devices, receipts, invitations and statuses."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def device(self, device_id: str) -> Device | None:
        row = self._db.one(f"{_DEVICE} WHERE id = ?", (device_id,))
        return _device(row) if row else None

    def devices(self) -> list[Device]:
        return [_device(row) for row in self._db.execute(f"{_DEVICE} ORDER BY id")]

    def enrol(self, device_id: str, public_key: bytes, unix_s: float) -> None:
        """Add a device to the roster; one that is there stays as it is."""
        self._db.execute(
            "INSERT OR IGNORE INTO device (id, public_key, standing, enrolled_unix_s) VALUES (?, ?, ?, ?)",
            (device_id, public_key, Standing.ACTIVE.value, int(unix_s)),
        )

    def set_standing(self, device_id: str, standing: Standing, conflicts: int = 0) -> None:
        self._db.execute(
            "UPDATE device SET standing = ?, conflicts = ? WHERE id = ?",
            (standing.value, conflicts, device_id),
        )

    def receipt(self, device_id: str, envelope_hash: bytes) -> bytes | None:
        """Return the first receipt for an envelope, or None for one that was never settled."""
        row = self._db.one(
            "SELECT receipt FROM receipt WHERE device = ? AND envelope_hash = ?", (device_id, envelope_hash)
        )
        return row[0] if row else None

    def add_receipt(self, device_id: str, envelope_hash: bytes, counter: int, receipt: bytes) -> None:
        """Settle an envelope for ever, and raise the device's counter to its."""
        self._db.execute(
            "INSERT INTO receipt VALUES (?, ?, ?, ?)", (device_id, envelope_hash, counter, receipt)
        )
        self._db.execute(
            "UPDATE device SET last_counter = ? WHERE id = ? AND last_counter < ?",
            (counter, device_id, counter),
        )

    def save_status(self, device_id: str, status: Status, unix_s: float) -> bool:
        """Keep the newest status of a device, by (start, sequence); False for one that is not."""
        gates = " ".join(status.closed_gates)
        self._db.execute(
            "INSERT INTO status VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (device) DO UPDATE SET"
            " start = excluded.start, sequence = excluded.sequence, phase = excluded.phase,"
            " closed_gates = excluded.closed_gates, software = excluded.software, unix_s = excluded.unix_s"
            " WHERE (excluded.start, excluded.sequence) > (start, sequence)",
            (
                device_id,
                status.start,
                status.sequence,
                status.phase.value,
                gates,
                status.software,
                int(unix_s),
            ),
        )
        return self._db.one("SELECT changes()") == (1,)

    def statuses(self) -> dict[str, dict[str, Any]]:
        """Last status of each device that sent one."""
        names = ("start", "sequence", "phase", "closed_gates", "software", "unix_s")
        return {
            row[0]: dict(zip(names, row[1:], strict=True)) for row in self._db.execute("SELECT * FROM status")
        }

    def add_invitation(self, token_hash: bytes, expires_unix_s: int) -> None:
        self._db.execute(
            "INSERT INTO invitation (token_hash, expires_unix_s) VALUES (?, ?)", (token_hash, expires_unix_s)
        )

    def invitation(self, token_hash: bytes) -> tuple[int, str | None] | None:
        """Return (expiry in Unix seconds, device that used it), or None for an unknown token."""
        row = self._db.one(
            "SELECT expires_unix_s, used_by FROM invitation WHERE token_hash = ?", (token_hash,)
        )
        return (row[0], row[1]) if row else None

    def use_invitation(self, token_hash: bytes, device_id: str) -> None:
        self._db.execute("UPDATE invitation SET used_by = ? WHERE token_hash = ?", (device_id, token_hash))


def _device(row: tuple[Any, ...]) -> Device:
    return Device(
        id=row[0],
        public_key=row[1],
        standing=Standing(row[2]),
        conflicts=row[3],
        last_counter=row[4],
        enrolled_unix_s=row[5],
    )
