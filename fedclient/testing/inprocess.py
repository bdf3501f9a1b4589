"""A whole federation in one process: real agents, trainers and gateway over an in-memory broker."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from contextlib import closing
from pathlib import Path

from fedclient import daemon
from fedclient.client.agent import Agent
from fedclient.config import Config, GatewaySettings, TrainerSettings
from fedclient.device.folder import DeviceFolder
from fedclient.gateway.server import Gateway, found, open_desk
from fedclient.testing import setup
from fedclient.transport.memory import MemoryBroker, MemoryTransport
from fedclient.values import Broker, HeadVersion, Plan

_NOWHERE = Broker(host="localhost", port=1883)  # the memory broker needs no address


class Together:
    """Several services as one, for `daemon.run`."""

    def __init__(self) -> None:
        self.services: list[daemon.Service] = []

    def start(self, now_s: float) -> None:
        for service in self.services:
            service.start(now_s)

    def interests(self) -> dict[int, int]:
        return {fd: events for service in self.services for fd, events in service.interests().items()}

    def deadline_s(self) -> float | None:
        due = (service.deadline_s() for service in self.services)
        return min((at for at in due if at is not None), default=None)

    def service(self, ready: Collection[int], now_s: float) -> None:
        for service in self.services:
            service.service(ready, now_s)

    def stop(self) -> None:
        for service in self.services:
            service.stop()


class Federation:
    """A gateway, and the devices that `add_device` sets up; `run_until` lets them work."""

    def __init__(self, path: Path, model: bytes, plan: Plan, devices: int) -> None:
        self._path = path
        self._broker = MemoryBroker()
        self._together = Together()
        found(path / "gateway", "inprocess", _NOWHERE)
        settings = GatewaySettings(cohort=devices, min_devices=min(3, devices))
        self._desk = open_desk(path / "gateway", settings)
        setup.publish(self._desk, model, plan)
        gateway = Gateway(
            transport=MemoryTransport(self._broker, "gateway"),
            desk=self._desk,
            jitter=random.Random(0),  # noqa: S311 - spreads connection attempts, no secret
        )
        self._together.services.append(gateway)

    @property
    def version(self) -> HeadVersion:
        """The head that is current."""
        return self._desk.store.current()

    def add_device(self) -> DeviceFolder:
        """Set up and invite a device; it joins when `run_until` is called."""
        folder = setup.join(self._desk, self._path / f"device{len(self._together.services)}")
        config = Config(state=folder.path, schedule=setup.EAGER, trainer=TrainerSettings(nice=0, idle=False))
        agent = Agent(folder, config, lambda _, client_id: MemoryTransport(self._broker, client_id))
        self._together.services.append(agent)
        return folder

    def run_until(self, done: Callable[[], bool], timeout_s: float = 60.0) -> None:
        """Start everything, and drive it until `done`; then end everything.

        Raises TimeoutError when that takes too long, KeyboardInterrupt after a signal.
        """
        until_s = daemon.boottime_s() + timeout_s
        reached = False

        def over() -> bool:
            nonlocal reached
            reached = done()
            if not reached and daemon.boottime_s() > until_s:
                raise TimeoutError(f"not done within {timeout_s:g} s")
            return reached

        with closing(self._desk.store):
            daemon.run(self._together, over)
        if not reached:
            raise KeyboardInterrupt
