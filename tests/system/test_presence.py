"""Online, offline and commands between real processes and the real broker: what a stranger there sees."""

from __future__ import annotations

import os
import signal
import time
from contextlib import closing

import pytest

from fedclient.downlink import DeviceDownlink
from fedclient.testing.broker import Mosquitto
from fedclient.values import CommandKind
from fedclient.wire.topics import Topics
from tests.system.stranger import Stranger
from tests.system.world import FEDERATION, World

TOPICS = Topics(FEDERATION)
STOP_S = 5.0  # SIGTERM to the end of the process
PROMPT_S = 5.0  # from a command line to the broker


class Answering(Stranger):
    """One that publishes as soon as it hears a word."""

    def __init__(self, port: int, word: bytes, topic: str, *topics: str) -> None:
        self._word, self._answer_on = word, topic
        super().__init__(port, *topics)

    def _message(self, client, data, message) -> None:
        super()._message(client, data, message)
        if bytes(message.payload) == self._word:
            client.publish(self._answer_on, b"a command from nobody", qos=1)


def words(stranger: Stranger, topic: str) -> list[bytes]:
    """What was said, without the clearing by an agent that is not enrolled yet."""
    return [word for word in stranger.on(topic) if word]


@pytest.fixture
def broker(mosquitto):
    with Mosquitto(mosquitto) as made:
        yield made


@pytest.fixture
def world(tmp_path, broker):
    """A gateway, and a device with too few samples to train."""
    with World(tmp_path, broker.port) as made:
        made.add_device(samples=4)
        yield made


def test_rule_8_a_killed_agent_is_offline_by_its_will_and_a_stopped_one_by_its_own_word(world, broker):
    device = world.devices[0]
    topic = TOPICS.online(device.id)
    with Answering(broker.port, b"online", TOPICS.command(device.id), topic) as stranger:

        def said(*expected: bytes) -> None:
            world.wait(lambda: len(words(stranger, topic)) >= len(expected), f"the broker has {expected}")
            assert tuple(words(stranger, topic)) == expected

        world.start()
        said(b"online")
        # who reads it is heard: the agent has subscribed before it speaks
        world.wait_said(device.agent, rf"not our gateway's topic={TOPICS.command(device.id)}", 0)
        device.agent.kill()
        said(b"online", b"offline")
        device.agent.start()
        said(b"online", b"offline", b"online")
        began = time.monotonic()
        assert device.agent.stop() == 0
        assert time.monotonic() - began < STOP_S
        said(b"online", b"offline", b"online", b"offline")
    with Stranger(broker.port, topic) as late:
        world.wait(lambda: late.on(topic) == [b"offline"], "the last word is retained")


def test_a_broker_that_hangs_does_not_hold_the_end_up(world, broker):
    device = world.devices[0]
    topic = TOPICS.online(device.id)
    with Stranger(broker.port, topic) as stranger:
        world.start()
        world.wait(lambda: words(stranger, topic) == [b"online"], "the device is online")
        os.kill(broker.pid, signal.SIGSTOP)
        began = time.monotonic()
        try:
            assert device.agent.stop() == 0
        finally:
            os.kill(broker.pid, signal.SIGCONT)
        assert time.monotonic() - began < STOP_S
        world.wait(
            lambda: b"offline" in stranger.on(topic), "the broker has read what was sent before the end"
        )


def test_gateway_pause_is_heard_at_once_and_followed_once_and_resume_survives_the_broker(world, broker):
    device = world.devices[0]
    topic = TOPICS.command(device.id)
    with closing((desk := world.desk()).store):
        end = DeviceDownlink(federation=FEDERATION, gateway_key=desk.signing.public)

    def newest(stranger: Stranger) -> tuple[CommandKind, int] | None:
        heard = [end.open_command(payload, device.id) for payload in stranger.on(topic)]
        return (heard[-1].kind, heard[-1].seconds) if heard else None

    world.start()
    world.wait(lambda: device.id in world.roster(), "the device is enrolled")
    with Stranger(broker.port, topic) as stranger:
        assert world.run("gateway", "pause", device.id, "--for", "30m", state=world.state)
        began = time.monotonic()
        world.wait(lambda: newest(stranger) == (CommandKind.PAUSE, 1800), "the pause is out")
        assert time.monotonic() - began < PROMPT_S
    assert world.roster()[device.id]["pause"] is not None
    world.wait_said(device.agent, "the gateway says: pause", 0)
    device.agent.kill()
    since = device.agent.said()
    with Stranger(broker.port, TOPICS.online(device.id)) as stranger:
        device.agent.start()  # the retained pause comes again, and was followed already
        world.wait(lambda: words(stranger, TOPICS.online(device.id))[-1:] == [b"online"], "it is back")
    broker.kill()
    assert world.run("gateway", "resume", "--all", state=world.state)
    broker.restart()
    with Stranger(broker.port, topic) as stranger:
        world.wait(lambda: newest(stranger) == (CommandKind.RESUME, 0), "the resume is out")
    assert world.roster()[device.id]["pause"] is None
    world.wait_said(device.agent, "the gateway says: resume", since)
    assert "the gateway says: pause" not in device.agent.text(since)
