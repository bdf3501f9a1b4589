"""The agent with nothing to do: memory, wake-ups, processor time, bytes; and how soon it is ready.

Idle is what a device is most of its life: enrolled, connected, the current head adopted, and waiting for
more samples, with the settings as they come (the scheduler looks once a minute).  The gateway is ended
before the measurement, for it is a Python too and would share memory with the agent.  A window of two
minutes sees no MQTT ping, which comes every four: its cost is measured apart, and added.
"""

from __future__ import annotations

import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import process
from rig import Process, Rig, start_broker

from fedclient.config import BrokerSettings
from fedclient.nodes.registry import Registry

KEEPALIVE_S = BrokerSettings().keepalive_s
BOARD = Path(__file__).parents[2] / "hardware" / "boards" / "raspberry-pi-5" / "capture"
PING_AGAIN_S = 10  # the shortest that the config allows
_GATES_AS_THEY_COME = "[schedule]\nmin_new_samples = 1000000"


def measure(*, tls: bool, broker: str, seconds: float, starts: int, more: str = "") -> dict[str, Any]:
    """Measure one agent.

    An `equipped` one has a board's every sensor, and a watchdog to feed; one with `nodes` a second link,
    to a broker where a node is silent.
    """
    with (
        tempfile.TemporaryDirectory() as path,
        _nodes_broker(broker) if more == "nodes" else nullcontext("") as nodes,
        Rig(Path(path), tls=tls, broker_kind=broker, schedule=_GATES_AS_THEY_COME + nodes) as rig,
        _equipment(rig) if more == "equipped" else nullcontext(),
    ):
        rig.enrol()
        if nodes:
            Registry(rig.device.nodes).add("silent")
        first = rig.start_agent()
        rig.wait(lambda: rig.when("agent", "fetching -> waiting") is not None)
        rig.end(first)
        rig.seen.clear()
        ready_s = [_ready_s(rig) for _ in range(starts)]
        agent = _waiting(rig)
        rig.end(rig.gateway)
        found = _watch(rig, agent, seconds)
        rig.end(agent)
        if PING_AGAIN_S <= seconds < KEEPALIVE_S:
            found |= _with_keep_alive(rig, found)
        return {"tls": tls, "broker": rig.broker_name, **found, "ready_ms": _spread(ready_s)}


@contextmanager
def _nodes_broker(kind: str) -> Iterator[str]:
    """Start a second broker, and yield the section of the config that names it."""
    broker = start_broker(kind, None)
    yield f"\n[nodes]\nenabled = true\nport = {broker.port}\n"
    broker.kill()


@contextmanager
def _equipment(rig: Rig) -> Iterator[None]:
    """Give the agent all that a device may have: a Raspberry Pi 5's sensors, and a watchdog."""
    rig.board = BOARD
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(rig.path / "notify"))
    rig.environment = {"NOTIFY_SOCKET": str(rig.path / "notify"), "WATCHDOG_USEC": str(90 * 10**6)}
    threading.Thread(target=_drain, args=(manager,), daemon=True).start()
    yield
    manager.close()


def _drain(manager: socket.socket) -> None:
    """Read what a service manager would."""
    with suppress(OSError):
        while manager.recv(4096):
            pass


def _waiting(rig: Rig) -> Process:
    """Start an agent, and return it when it has nothing to do."""
    agent = rig.start_agent()
    rig.wait(lambda: rig.when("agent", "not training", agent.started_s) is not None)
    time.sleep(1.0)  # what the start still has to do is done
    return agent


def _with_keep_alive(rig: Rig, found: dict[str, Any]) -> dict[str, Any]:
    """Add what pings cost, which come too rarely to be in the window: measured with a short interval."""
    config = Path(rig.device_config)
    often = f"keepalive_s = {PING_AGAIN_S}"
    text = config.read_text().replace("[broker]", f"[broker]\n{often}")
    config.write_text(text.replace("[nodes]", f"[nodes]\n{often}"))
    agent = _waiting(rig)
    before = _counters(agent.pid)
    time.sleep(2 * PING_AGAIN_S)
    after = _counters(agent.pid)
    ping = {name: (after[name] - before[name]) / 2 for name in after}
    added = {
        "wakeups_per_min": found["wakeups_per_min"] + ping["voluntary"] * 60 / KEEPALIVE_S,
        "cpu_s_per_min": found["cpu_s_per_min"] + ping["cpu_s"] * 60 / KEEPALIVE_S,
    }
    if found["tcp_bytes_per_min"] is not None:
        added["tcp_bytes_per_min"] = found["tcp_bytes_per_min"] + ping["tcp_bytes"] * 60 / KEEPALIVE_S
    return {name: round(value, 4) for name, value in added.items()} | {
        "ping": {"bytes": ping.get("tcp_bytes"), "wakeups": ping["voluntary"], "every_s": KEEPALIVE_S}
    }


def _ready_s(rig: Rig) -> float:
    """Seconds from exec to subscribed: `connected` is logged when all SUBSCRIBEs have been written."""
    agent = rig.start_agent()
    rig.wait(lambda: rig.when("agent", "connected", agent.started_s) is not None)
    at_s = rig.when("agent", "connected", agent.started_s)
    rig.end(agent)
    return (at_s or 0.0) - agent.started_s


def _watch(rig: Rig, agent: Process, seconds: float) -> dict[str, Any]:
    pid = agent.pid
    before, started = _counters(pid), time.monotonic()
    time.sleep(seconds)
    if agent.popen.poll() is not None:
        rig.wait(lambda: False, timeout_s=1.0)  # reads its last words, and raises with them
    after, minutes = _counters(pid), (time.monotonic() - started) / 60
    per_minute = {name: round((after[name] - before[name]) / minutes, 4) for name in after}
    return {
        **process.memory(pid).as_dict(),
        "other_pythons": process.other_pythons(pid),
        "forbidden_files": len(process.forbidden_files(pid)),
        "seconds": seconds,
        "wakeups_per_min": per_minute["voluntary"],
        "preempted_per_min": per_minute["involuntary"],
        "cpu_s_per_min": per_minute["cpu_s"],
        "tcp_bytes_per_min": per_minute.get("tcp_bytes"),
    }


def _counters(pid: int) -> dict[str, float]:
    voluntary, involuntary = process.switches(pid)
    found = {"voluntary": voluntary, "involuntary": involuntary, "cpu_s": process.cpu_s(pid)}
    carried = process.tcp_bytes(pid)
    return found if carried is None else {**found, "tcp_bytes": sum(carried)}


def _spread(seconds: list[float]) -> dict[str, float]:
    """Least, median and most, in milliseconds."""
    ordered = sorted(1e3 * one for one in seconds)
    return {
        "min": round(ordered[0], 1),
        "median": round(ordered[len(ordered) // 2], 1),
        "max": round(ordered[-1], 1),
    }
