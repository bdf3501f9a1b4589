"""Updates on their way: written once by the trainer, settled once by a receipt (PROTOCOL 4.1, 5.2).

A row holds the sealed bytes that travel and the plain encoded body, so that a returned
update can be folded back into the residual without being opened again.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from typing import Any

from fedclient.errors import StorageDamaged
from fedclient.session import Outcome
from fedclient.storage import Database
from fedclient.values import HeadVersion

log = logging.getLogger(__name__)

_SETTLED_ROWS = 32  # settled rows carry nothing that is needed; a few stay for `status`


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One update in the outbox."""

    counter: int
    head_version: HeadVersion
    model_hash: bytes
    samples_epoch: int
    envelope: bytes
    body: bytes


class Outbox:
    """Typed access to the table `outbox`; transactions are the caller's."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, row: Row) -> None:
        """Store a finished update; a second unsettled one violates the schema."""
        version = row.head_version
        self._database.execute(
            "INSERT INTO outbox (counter, generation, version, model_hash, samples_epoch, envelope, body, "
            "hash, body_hash) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                row.counter,
                version.generation,
                version.version,
                row.model_hash,
                row.samples_epoch,
                row.envelope,
                row.body,
                hashlib.sha256(row.envelope).digest(),
                hashlib.sha256(row.body).digest(),
            ),
        )

    def unsettled(self) -> Row | None:
        """Return the update that has no receipt yet; raises StorageDamaged."""
        rows = self._rows("state = 'unsettled'")
        return _checked(rows[0]) if rows else None

    def returned(self) -> tuple[tuple[Row, ...], tuple[int, ...]]:
        """Return the updates that go back into the residual, in order, and the counters of all so marked.

        A damaged one is reported and cannot be given back: it is among the counters only.
        """
        sound = []
        stored = self._rows("state = 'returned'")
        for row in stored:
            try:
                sound.append(_checked(row))
            except StorageDamaged as error:
                log.error("%s", error)
        return tuple(sound), tuple(row[0] for row in stored)

    def hash_of(self, counter: int) -> bytes | None:
        """Return the hash of the envelope of an unsettled update."""
        row = self._database.one(
            "SELECT hash FROM outbox WHERE counter = ? AND state = 'unsettled'", (counter,)
        )
        return None if row is None else bytes(row[0])

    def was_published(self, counter: int) -> bool:
        row = self._database.one("SELECT published FROM outbox WHERE counter = ?", (counter,))
        return row is not None and bool(row[0])

    def mark_published(self, counter: int) -> None:
        """Say, before the first publish, that this row may be in the gateway's hands."""
        self._database.execute("UPDATE outbox SET published = 1 WHERE counter = ?", (counter,))

    def settle(self, counter: int, outcome: Outcome) -> None:
        """Carry out what a receipt says; old rows that nobody needs any more go."""
        self._database.execute(
            "UPDATE outbox SET state = ? WHERE counter = ? AND state = 'unsettled'", (outcome.value, counter)
        )
        self._database.execute(
            "DELETE FROM outbox WHERE state IN ('counted', 'refused') AND counter <= ?",
            (counter - _SETTLED_ROWS,),
        )

    def drop_returned(self, counters: tuple[int, ...]) -> None:
        """Forget exactly the returned rows that a new residual was made with."""
        self._database.executemany(
            "DELETE FROM outbox WHERE counter = ? AND state = 'returned'",
            [(counter,) for counter in counters],
        )

    def drop_damaged(self) -> None:
        """Give up an unsettled update whose bytes are not what was signed."""
        self._database.execute("UPDATE outbox SET state = 'refused' WHERE state = 'unsettled'")

    def forget_returned(self) -> None:
        """Forget all returned rows: what they hold was trained on samples that are purged."""
        self._database.execute("DELETE FROM outbox WHERE state = 'returned'")

    def _rows(self, where: str) -> list[tuple[Any, ...]]:
        # `where` is one of two literals of this class
        return self._database.execute(
            "SELECT counter, generation, version, model_hash, samples_epoch, envelope, body, hash, body_hash "  # noqa: S608
            f"FROM outbox WHERE {where} ORDER BY counter"
        )


def _checked(stored: tuple[Any, ...]) -> Row:
    counter, generation, version, model_hash, samples_epoch, envelope, body, *hashes = stored
    if [hashlib.sha256(envelope).digest(), hashlib.sha256(body).digest()] != hashes:
        raise StorageDamaged(f"outbox row {counter} is not what was written; it is given up")
    return Row(
        counter=counter,
        head_version=HeadVersion(generation, version),
        model_hash=model_hash,
        samples_epoch=samples_epoch,
        envelope=envelope,
        body=body,
    )
