"""Session state, counters, manifests and history: what the agent remembers."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedclient.errors import WireError
from fedclient.limits import MAX_DELTAS
from fedclient.storage import Database
from fedclient.values import NO_HEAD, HeadVersion, Manifest, Reason
from fedclient.wire import messages

if TYPE_CHECKING:  # a judge, which reads no state, starts sooner without
    from fedclient.session import State

log = logging.getLogger(__name__)

_HISTORY_ROWS = 1000  # what status and its readers look back on; older rows go
_MANIFESTS_KEPT = 1 + MAX_DELTAS  # of the newest head, and of any that its deltas may lead on from


def _pair(version: HeadVersion | None) -> list[int] | None:
    return None if version is None else [version.generation, version.version]


def _version(pair: list[int] | None) -> HeadVersion | None:
    return None if pair is None else HeadVersion(*pair)


def _check(fields: dict[str, object]) -> str:
    """Tell a damaged state from a sound one: a wrong digit of the floor would stop a federation."""
    return hashlib.sha256(json.dumps(fields).encode()).hexdigest()[:16]


def _report(text: str) -> dict[str, object]:
    """Read a report; a damaged one has nothing to say."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {}


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """One finished job as history tells it; `report` is the trainer's own, see `trainer/job.py`."""

    counter: int
    version: HeadVersion
    report: dict[str, object]
    status: str | None
    reason: str | None


class Journal:
    """Typed access to the tables `session`, `counters`, `manifest` and `history`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # --- session ---
    def load_state(self) -> State:
        """Return what was saved last; where that is damaged, what the other tables still know of it."""
        from fedclient.session import Enrolment, State  # noqa: PLC0415

        row = self._database.one("SELECT state FROM session WHERE id = 1")
        if row is None:
            return State()
        try:
            fields = json.loads(row[0])
            sound = fields.pop("check") == _check(fields)
        except (ValueError, KeyError, TypeError, AttributeError):
            sound = False
        if not sound:
            log.error("the session is not what was written: this device asks to be enrolled again")
            return self._rest_of_state()
        return State(
            enrolment=Enrolment(fields["enrolment"]),
            request=fields["request"],
            refusal=Reason(fields["refusal"]),
            floor=HeadVersion(*fields["floor"]),
            current=_version(fields["current"]),
            wanted=_version(fields["wanted"]),
            job=_version(fields["job"]),
            running=fields["running"],
            dropping=fields["dropping"],
            unsettled=fields["unsettled"],
            done=_version(fields["done"]),
            unfit=_version(fields["unfit"]),
            failures=fields["failures"],
            # what follows an older fedclient did not write; its head is judged anew
            judging=_version(fields.get("judging")),
            judged=_version(fields.get("judged")),
            adopted=_version(fields.get("adopted")),
            strikes=fields.get("strikes", 0),
        )

    def save_state(self, state: State) -> None:
        fields: dict[str, object] = {
            "enrolment": state.enrolment.value,
            "request": state.request,
            "refusal": int(state.refusal),
            "floor": _pair(state.floor),
            "current": _pair(state.current),
            "wanted": _pair(state.wanted),
            "job": _pair(state.job),
            "running": state.running,
            "dropping": state.dropping,
            "unsettled": state.unsettled,
            "done": _pair(state.done),
            "unfit": _pair(state.unfit),
            "failures": state.failures,
            "judging": _pair(state.judging),
            "judged": _pair(state.judged),
            "adopted": _pair(state.adopted),
            "strikes": state.strikes,
        }
        text = json.dumps({**fields, "check": _check(fields)})
        self._database.execute("INSERT OR REPLACE INTO session VALUES (1, ?)", (text,))

    def _rest_of_state(self) -> State:
        """The floor must not fall, and no head be trained on twice; all else is asked for again."""
        from fedclient.session import State  # noqa: PLC0415

        seen = self._newest("SELECT generation, version FROM manifest ORDER BY 1 DESC, 2 DESC LIMIT 1")
        done = self._newest("SELECT generation, version FROM history ORDER BY 1 DESC, 2 DESC LIMIT 1")
        return State(floor=seen or NO_HEAD, wanted=seen, done=done)

    def _newest(self, query: str) -> HeadVersion | None:
        row = self._database.one(query)
        return None if row is None else HeadVersion(*row)

    # --- counters ---
    def counter(self, name: str) -> int:
        """Value of a counter; 0 before it was first raised."""
        row = self._database.one("SELECT value FROM counters WHERE name = ?", (name,))
        return 0 if row is None else int(row[0])

    def add(self, name: str, amount: int = 1) -> int:
        """Raise a counter and return its new value."""
        self._database.execute(
            "INSERT INTO counters VALUES (?, ?) ON CONFLICT DO UPDATE SET value = value + excluded.value",
            (name, amount),
        )
        return self.counter(name)

    def raise_to(self, name: str, value: int) -> None:
        """Set a counter to `value` unless it is above already."""
        self._database.execute(
            "INSERT INTO counters VALUES (?, ?) ON CONFLICT DO UPDATE SET value = max(value, excluded.value)",
            (name, value),
        )

    def clear(self, name: str) -> None:
        """Let a counter begin at 0 again."""
        self._database.execute("DELETE FROM counters WHERE name = ?", (name,))

    def counters(self) -> dict[str, int]:
        return {str(name): int(value) for name, value in self._database.execute("SELECT * FROM counters")}

    # --- manifests ---
    def save_manifest(self, manifest: Manifest, keep: tuple[HeadVersion | None, ...]) -> None:
        """Keep a verified manifest, and of the older ones those named in `keep`."""
        version = manifest.head_version
        payload = messages.encode_manifest(manifest)
        self._database.execute(
            "INSERT OR REPLACE INTO manifest VALUES (?, ?, ?, ?)",
            (version.generation, version.version, payload, hashlib.sha256(payload).digest()),
        )
        held = self._database.execute("SELECT generation, version FROM manifest ORDER BY 1 DESC, 2 DESC")
        for generation, number in held[_MANIFESTS_KEPT:]:
            if HeadVersion(generation, number) not in keep:
                self._database.execute(
                    "DELETE FROM manifest WHERE generation = ? AND version = ?", (generation, number)
                )

    def manifest(self, version: HeadVersion) -> Manifest | None:
        """Return the manifest of this head version, or None when it is not (or not soundly) here.

        One that an older fedclient has written in another form counts as gone: the broker has the new form.
        """
        row = self._database.one(
            "SELECT payload, hash FROM manifest WHERE generation = ? AND version = ?",
            (version.generation, version.version),
        )
        if row is None or hashlib.sha256(row[0]).digest() != row[1]:
            return None
        try:
            return messages.decode_manifest(row[0])
        except WireError:
            return None

    # --- history ---
    def record_round(self, counter: int, version: HeadVersion, report: dict[str, object]) -> None:
        self._database.execute(
            "INSERT OR REPLACE INTO history VALUES (?, ?, ?, ?, NULL, NULL)",
            (counter, version.generation, version.version, json.dumps(report)),
        )
        self._database.execute("DELETE FROM history WHERE counter <= ?", (counter - _HISTORY_ROWS,))

    def record_receipt(self, counter: int, status: str, reason: str) -> None:
        self._database.execute(
            "UPDATE history SET status = ?, reason = ? WHERE counter = ?", (status, reason, counter)
        )

    def rounds(self, limit: int = 20) -> tuple[Round, ...]:
        """Return the last finished jobs, newest first."""
        rows = self._database.execute(
            "SELECT counter, generation, version, report, status, reason FROM history "
            "ORDER BY counter DESC LIMIT ?",
            (limit,),
        )
        return tuple(
            Round(
                counter=counter,
                version=HeadVersion(generation, version),
                report=_report(report),
                status=status,
                reason=reason,
            )
            for counter, generation, version, report, status, reason in rows
        )
