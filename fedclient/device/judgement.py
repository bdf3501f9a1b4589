"""What this device made of the head that it judged last (table `judgement`).

Whoever judges writes the row in one transaction: a verdict is there whole, or the head is judged again.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass, field

from fedclient.storage import Database
from fedclient.values import HeadVersion, Judgement, Verdict

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeArguments:
    """What the agent tells a child that only judges."""

    parent: int  # process id of the agent
    state: str
    head: tuple[int, int]  # generation and version
    margin: float
    min_judged: int  # rows; with fewer there is no telling
    threads: int
    nice: int
    idle: bool
    memory_mib: int | None
    feature_batch: int | None  # samples that the backbone takes at once, at most
    verbose: bool  # say how far it is, on the agent's standard error


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """A judgement with what it rests on: `why` is a sentence, `report` the figures."""

    judgement: Judgement
    why: str
    report: dict[str, object] = field(default_factory=dict)


class Judgements:
    """Typed access to the table `judgement`; transactions are the caller's."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def save(self, told: Told) -> None:
        """Keep a judgement, unless there is one on a newer head: a child may have been forgotten."""
        kept = self.load()
        if kept is not None and kept.judgement.head_version > told.judgement.head_version:
            return
        version, verdict = told.judgement.head_version, told.judgement.verdict
        place = (version.generation, version.version, int(verdict))
        report = json.dumps({**told.report, "why": told.why})
        self._database.execute(
            "INSERT OR REPLACE INTO judgement VALUES (1, ?, ?, ?, ?, ?)",
            (*place, report, _digest(place, report)),
        )

    def load(self) -> Told | None:
        """Return the last judgement; a damaged one counts as none: the head is judged again."""
        row = self._database.one(
            "SELECT generation, version, verdict, report, hash FROM judgement WHERE id = 1"
        )
        if row is None:
            return None
        if _digest(row[:3], row[3]) != row[4]:
            log.warning("the last judgement is not what was written: it counts as none")
            return None
        report = json.loads(row[3])
        judgement = Judgement(head_version=HeadVersion(row[0], row[1]), verdict=Verdict(row[2]))
        return Told(judgement=judgement, why=report.pop("why"), report=report)


def _digest(place: tuple[object, ...], report: str) -> bytes:
    return hashlib.sha256(f"{place} {report}".encode()).digest()
