"""A running agent has neither NumPy nor a TFLite runtime in memory, whatever it does (DESIGN 4)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fedclient.testing.broker import EmbeddedBroker
from tests.system.world import Process, World

# Modules are written down at the orderly end, when everything that is imported late was.
WRITES_ITS_MODULES = """
import sys
from pathlib import Path
from fedclient.cli.main import main
code = main(sys.argv[2:])
Path(sys.argv[1]).write_text("\\n".join(sorted(sys.modules)))
sys.exit(code)
"""
HEAVY = {"numpy", "tflite_runtime", "ai_edge_litert", "flatbuffers", "amqtt"}


class Watched(Process):
    """The agent inside a program that tells what it imported."""

    def command(self) -> list[str]:
        return [sys.executable, "-c", WRITES_ITS_MODULES, str(self.modules), *self.words]

    @property
    def modules(self) -> Path:
        return self.log.with_suffix(".modules")


def mapped(pid: int) -> set[str]:
    """Return the files that a process has mapped."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {line.split(maxsplit=5)[5] for line in lines if len(line.split(maxsplit=5)) == 6}


def heavy(names: set[str]) -> set[str]:
    return {name for name in names if any(part in HEAVY for part in name.split("/"))}


@pytest.fixture
def world(tmp_path, amqtt):
    with EmbeddedBroker() as broker, World(tmp_path, broker.port) as made:
        for _ in range(3):
            made.add_device()
        yield made


def test_an_agent_that_did_everything_imported_nothing_heavy(world):
    device = world.devices[0]
    agent = device.agent = Watched(device.agent.name, device.agent.words, device.agent.log)
    world.start()
    world.wait_for_more(2)  # enrolled, fetched, trained by a child, sent, got receipts
    world.wait(lambda: device.outcomes().count("counted") >= 2, "two updates are counted")
    files = mapped(agent.pid)
    assert any("libsodium" in name or "_sodium" in name for name in files), "maps can be read"
    assert heavy(files) == set()
    assert agent.stop() == 0
    modules = set(agent.modules.read_text().split())
    assert {"fedclient.client.agent", "paho.mqtt.client", "nacl"} <= modules
    assert {name.partition(".")[0] for name in modules} & HEAVY == set()
    print(f"{len(modules)} modules, {len(files)} mapped files")


def test_the_trainer_would_be_found_out():
    code = "import sys, numpy; print(open('/proc/self/maps').read())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    files = {line.split(maxsplit=5)[5] for line in done.stdout.splitlines() if len(line.split()) == 6}
    assert heavy(files)
