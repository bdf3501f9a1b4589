"""An agent with what its owner sees of it; `daemon.run` drives it on a device.

The agent decides and acts; what stands here only looks on: it never wakes the loop by itself.
"""

from __future__ import annotations

from collections.abc import Collection

from fedclient.client import answers
from fedclient.client.agent import Agent
from fedclient.client.console import Console, Request
from fedclient.device.folder import DeviceFolder


class DeviceService:
    """The agent and its console."""

    def __init__(self, folder: DeviceFolder, agent: Agent) -> None:
        self.agent = agent
        self._console = Console(folder.path, self._answer)
        self._now_s = 0.0

    def start(self, now_s: float) -> None:
        """Start the agent."""
        self._now_s = now_s
        self.agent.start(now_s)

    def interests(self) -> dict[int, int]:
        """Descriptors to wait for."""
        return {**self.agent.interests(), **self._console.interests()}

    def deadline_s(self) -> float | None:
        """When the agent wants to be served at the latest."""
        return self.agent.deadline_s()

    def service(self, ready: Collection[int], now_s: float) -> None:
        """Let the agent work, then whoever asks."""
        self._now_s = now_s
        self.agent.service(ready, now_s)
        self._console.service(ready)

    def stop(self) -> None:
        """End the agent in good order; nobody can ask it any more."""
        self._console.close()
        self.agent.stop()

    def _answer(self, request: Request) -> dict[str, object]:
        return answers.answer(self.agent, request, self._now_s)
