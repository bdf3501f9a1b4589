"""The tables of the sample store, as migrations: each brings a database of the one before up to date.

What was released stays as it is, and new ones are added at the end.
"""

from __future__ import annotations

from typing import Final

MIGRATIONS: Final = (
    """
    CREATE TABLE samples(
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        source TEXT NOT NULL,
        label,                             -- integer, text or null
        holdout INTEGER NOT NULL,
        hash BLOB NOT NULL,                -- of dtype, shape and data
        created_unix_s INTEGER NOT NULL,   -- for people; the clock may be wrong
        bytes INTEGER NOT NULL,
        dtype TEXT NOT NULL,
        shape TEXT NOT NULL,
        data BLOB NOT NULL
    );
    CREATE INDEX usable ON samples(hash, id, label, holdout) WHERE label IS NOT NULL AND holdout = 0;
    CREATE TABLE store(
        rows INTEGER NOT NULL, bytes INTEGER NOT NULL, dropped INTEGER NOT NULL, damaged INTEGER NOT NULL,
        epoch INTEGER NOT NULL, max_rows INTEGER NOT NULL, max_bytes INTEGER NOT NULL
    );
    INSERT INTO store VALUES (0, 0, 0, 0, random() & 0x1fffffffffff, 50000, 512 << 20);
    """,
    "ALTER TABLE store ADD COLUMN held_out INTEGER NOT NULL DEFAULT 0;",
    """
    ALTER TABLE samples ADD COLUMN generation INTEGER;     -- these three: of a node's sample, else null
    ALTER TABLE samples ADD COLUMN counter INTEGER;
    ALTER TABLE samples ADD COLUMN label_counter INTEGER;  -- of the message that labelled it
    CREATE UNIQUE INDEX of_node ON samples(source, generation, counter) WHERE counter IS NOT NULL;
    CREATE TABLE node_window(
        node TEXT PRIMARY KEY, generation INTEGER NOT NULL, floor INTEGER NOT NULL, taken BLOB NOT NULL
    );
    CREATE TABLE node_label(  -- of samples that have not come yet
        node TEXT NOT NULL, of INTEGER NOT NULL, counter INTEGER NOT NULL, label,
        PRIMARY KEY(node, of)
    );
    CREATE TABLE node_count(
        node TEXT NOT NULL, what TEXT NOT NULL, count INTEGER NOT NULL,
        PRIMARY KEY(node, what)
    );
    """,
)
