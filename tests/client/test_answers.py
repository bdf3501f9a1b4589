"""What the owner asks the running agent, and what it does about it."""

from __future__ import annotations

import pytest

from fedclient.client.answers import answer
from fedclient.values import Phase
from tests.client.harness import V1


@pytest.fixture
def agent(device, gateway):
    device.samples()
    gateway.publish(V1)
    return device.join(gateway)


def closed(found: dict) -> list[str]:
    return [gate["name"] for gate in found["decision"]["gates"] if not gate["ok"]]


def test_a_pause_stops_the_training_and_a_resume_lets_it_go_on(agent, device) -> None:
    assert agent.state.phase is Phase.TRAINING
    found = answer(agent, {"ask": "pause", "seconds": 0}, device.now_s)
    assert closed(found) == ["paused"]
    device.turn()
    device.trainer_ends()
    assert agent.state.phase is Phase.WAITING
    device.turn(500.0)
    assert agent.state.phase is Phase.WAITING
    assert closed(answer(agent, {"ask": "why"}, device.now_s)) == ["paused"]
    answer(agent, {"ask": "resume"}, device.now_s)
    device.turn()
    assert agent.state.phase is Phase.TRAINING


def test_a_pause_ends_by_itself_and_is_kept_over_a_restart(agent, device) -> None:
    answer(agent, {"ask": "pause", "seconds": 60}, device.now_s)
    device.turn()
    device.trainer_ends()
    device.stop()
    again = device.start()
    device.turn(30.0)
    assert again.state.phase is Phase.WAITING
    device.turn(31.0)
    device.turn(1.0)
    assert again.state.phase is Phase.TRAINING


def test_status_repeats_the_last_decision_and_why_makes_a_new_one(agent, device) -> None:
    device.trainer_ends()
    last = agent.work.conditions.decision
    device.now_s += 10.0
    agent.service((), device.now_s)
    assert answer(agent, {"ask": "status"}, device.now_s)["decision"] == last.as_dict()
    assert answer(agent, {"ask": "why"}, device.now_s)["decision"]["at_s"] == pytest.approx(last.at_s + 10.0)


def test_what_else_is_wrong_is_noted(agent, device) -> None:
    device.broker.stop()
    device.turn()
    assert any("no connection" in note for note in answer(agent, {"ask": "status"}, device.now_s)["notes"])
