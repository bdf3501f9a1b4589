"""The agent with its console, in one loop."""

from __future__ import annotations

import json
import select
import socket

from fedclient.client.console import NAME
from fedclient.client.service import DeviceService
from fedclient.values import Phase
from tests.client.harness import V1


def ask(service: DeviceService, path, request: dict, now_s: float) -> dict:
    """Ask as `fedclient why` does, and turn the service's loop until there is an answer."""
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(path / NAME))
        caller.sendall(json.dumps(request).encode() + b"\n")
        caller.setblocking(False)  # noqa: FBT003 - the library's signature
        found = b""
        for _ in range(100):
            service.service(select.select(list(service.interests()), [], [], 0.1)[0], now_s)
            try:
                found += caller.recv(1 << 20)
            except BlockingIOError:
                continue
            if found.endswith(b"\n"):
                return json.loads(found)
    raise AssertionError("no answer")


def test_the_owner_is_answered_in_the_agents_own_loop(device, gateway, tmp_path, monkeypatch) -> None:
    device.samples()
    gateway.publish(V1)
    agent = device.join(gateway)
    service = DeviceService(device.folder, agent)
    assert ask(service, device.folder.path, {"ask": "status"}, device.now_s)["phase"] == "training"
    assert ask(service, device.folder.path, {"ask": "pause", "seconds": 0}, device.now_s)["decision"]
    device.turn()
    device.trainer_ends()
    assert agent.state.phase is Phase.WAITING
    service.stop()
    device.agent = None
    assert not (device.folder.path / NAME).exists()


def test_it_never_wakes_the_loop_by_itself(device, gateway) -> None:
    agent = device.join(gateway)
    service = DeviceService(device.folder, agent)
    assert service.deadline_s() == agent.deadline_s()
    assert set(service.interests()) > set(agent.interests())
    service.stop()
    device.agent = None
