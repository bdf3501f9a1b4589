"""What the scheduler must remember over restarts: its history, and device time."""

from __future__ import annotations

import hashlib
import json
import logging

from fedclient.scheduler.history import ClockMark, History
from fedclient.storage import Database

log = logging.getLogger(__name__)


def load(database: Database) -> tuple[History, ClockMark | None]:
    """Return what was saved last; a damaged record counts as none, and is reported."""
    row = database.one("SELECT record, hash FROM schedule WHERE id = 1")
    if row is None:
        return History(), None
    text, digest = row
    if isinstance(text, str) and hashlib.sha256(text.encode()).digest() == digest:
        try:
            record = json.loads(text)
            return History.of_record(record["history"]), ClockMark.of_record(record["clock"])
        except (KeyError, TypeError, ValueError):
            log.error("the scheduler's memory is of another version: budgets and pauses begin anew")
            return History(), None
    log.error("the scheduler's memory is not what was written: budgets and pauses begin anew")
    return History(), None


def save(database: Database, history: History, mark: ClockMark) -> None:
    """Save both; inside the caller's transaction."""
    text = json.dumps({"history": history.as_record(), "clock": mark.as_record()})
    digest = hashlib.sha256(text.encode()).digest()
    database.execute("INSERT OR REPLACE INTO schedule VALUES (1, ?, ?)", (text, digest))
