"""What the running agent answers its owner: the requests of `client/console.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedclient.errors import UsageError
from fedclient.limits import MAX_PAUSE_S

if TYPE_CHECKING:
    from fedclient.client.agent import Agent

CHANGES = ("pause", "resume")


def answer(agent: Agent, request: dict[str, object], now_s: float) -> dict[str, object]:
    """Return the answer to one request; raises UsageError for one that is not known."""
    ask = request.get("ask")
    if ask in CHANGES:
        return _change(agent, request, now_s)
    if ask not in {"why", "status"}:
        raise UsageError(f"the agent is not asked {str(ask)[:40]!r}: why, status, pause or resume")
    decision = agent.judge()
    return {
        "phase": agent.state.phase.value,
        "sentence": _sentence(agent),
        "decision": decision.as_dict(),
        "spent": agent.work.conditions.spent(),
        "readings": agent.work.conditions.readings.as_dict(),
    }


def _change(agent: Agent, request: dict[str, object], now_s: float) -> dict[str, object]:
    conditions = agent.work.conditions
    if request["ask"] == "resume":
        conditions.resume("owner")
    else:
        seconds = request.get("seconds", 0)
        if (
            isinstance(seconds, bool)
            or not isinstance(seconds, (int, float))
            or not 0 <= seconds <= MAX_PAUSE_S
        ):
            raise UsageError(f"seconds must be a number from 0 to {MAX_PAUSE_S}")
        conditions.pause("owner", float(seconds), now_s)
    agent.work.save()
    agent.reconsider()
    return {"done": True}


def _sentence(agent: Agent) -> str:
    """Say what a decision cannot: what stands in the way before the scheduler is even asked."""
    said = {
        "unenrolled": "this device is in no federation: run `fedclient enroll INVITATION`",
        "enrolling": "the gateway has not answered the enrolment yet",
        "refused": f"the gateway refused this device: {agent.state.refusal.words}",
        "idle": "the current head was trained on already: waiting for the next one",
        "fetching": "a new head is being fetched",
        "sending": "an update waits for the gateway's receipt",
        "training": "training now",
        "waiting": "there is a job: it begins at the first good moment",
    }
    parts = [said[agent.state.phase.value]]
    if agent.down_reason:
        parts.append(f"no connection: {agent.down_reason}")
    if agent.work.failure:
        parts.append(f"the last trainer failed: {agent.work.failure}")
    if agent.disk_reason:
        parts.append(agent.disk_reason)
    return "; ".join(parts)
