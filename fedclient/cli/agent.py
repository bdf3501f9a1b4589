"""The running agent, asked over its socket; where none runs, its part is done here on what is stored.

`status`, `why`, `pause` and `resume` share this one way of finding out.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedclient import daemon
from fedclient.client import conditions as conditions_module
from fedclient.client import console
from fedclient.client.conditions import Conditions, Doing, is_local
from fedclient.client.standing import report
from fedclient.config import Config
from fedclient.device import enrolment
from fedclient.device.database import open_database
from fedclient.device.folder import DeviceFolder
from fedclient.device.journal import Journal
from fedclient.errors import ConfigError, FinalError, Unreachable
from fedclient.scheduler.history import Cost, History
from fedclient.scheduler.policy import Decision
from fedclient.session import State
from fedclient.storage import Database
from fedclient.values import Phase

ANSWER_S = 10.0  # for an agent that writes to a slow disk meanwhile
START_S = 5.0  # from an agent's lock on the folder to its socket
_LOOK_S = 0.05

Device = tuple[DeviceFolder, Config]


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """Where a device stands: the agent's own answer, or what its part amounts to without one."""

    agent_running: bool
    watched: bool  # by the agent that gave this answer; else nobody looked before
    phase: str
    sentence: str
    notes: tuple[str, ...]
    decision: dict[str, Any]
    spent: Cost  # in the last 24 hours

    @property
    def closed(self) -> list[dict[str, Any]]:
        """The closed gates."""
        return [gate for gate in self.decision["gates"] if not gate["ok"]]

    @property
    def paused(self) -> str | None:
        """Who paused it and for how long; None when nobody did."""
        return next((gate["sentence"] for gate in self.closed if gate["name"] == "paused"), None)

    @property
    def next_chance_s(self) -> float | None:
        """Seconds before which no closed gate opens by itself; None where one cannot tell."""
        next_s = self.decision["next_s"]
        return None if next_s is None else max(0.0, next_s - self.decision["at_s"])


def stand(device: Device, root: Path | None = None) -> Standing:
    """Have the agent decide now; what is below a `root` that is not this machine's is judged here."""
    return _mind_invitation(device[0], _stand(device, root))


def _stand(device: Device, root: Path | None) -> Standing:
    folder, _ = device
    notes = []
    if root is None:
        try:
            answer = console.ask(folder.path, {"ask": "why"}, ANSWER_S)
        except Unreachable as error:
            answer, notes = None, [str(error)]
        if answer is not None:
            return _standing(answer, agent_running=True, watched=True)
    running = folder.in_use()
    with _stored(device, root or Path("/")) as (database, conditions):
        state = Journal(database).load_state()
        if not running:
            state = replace(state, running=False)  # of an agent that was killed
        found = report(state, _decide(state, conditions), notes)
        return _standing(found, agent_running=running, watched=False)


def _mind_invitation(folder: DeviceFolder, found: Standing) -> Standing:
    """Put what the invitation waits for in place of "run `fedclient enroll`", which was done."""
    if found.phase != Phase.UNENROLLED.value or (stored := enrolment.load(folder.enrolment)) is None:
        return found
    waits = "the agent sees it within 15 s" if found.agent_running else "`fedclient run` asks its gateway"
    return replace(found, sentence=f"invited to {stored.invitation.federation}: {waits}")


def trains(folder: DeviceFolder) -> bool:
    """Tell whether an agent says that it trains now."""
    answer = console.ask(folder.path, {"ask": "status"}, ANSWER_S)
    return answer is not None and answer.get("phase") == Phase.TRAINING.value


def pause(device: Device, seconds: int) -> bool:
    """Pause for so long, 0: until resumed; returns whether an agent was there to be told."""
    return _change(device, {"ask": "pause", "seconds": seconds})


def resume(device: Device) -> bool:
    """Take back the owner's pause; returns whether an agent was there to be told."""
    return _change(device, {"ask": "resume"})


def _change(device: Device, request: dict[str, Any]) -> bool:
    """Tell the agent; without one, store it for the next.

    An agent that starts meanwhile is told as well: it may have read what was stored before.
    """
    folder, _ = device
    if console.ask(folder.path, request, ANSWER_S) is not None:
        return True
    if not folder.in_use():
        _store(device, request)
    until_s = time.monotonic() + START_S
    while folder.in_use():
        if console.ask(folder.path, request, ANSWER_S) is not None:
            return True
        if time.monotonic() > until_s:
            raise Unreachable("an agent has this folder, but no socket to be told on: its log says why")
        time.sleep(_LOOK_S)
    return False


def _store(device: Device, request: dict[str, Any]) -> None:
    with _stored(device, Path("/")) as (database, conditions):
        _decide(Journal(database).load_state(), conditions)  # with its readings device time is exact
        if request["ask"] == "pause":
            conditions.pause("owner", request["seconds"], daemon.boottime_s())
        else:
            conditions.resume("owner")
        with database.transaction():
            conditions.save()


@contextmanager
def _stored(device: Device, root: Path) -> Iterator[tuple[Database, Conditions]]:
    folder, config = device
    log = logging.getLogger(conditions_module.__name__)
    before = log.level
    log.setLevel(logging.WARNING)  # the rest is our answer
    try:
        with closing(open_database(folder)) as database:
            conditions = Conditions(folder, config, database, root=root)
            conditions.broker_is_local = _broker_is_local(folder, config)
            yield database, conditions
    finally:
        log.setLevel(before)


def _decide(state: State, conditions: Conditions) -> Decision:
    doing = Doing(head=state.job or state.current, resuming=state.job is not None)
    return conditions.decide(doing, daemon.boottime_s())


def _broker_is_local(folder: DeviceFolder, config: Config) -> bool:
    stored = enrolment.load(folder.enrolment)
    try:
        return stored is not None and is_local(config.broker.resolve(stored.invitation.broker).host)
    except ConfigError:  # `fedclient run` refuses it
        return False


def _standing(answer: dict[str, Any], *, agent_running: bool, watched: bool) -> Standing:
    """Take what an agent said; one of another version may say too little."""
    try:
        decision = dict(answer["decision"])
        return Standing(
            agent_running=agent_running,
            watched=watched,
            phase=str(answer["phase"]),
            sentence=str(answer["sentence"]),
            notes=tuple(map(str, answer["notes"])),
            decision=decision,
            spent=History.of_record(answer["history"]).spent_at(decision["at_s"]),
        )
    except (KeyError, TypeError, ValueError):
        raise FinalError("the agent that runs is of another version of fedclient: restart it") from None
