"""What the sample store knows of nodes: which sample came under which counter, labels that wait, windows.

All of one transaction (`SampleStore.node_rows`): a sample is stored in the commit that takes its counter.
What is here speaks SQL and decides nothing; `nodes/intake.py` does.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from fedclient.samples.array import Array
from fedclient.samples.label import Label

if TYPE_CHECKING:
    from fedclient.storage import Database

Columns = tuple[str, Array, Label, tuple[int | None, ...]]  # source, sample, and those of a node's sample
Put = Callable[[Sequence[Columns], tuple[bool, int]], None]
Delete = Callable[[Sequence[tuple[int, int]]], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeRow:
    """One sample of a node, as it is stored."""

    node: str
    generation: int
    counter: int
    label_counter: int
    array: Array
    label: Label


class NodeRows:
    """The tables of nodes, inside a transaction of the store's."""

    def __init__(self, database: Database, put: Put, delete: Delete) -> None:
        self._database = database
        self._put = put
        self._delete = delete

    def add(self, rows: Sequence[NodeRow], unix_s: int) -> None:
        """Store samples, each under its counter."""
        columns = [
            (one.node, one.array, one.label, (one.generation, one.counter, one.label_counter)) for one in rows
        ]
        self._put(columns, (False, unix_s))

    def drop_oldest(self, node: str, count: int) -> None:
        """Delete a node's oldest samples, and count them as dropped."""
        self._delete(
            self._database.execute(
                "SELECT id, bytes FROM samples WHERE source = ? AND counter IS NOT NULL ORDER BY id LIMIT ?",
                (node, count),
            )
        )
        self._database.execute("UPDATE store SET dropped = dropped + ?", (count,))

    def window(self, node: str, generation: int) -> tuple[int, bytes] | None:
        """Return what `save_windows` kept, unless it was of another generation."""
        return self._database.one(
            "SELECT floor, taken FROM node_window WHERE node = ? AND generation = ?", (node, generation)
        )

    def highest(self, node: str, generation: int) -> int:
        """Return the highest counter of the samples that are stored; 0 where there is none."""
        found = self._database.one(
            "SELECT max(counter) FROM samples WHERE source = ? AND generation = ? AND counter IS NOT NULL",
            (node, generation),
        )
        return (found and found[0]) or 0

    def save_windows(self, windows: Sequence[tuple[str, int, int, bytes]]) -> None:
        """Keep windows: node, generation, floor, taken.  Labels of samples up to a floor wait in vain."""
        self._database.executemany("INSERT OR REPLACE INTO node_window VALUES (?, ?, ?, ?)", windows)
        floors = ((node, floor) for node, _, floor, _ in windows)
        self._database.executemany("DELETE FROM node_label WHERE node = ? AND of <= ?", floors)

    def begin(self, node: str) -> None:
        """Let go of what belonged to a node's earlier generation, but for its samples."""
        self._database.execute("DELETE FROM node_label WHERE node = ?", (node,))

    def waiting(self, nodes: Collection[str]) -> dict[tuple[str, int], tuple[int, Label]]:
        """Return the labels that wait: (node, counter of the sample) -> (counter of the label, label)."""
        rows = self._database.execute(
            f"SELECT node, of, counter, label FROM node_label WHERE node IN ({', '.join('?' * len(nodes))})",  # noqa: S608
            tuple(nodes),
        )
        return {(node, of): (counter, label) for node, of, counter, label in rows}

    def wait(self, node: str, of: int, counter: int, label: Label) -> None:
        """Keep a label until its sample comes, in place of one that waits."""
        self._database.execute(
            "INSERT OR REPLACE INTO node_label VALUES (?, ?, ?, ?)", (node, of, counter, label)
        )

    def waited(self, node: str, of: int) -> None:
        """A label's sample has come."""
        self._database.execute("DELETE FROM node_label WHERE node = ? AND of = ?", (node, of))

    def label(self, node: str, generation: int, of: int, given: tuple[int, Label]) -> bool:
        """Label a stored sample unless a newer label has; False when there is no such sample."""
        found = self._database.one(
            "SELECT id, label_counter FROM samples WHERE source = ? AND generation = ? AND counter = ?",
            (node, generation, of),
        )
        if found is None:
            return False
        if given[0] > found[1]:
            self._database.execute(
                "UPDATE samples SET label_counter = ?, label = ? WHERE id = ?", (*given, found[0])
            )
        return True

    def rows(self, node: str) -> int:
        """Count a node's samples, of all its generations."""
        ((count,),) = self._database.execute(
            "SELECT count(*) FROM samples WHERE source = ? AND counter IS NOT NULL", (node,)
        )
        return int(count)

    def count(self, added: Mapping[tuple[str, str], int]) -> None:
        """Add to what was counted: (node, what) -> how many more."""
        self._database.executemany(
            "INSERT INTO node_count VALUES (?, ?, ?)"
            " ON CONFLICT(node, what) DO UPDATE SET count = count + excluded.count",
            [(node, what, more) for (node, what), more in added.items()],
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeStats:
    """What is stored of one node, and what was counted."""

    samples: int
    labelled: int
    newest_unix_s: int | None  # when the newest of them came, by a clock that may be wrong
    counts: Mapping[str, int]


def stats(database: Database) -> dict[str, NodeStats]:
    """Return the figures of every node that was ever heard of; "" is who has no secret here."""
    stored = {
        node: figures
        for node, *figures in database.execute(
            "SELECT source, count(*), count(label), max(created_unix_s) FROM samples"
            " WHERE counter IS NOT NULL GROUP BY source"
        )
    }
    counts: dict[str, dict[str, int]] = {}
    for node, what, count in database.execute("SELECT node, what, count FROM node_count ORDER BY node, what"):
        counts.setdefault(node, {})[what] = count
    found = {}
    for node in sorted({*stored, *counts}):
        samples, labelled, newest = stored.get(node, (0, 0, None))
        found[node] = NodeStats(
            samples=samples, labelled=labelled, newest_unix_s=newest, counts=counts.get(node, {})
        )
    return found


def kinds(database: Database) -> list[tuple[str, int, Label, int]]:
    """Return node, number of values, label, and how many samples of it are such."""
    found = database.execute(
        "SELECT source, shape, label, count(*) FROM samples WHERE counter IS NOT NULL GROUP BY 1, 2, 3"
    )
    return [(node, prod(map(int, shape.split(","))), label, count) for node, shape, label, count in found]


def counted(database: Database, what: str) -> dict[str, int]:
    """Return how often this was counted, by node."""
    return dict(database.execute("SELECT node, count FROM node_count WHERE what = ?", (what,)))


def ids(database: Database, node: str) -> set[int]:
    """Return the ids of a node's samples, of all its generations."""
    rows = database.execute("SELECT id FROM samples WHERE source = ? AND counter IS NOT NULL", (node,))
    return {row for (row,) in rows}
