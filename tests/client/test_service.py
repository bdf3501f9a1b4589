"""The agent with its console, in one loop."""

from __future__ import annotations

import json
import re
import select
import socket
import subprocess
import sys
from dataclasses import replace
from math import inf

from fedclient.client import node_heads
from fedclient.client.console import NAME
from fedclient.client.service import DeviceService
from fedclient.config import MetricsSettings, NodeSettings, TraceSettings
from fedclient.nodes.headfile import NodeHeadArguments
from fedclient.nodes.registry import Registry
from fedclient.transport.memory import MemoryBroker, MemoryTransport
from fedclient.values import Phase, ReceiptStatus
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


def test_the_owner_is_answered_in_the_agents_own_loop(device, gateway) -> None:
    device.samples()
    gateway.publish(V1)
    agent = device.join(gateway)
    service = DeviceService(device.folder, device.config, agent)
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
    service = DeviceService(device.folder, device.config, agent)
    assert service.deadline_s() == agent.deadline_s()
    assert set(service.interests()) > set(agent.interests())
    service.stop()
    device.agent = None


def looking_on(device, gateway, **settings) -> DeviceService:
    config = replace(device.config, **settings)
    return DeviceService(device.folder, config, device.join(gateway))


def test_metrics_follow_the_agent(device, gateway, tmp_path) -> None:
    device.samples()
    gateway.publish(V1)
    file = tmp_path / "fedclient.prom"
    service = looking_on(device, gateway, metrics=MetricsSettings(file=file, every_s=60))
    service.service((), device.now_s)
    assert 'fedclient_phase{phase="training"} 1' in file.read_text()
    device.trainer_ends()
    (envelope,) = gateway.envelopes()
    gateway.answer(device.id, envelope, ReceiptStatus.COUNTED)
    device.turn()
    service.service((), device.now_s + 59.0)
    assert 'phase="training"} 1' in file.read_text(), "once a minute is enough"
    service.service((), device.now_s + 60.0)
    text = file.read_text()
    assert 'fedclient_rounds_total{result="counted"} 1' in text
    assert "fedclient_connected 1" in text
    assert re.search(r"^fedclient_mqtt_bytes_total{direction=.up.} [1-9]", text, re.MULTILINE)
    service.stop()
    device.agent = None
    assert "fedclient_up 0" in file.read_text()


def test_a_trace_has_a_line_for_every_minute_whatever_there_is_to_do(device, gateway, tmp_path) -> None:
    file = tmp_path / "trace"
    service = looking_on(device, gateway, trace=TraceSettings(file=file, every_s=60))
    for minute in range(1, 6):
        deadline_s = service.deadline_s()
        assert deadline_s is not None
        assert deadline_s <= device.now_s + 60.0 * minute
        service.service((), device.now_s + 60.0 * minute)
    service.stop()
    device.agent = None
    header, *lines = file.read_text().splitlines()
    assert "fedclient" in header
    assert len(lines) >= 5


def test_turns_for_something_else_put_no_line_off(device, gateway, tmp_path) -> None:
    file = tmp_path / "trace"
    service = looking_on(device, gateway, trace=TraceSettings(file=file, every_s=60))
    for step in range(31):
        service._now_s = device.now_s + 20.0 * step  # a turn in which the agent reads nothing
        service._record()
    service.stop()
    device.agent = None
    assert len(file.read_text().splitlines()) >= 1 + 9


def test_without_a_trace_nobody_wakes_the_loop(device, gateway) -> None:
    service = looking_on(device, gateway)
    service.service((), device.now_s)
    assert service.deadline_s() == service.agent.deadline_s()
    service.stop()
    device.agent = None


def test_what_is_wrong_with_the_link_to_nodes_is_a_note(device, gateway) -> None:
    config, broker = replace(device.config, nodes=NodeSettings(enabled=True, port=1)), MemoryBroker()
    agent = device.join(gateway)
    service = DeviceService(device.folder, config, agent, lambda name: MemoryTransport(broker, name))
    service._nodes.start(device.now_s)
    device.turn()
    asked = {"ask": "status"}
    assert ask(service, device.folder.path, asked, device.now_s)["notes"] == []
    broker.stop()
    service.service((), device.now_s)
    notes = ask(service, device.folder.path, asked, device.now_s)["notes"]
    assert notes == ["nodes: the broker in memory was stopped: start it"]
    service.stop()
    device.agent = None


def test_heads_for_nodes_are_made_when_judges_may_work(device, gateway, monkeypatch) -> None:
    begun: list[NodeHeadArguments] = []

    class Child:
        kill_at_s, gone_descriptor = inf, -1

        def __init__(self, arguments: NodeHeadArguments, _: float) -> None:
            begun.append(arguments)

        def stop(self, _: float) -> None:
            """There is nothing to stop."""

    monkeypatch.setattr(node_heads, "Child", Child)
    Registry(device.folder.nodes).add("shed")
    device.samples()
    gateway.publish(V1)
    config, broker = replace(device.config, nodes=NodeSettings(enabled=True, port=1)), MemoryBroker()
    agent = device.join(gateway)
    service = DeviceService(device.folder, config, agent, lambda name: MemoryTransport(broker, name))
    service._nodes.start(device.now_s)
    assert agent.work.child is not None
    service.service((), device.now_s)
    assert (begun, service._held_back()) == ([], node_heads.TRAINER_RUNS)
    device.trainer_ends()
    assert agent.work.child is None
    answers = ["too hot", ""]
    monkeypatch.setattr(agent.work.conditions, "held_back", lambda *asked: asked[2] and answers.pop(0))
    for _ in range(2):
        device.now_s += node_heads.LOOK_AGAIN_S
        service.service((), device.now_s)
        assert bool(begun) == (not answers)
    assert begun[0].memory_mib == config.trainer_on(agent.work.conditions.profile).memory_mib
    assert service._nodes._transport.connected
    service.stop()
    assert not service._nodes._transport.connected
    device.agent = None


def test_what_is_off_is_not_even_loaded() -> None:
    code = "import sys, fedclient.client.service; print(*[one for one in sys.modules if 'fedclient' in one])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "fedclient.client.console" in loaded
    off = {"fedclient.client.metrics", "fedclient.client.trace_file", "fedclient.client.nodes"}
    assert not set(loaded.split()) & off
    assert not re.search(r"\bnodes\b", loaded)
