"""The device database: one schema for what must change together (PROTOCOL 5.2).

Agent and trainer share it.  Each table has its module: session, counters, history and
manifests in `journal`; `outbox`; job and checkpoint in `jobs`; `residual`; `personal`; `schedule`;
`judgement`.
"""

from __future__ import annotations

import logging

from fedclient.device.folder import DeviceFolder
from fedclient.storage import Database

log = logging.getLogger(__name__)

MIGRATIONS = (
    """
    CREATE TABLE session (id INTEGER PRIMARY KEY CHECK (id = 1), state TEXT NOT NULL);
    CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE manifest (
        generation INTEGER, version INTEGER, payload BLOB NOT NULL, hash BLOB NOT NULL,
        PRIMARY KEY (generation, version)
    ) WITHOUT ROWID;
    CREATE TABLE outbox (
        counter INTEGER PRIMARY KEY, generation INTEGER NOT NULL, version INTEGER NOT NULL,
        model_hash BLOB NOT NULL, samples_epoch INTEGER NOT NULL, envelope BLOB NOT NULL, body BLOB NOT NULL,
        hash BLOB NOT NULL UNIQUE, body_hash BLOB NOT NULL, published INTEGER NOT NULL DEFAULT 0,
        state TEXT NOT NULL DEFAULT 'unsettled'
            CHECK (state IN ('unsettled', 'counted', 'returned', 'refused'))
    );
    CREATE UNIQUE INDEX one_unsettled ON outbox (state) WHERE state = 'unsettled';
    CREATE TABLE residual (
        id INTEGER PRIMARY KEY CHECK (id = 1), model_hash BLOB NOT NULL, generation INTEGER NOT NULL,
        samples_epoch INTEGER NOT NULL, shape TEXT NOT NULL, data BLOB NOT NULL, hash BLOB NOT NULL
    );
    CREATE TABLE job (
        id INTEGER PRIMARY KEY CHECK (id = 1), token BLOB NOT NULL, generation INTEGER NOT NULL,
        version INTEGER NOT NULL, seed INTEGER NOT NULL, threads INTEGER NOT NULL,
        samples_epoch INTEGER, sample_ids BLOB, boot_id TEXT, pid INTEGER, start_time INTEGER
    );
    CREATE TABLE checkpoint (
        id INTEGER PRIMARY KEY CHECK (id = 1), token BLOB NOT NULL, epoch INTEGER NOT NULL,
        step INTEGER NOT NULL, weights BLOB NOT NULL, state BLOB NOT NULL, report TEXT NOT NULL,
        hash BLOB NOT NULL
    );
    CREATE TABLE history (
        counter INTEGER PRIMARY KEY, generation INTEGER NOT NULL, version INTEGER NOT NULL,
        report TEXT NOT NULL, status TEXT, reason TEXT
    );
    """,
    """
    CREATE TABLE schedule (id INTEGER PRIMARY KEY CHECK (id = 1), record TEXT NOT NULL, hash BLOB NOT NULL);
    """,
    """
    CREATE TABLE judgement (
        id INTEGER PRIMARY KEY CHECK (id = 1), generation INTEGER NOT NULL, version INTEGER NOT NULL,
        verdict INTEGER NOT NULL, report TEXT NOT NULL, hash BLOB NOT NULL
    );
    CREATE TABLE personal (
        id INTEGER PRIMARY KEY CHECK (id = 1), model_hash BLOB NOT NULL, samples_epoch INTEGER NOT NULL,
        shape TEXT NOT NULL, data BLOB NOT NULL, hash BLOB NOT NULL
    );
    """,
    """
    ALTER TABLE job ADD COLUMN max_update_bytes INTEGER;
    """,
)


def open_database(folder: DeviceFolder, *, check: bool = False) -> Database:
    """Open the device database; a damaged one is put aside, reported, and begun anew.

    With `check` every page is read; who has the database open already finds the new one by itself.
    Keys and enrolment are files of their own, so the device keeps its identity; the
    gateway's answer to its next update tells it where to count on.
    """
    database, aside = Database.open_or_quarantine(folder.database, migrations=MIGRATIONS, check=check)
    if aside is not None:
        log.error("damaged database moved aside path=%s; a new one was begun", aside)
    return database
