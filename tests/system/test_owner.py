"""The owner's words to a real agent: why, pause, resume; over a kill, and among callers that misbehave."""

from __future__ import annotations

import json
import random
import socket
import time

import pytest

from fedclient.client.console import NAME
from fedclient.testing.broker import Mosquitto
from fedclient.values import Codec, Plan
from tests.system.commands import Setup
from tests.system.world import World

PLAN = Plan(epochs=100, batch_size=1, learning_rate=0.01, codec=Codec(density=0.3))
SAMPLES = 3000  # with this plan a training takes longer than this test
STOP_S = 3.0  # from the command to the trainer's end


@pytest.fixture
def world(tmp_path, mosquitto):
    with Mosquitto(mosquitto) as broker, World(tmp_path, broker.port, plan=PLAN) as made:
        made.add_device(SAMPLES)
        made.start()
        yield made


def test_a_pause_stops_the_training_outlasts_a_kill_and_ends(world) -> None:
    (device,) = world.devices

    def say(*words: str, code: int = 0) -> str:
        return world.run(*words, state=device.path, config=device.config, code=code)

    world.wait(lambda: device.ask("SELECT 1 FROM checkpoint"), "the training has come to a checkpoint")
    status = json.loads(say("status", "--json"))
    assert (status["agent_running"], status["phase"], status["paused"]) == (True, "training", None)
    assert status["spent_24h"]["training_s"] > 0
    assert say("why").startswith("eligible; training on head 1.1\n")

    assert "the training that ran is asked to stop" in say("pause")
    world.wait(lambda: device.trainer() is None, "the trainer has ended", STOP_S)
    (before,) = device.ask("SELECT epoch, step FROM checkpoint")
    text = say("why", code=75)
    assert text.startswith("not eligible; waiting for a good moment to go on with its job on head 1.1\n")
    assert "the owner paused it until resumed" in text

    device.agent.kill()
    assert "no agent is running" in say("why", code=75)
    device.agent.start()
    world.wait(lambda: json.loads(say("status", "--json"))["agent_running"], "the agent is back")
    found = json.loads(say("why", "--json", code=75))
    assert [gate["name"] for gate in found["gates"] if not gate["ok"]] == ["paused"]
    assert device.trainer() is None
    for _ in range(20):
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(str(device.path / NAME))
            line.sendall(random.Random(3).randbytes(900))

    assert say("resume") == "resumed: it trains at the next good moment\n"
    world.wait(lambda: device.trainer() is not None, "training again", STOP_S)
    world.wait(
        lambda: device.ask("SELECT epoch, step FROM checkpoint") > [before], "it goes on from where it was"
    )


def test_rule_7_an_unenrolled_agent_says_so_and_its_socket_goes_with_it(tmp_path) -> None:
    device = Setup(tmp_path / "device")
    device.ok("init")
    with device.daemon("run") as agent:
        agent.expect("not enrolled")
        until_s = time.monotonic() + 30
        while not (device.path / NAME).exists():
            assert time.monotonic() < until_s
            time.sleep(0.02)
        done = device.run("why")
        assert done.stdout.startswith("not eligible; in no federation: run `fedclient enroll INVITATION`\n")
        assert "no agent" not in done.stdout
        assert device.ok("pause", "--for", "1h") == "paused for 1h: the agent obeys from now on\n"
        assert agent.stop() == 0
    assert not (device.path / NAME).exists()
    assert "the owner paused it for another" in device.run("why").stdout
