"""One fleet runs on while its agents, trainers, gateway and broker are killed at seeded moments."""

from __future__ import annotations

import os
import random
import re
import signal
import time

import pytest

from fedclient.crypto.keys import SigningKey
from fedclient.testing.broker import EmbeddedBroker, Mosquitto
from tests.system import ledger
from tests.system.stranger import Stranger, heads
from tests.system.world import FEDERATION, World

MANIFEST = f"fl/v1/{FEDERATION}/all/manifest"
# What is waited for before a kill; a moment later, drawn from the span in seconds, it comes.
AGENT_MOMENTS = {
    r"agent starts": 0.4,
    r": connected": 0.1,
    r"-> fetching": 0.1,
    r"training on head": 1.5,
    r"-> sending": 0.03,
    r"update \d+: ": 0.03,
}
GATEWAY_MOMENTS = {r"-> sending": 0.05, r"update \d+: counted": 0.05, r"training on head": 1.5}
TRAINER_SPAN_S = 1.5  # about what it takes from its start to its end


class Reaper:
    """Kills one process at a time, starts it again at once, and sees that the fleet goes on."""

    def __init__(self, world: World, broker, seed: int) -> None:
        self.world = world
        self.broker = broker
        self.random = random.Random(seed)

    def strike(self, what: str) -> None:
        getattr(self, what)()
        self.world.wait_for_more()

    def _moment(self, moments: dict[str, float]) -> str:
        """Wait for something to happen on some device, and then a little; returns what."""
        device = self.random.choice(self.world.devices)
        pattern, span_s = self.random.choice(sorted(moments.items()))
        self.world.wait_said(device.agent, pattern, device.agent.said())
        time.sleep(self.random.uniform(0, span_s))
        return f"{pattern!r} of {device.name}"

    def agent(self) -> None:
        device = self.random.choice(self.world.devices)
        pattern, span_s = self.random.choice(sorted(AGENT_MOMENTS.items()))
        if pattern in {r"agent starts", r": connected"}:  # these need a start: that of a second kill
            device.agent.kill()
            since = device.agent.said()
            device.agent.start()
        else:
            since = device.agent.said()
        self.world.wait_said(device.agent, pattern, since)
        time.sleep(self.random.uniform(0, span_s))
        device.agent.kill()
        device.agent.start()
        print(f"killed the agent of {device.name} after {pattern!r}")

    def trainer(self) -> None:
        while True:
            device = self.random.choice(self.world.devices)
            since = device.agent.said()
            self.world.wait_said(device.agent, r"training on head", since)
            time.sleep(self.random.uniform(0, TRAINER_SPAN_S))
            found = re.findall(r"training on head (\S+) pid=(\d+)", device.agent.text(since))
            pid = device.trainer()
            if pid == int(found[-1][1]):
                os.kill(pid, signal.SIGKILL)
                print(f"killed the trainer of {device.name} on head {found[-1][0]}")
                return

    def gateway(self) -> None:
        moment = self._moment(GATEWAY_MOMENTS)
        self.world.gateway.kill()
        self.world.gateway.start()
        print(f"killed the gateway after {moment}")

    def broker_(self) -> None:
        moment = self._moment(GATEWAY_MOMENTS)
        self.broker.kill()
        self.broker.restart()
        print(f"killed the broker after {moment}")


def run(path, broker, seed: int, times: int) -> None:
    with World(path, broker.port) as world, Stranger(broker.port, MANIFEST) as stranger:
        for _ in range(4):
            world.add_device()
        identities = [(device.id, device.folder.key.read_bytes()) for device in world.devices]
        world.start()
        world.wait_for_more()
        reaper = Reaper(world, broker, seed)
        kinds = ["agent", "trainer", "gateway", "broker_"] * times
        reaper.random.shuffle(kinds)
        for kind in kinds:
            reaper.strike(kind)
        world.drain()
        outcomes = ledger.check(world)
        replayed = ledger.replay(world)
        seen = heads(stranger, MANIFEST, FEDERATION, SigningKey.load(world.state / "signing.key").public)
        print(f"{len(kinds)} kills, head {world.version()}, updates {dict(outcomes)}, replayed {replayed}")
        assert replayed >= len(kinds) / 2
        assert seen == sorted(seen), "no head was ever followed by an older one"
        assert identities == [(device.id, device.folder.key.read_bytes()) for device in world.devices]
        standings = world.ask("SELECT standing, conflicts FROM device")
        assert standings == [("active", 0)] * 4
        assert world.ask("SELECT sentence FROM alarm") == []
        assert world.gateway.starts == 1 + times, "and never by itself"


@pytest.fixture
def times(thorough) -> int:
    return 10 if thorough else 2


@pytest.mark.mosquitto
def test_a_fleet_outlives_kills_on_mosquitto_as_it_comes(tmp_path, mosquitto, times):
    with Mosquitto(mosquitto) as broker:
        run(tmp_path, broker, 2, times)


def test_a_fleet_outlives_kills_on_the_embedded_broker(tmp_path, times, amqtt):
    with EmbeddedBroker() as broker:
        run(tmp_path, broker, 3, times)
