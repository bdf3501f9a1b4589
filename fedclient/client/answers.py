"""What the running agent answers its owner: the requests of `client/console.py`."""

from __future__ import annotations

from collections.abc import Sequence

from fedclient.client import standing
from fedclient.client.agent import Agent
from fedclient.client.console import Request


def answer(agent: Agent, request: Request, now_s: float, notes: Sequence[str] = ()) -> dict[str, object]:
    """Do what was asked, and return where the device stands after it, with `notes` of others.

    Raises FedClientError.
    """
    conditions = agent.work.conditions
    if request["ask"] == "pause":
        conditions.pause("owner", float(request["seconds"]), now_s)
    elif request["ask"] == "resume":
        conditions.resume("owner")
    if request["ask"] in {"pause", "resume"}:
        agent.work.save()
        agent.reconsider()
    decision = conditions.decision
    if decision is None or request["ask"] != "status":
        decision = agent.judge()
    return standing.report(agent.state, decision, [*_notes(agent), *notes])


def _notes(agent: Agent) -> list[str]:
    """Say what a decision cannot: what is wrong beside the conditions."""
    failure = agent.work.failure and f"the last trainer failed: {agent.work.failure}"
    link = agent.down_reason and f"no connection: {agent.down_reason}"
    return [note for note in (link, failure, agent.not_taken, agent.heads.trouble, agent.disk_reason) if note]
