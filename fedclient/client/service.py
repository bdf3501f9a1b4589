"""An agent with what its owner sees of it; `daemon.run` drives it on a device.

The agent decides and acts; what stands here looks on: the console, the metrics file, the trace, and the
link to nodes, which stores what they say.  Only a trace wakes the loop by itself, as often as its owner
asked, for it is of every minute.  Metrics, trace and nodes are loaded where the config has them: most
devices save the memory and the time at the start.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import TYPE_CHECKING

from fedclient.client import answers
from fedclient.client.agent import Agent
from fedclient.client.conditions import KEEPS_JUDGES_BACK
from fedclient.client.console import Console, Request
from fedclient.config import Config
from fedclient.device.folder import DeviceFolder
from fedclient.scheduler.check import Now
from fedclient.session import Outcome
from fedclient.transport.base import Transport

if TYPE_CHECKING:
    from fedclient.client.metrics import Metrics, Snapshot
    from fedclient.client.nodes import NodeLink
    from fedclient.client.trace_file import TraceFile

OpenNodes = Callable[[str], Transport]  # client id -> the way to the nodes' broker


class DeviceService:
    """The agent, and who looks on."""

    def __init__(
        self, folder: DeviceFolder, config: Config, agent: Agent, open_nodes: OpenNodes | None = None
    ) -> None:
        self.agent = agent
        self._nodes = _nodes(folder, config, agent, open_nodes)
        self._console = Console(folder.path, self._answer)
        self._metrics = _metrics(config)
        self._trace = _trace(config, agent.work.conditions.profile.name)
        self._trace_due_s: float | None = None
        self._trace_seen: Now | None = None
        self._now_s = 0.0

    def start(self, now_s: float) -> None:
        """Start the agent."""
        self._now_s = now_s
        if self._nodes is not None:
            self._nodes.start(now_s)
        self.agent.start(now_s)
        self._record()

    def interests(self) -> dict[int, int]:
        """Descriptors to wait for."""
        nodes = {} if self._nodes is None else self._nodes.interests()
        return {**self.agent.interests(), **self._console.interests(), **nodes}

    def deadline_s(self) -> float | None:
        """When to be served at the latest."""
        nodes_s = None if self._nodes is None else self._nodes.deadline_s()
        due = (self.agent.deadline_s(), self._trace_due_s, nodes_s)
        return min((at_s for at_s in due if at_s is not None), default=None)

    def service(self, ready: Collection[int], now_s: float) -> None:
        """Let the agent work, then whoever asks or keeps records."""
        self._now_s = now_s
        self.agent.service(ready, now_s)
        if self._nodes is not None:
            self._nodes.service(ready, now_s, self._held_back)
        self._console.service(ready)
        self._record()
        if self._metrics is not None and self._metrics.due(now_s):
            self._metrics.update(self._snapshot(), now_s)

    def stop(self) -> None:
        """End the agent in good order; nobody can ask it any more."""
        self._console.close()
        if self._nodes is not None:
            self._nodes.stop()
        self.agent.stop()
        if self._trace is not None:
            self._trace.close()
        if self._metrics is not None:
            self._metrics.close()

    def _answer(self, request: Request) -> dict[str, object]:
        if self._nodes is None:
            return answers.answer(self.agent, request, self._now_s)
        self._nodes.asked()
        return answers.answer(self.agent, request, self._now_s, self._nodes.notes)

    def _held_back(self) -> str:
        """Return why no head is made for nodes now: one trainer at a time, and what keeps judges back."""
        from fedclient.client.node_heads import TRAINER_RUNS  # noqa: PLC0415 - it is there when this is asked

        work = self.agent.work
        if work.child is not None:
            return TRAINER_RUNS
        return work.conditions.held_back(work.doing(self.agent.state), self._now_s, KEEPS_JUDGES_BACK)

    def _record(self) -> None:
        """Note what the agent has read; where that is too long ago, read."""
        if self._trace is None:
            return
        conditions = self.agent.work.conditions
        due = self._trace_due_s is None or self._now_s >= self._trace_due_s
        if due:
            conditions.look(self.agent.work.doing(self.agent.state), self._now_s)
        if due or self._trace_seen != conditions.now:  # else a turn without a look would put the next one off
            self._trace_seen = conditions.now
            self._trace.note(conditions.readings, conditions.now)
            self._trace_due_s = self._now_s + self._trace.due_in_s(conditions.now)

    def _snapshot(self) -> Snapshot:
        from fedclient.client.metrics import Snapshot  # noqa: PLC0415 - see above

        agent, conditions = self.agent, self.agent.work.conditions
        decision, readings = conditions.decision, conditions.readings
        counters = agent.counters()
        return Snapshot(
            phase=agent.state.phase.value,
            connected=agent.up_s is not None,
            eligible=None if decision is None else decision.eligible,
            closed=() if decision is None else decision.closed,
            decided_unix_s=conditions.decided_unix_s,
            rounds={one.value: counters.get(f"rounds_{one.value}", 0) for one in Outcome},
            bytes_up=counters.get("bytes_up", 0),
            bytes_down=counters.get("bytes_down", 0),
            head_bytes=counters.get("head_bytes", 0),
            head_bytes_saved=counters.get("head_bytes_saved", 0),
            spent=conditions.spent(),
            temp_c=readings.temp_c.value,
            battery_percent=readings.battery_percent.value,
            power_w=readings.power_w.value,
            new_samples=readings.activity.samples.new,
        )


def _nodes(
    folder: DeviceFolder, config: Config, agent: Agent, open_transport: OpenNodes | None
) -> NodeLink | None:
    if not config.nodes.enabled or open_transport is None:
        return None
    from fedclient.client.nodes import NodeLink  # noqa: PLC0415 - see above

    on_this_board = replace(config, trainer=config.trainer_on(agent.work.conditions.profile))
    return NodeLink(folder, on_this_board, open_transport, agent.device_id)


def _metrics(config: Config) -> Metrics | None:
    if config.metrics.file is None:
        return None
    from fedclient.client.metrics import Metrics  # noqa: PLC0415 - see above

    return Metrics(config.metrics.file, config.metrics)


def _trace(config: Config, board: str) -> TraceFile | None:
    if config.trace.file is None:
        return None
    from fedclient.client.trace_file import TraceFile  # noqa: PLC0415 - see above

    return TraceFile(config.trace.file, config.trace, board)
