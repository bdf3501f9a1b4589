"""What devices made of the heads they were given: the canary of a federation.

Part of the gateway's database (`store.py` has the table).  A device keeps the head before where a new one is
worse on its own samples (docs/operations.md), and says so in its status.  Nothing here decides: a version
that most devices do not want is a warning for a person, since a verdict is cheap to make up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fedclient.gateway.roster import Standing
from fedclient.limits import COUNTER_MAX
from fedclient.storage import Database
from fedclient.values import HeadVersion, Judgement, Verdict

_LEAST_JUDGES: Final = 3  # one device's samples may be odd


@dataclass(frozen=True, kw_only=True, slots=True)
class Tally:
    """How many devices said what of one version; those that have said nothing are not in it."""

    adopted: int = 0
    kept_previous: int = 0
    unjudged: int = 0

    @property
    def doubtful(self) -> bool:
        """Whether more than half of those that could judge, and enough of them, kept the head before."""
        judges = self.adopted + self.kept_previous
        return judges >= _LEAST_JUDGES and 2 * self.kept_previous > judges


class Verdicts:
    """The last word of each device on each version."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def note(self, device_id: str, judgement: Judgement) -> None:
        """Keep a device's judgement; one on a head that was never published here is ignored."""
        version = judgement.head_version
        self._db.execute(
            "INSERT OR REPLACE INTO judgement (device, version, generation, verdict)"
            " SELECT ?, version, generation, ? FROM head WHERE generation = ? AND version = ?",
            (device_id, int(judgement.verdict), version.generation, version.version),
        )

    def tallies(self, only: HeadVersion | None = None) -> dict[HeadVersion, Tally]:
        """Count by version what active devices said; a version of which nobody said anything is left out."""
        bounds = (0, COUNTER_MAX) if only is None else (only.version, only.version)
        rows = self._db.execute(
            "SELECT generation, version, verdict, count(*) FROM judgement JOIN device ON id = device"
            " WHERE standing = ? AND version BETWEEN ? AND ? GROUP BY version, generation, verdict",
            (Standing.ACTIVE.value, *bounds),
        )
        found: dict[HeadVersion, dict[str, int]] = {}
        for generation, version, verdict, count in rows:
            said = found.setdefault(HeadVersion(generation, version), {})
            said[Verdict(verdict).name.lower()] = count
        return {version: Tally(**said) for version, said in found.items()}

    def last(self) -> dict[str, Judgement]:
        """Return by device what it said of the newest version that it judged."""
        rows = self._db.execute(
            "SELECT device, generation, max(version), verdict FROM judgement GROUP BY device"
        )
        return {
            row[0]: Judgement(head_version=HeadVersion(row[1], row[2]), verdict=Verdict(row[3]))
            for row in rows
        }

    def any_in_use(self, before: HeadVersion) -> bool:
        """Whether apps of some device got a head that was published before this one."""
        return (
            self._db.one(
                "SELECT 1 FROM judgement WHERE version < ? AND verdict != ? LIMIT 1",
                (before.version, int(Verdict.KEPT_PREVIOUS)),
            )
            is not None
        )

    def doubts(self, version: HeadVersion) -> Tally | None:
        """Return the tally of a version when it is doubtful for the first time; never again after that."""
        where = (version.generation, version.version)
        if self._db.one("SELECT doubted FROM head WHERE generation = ? AND version = ?", where) != (None,):
            return None
        tally = self.tallies(version).get(version, Tally())
        if not tally.doubtful:
            return None
        self._db.execute("UPDATE head SET doubted = 1 WHERE generation = ? AND version = ?", where)
        return tally
