"""One step: what is committed is what is carried out, also when it begins with another one's end."""

from __future__ import annotations

from fedclient import session
from fedclient.client.actor import Actor
from fedclient.session import Enrolment
from fedclient.values import HeadVersion, Verdict
from tests.client.harness import V1, V2


def test_a_step_is_committed_before_it_is_carried_out(device, gateway, monkeypatch) -> None:
    agent = device.join(gateway)
    order = []
    commit, act = agent._ledger.commit, agent._act
    monkeypatch.setattr(agent._ledger, "commit", lambda *args: (order.append("commit"), commit(*args)))
    monkeypatch.setattr(agent, "_act", lambda action: (order.append(type(action).__name__), act(action)))
    gateway.publish(V1)
    device.turn()
    assert order.index("commit") < order.index("Fetch") < order.index("Check") < order.index("Adopt")
    assert agent.state.enrolment is Enrolment.DONE


def test_the_agent_is_an_actor_and_an_old_verdict_changes_nothing(device, gateway) -> None:
    agent = device.join(gateway)
    assert isinstance(agent, Actor)
    gateway.publish(V2)
    device.turn()
    before = agent.state
    agent._feed(session.Judged(V2, Verdict.KEPT_PREVIOUS))
    agent._feed(session.Judged(HeadVersion(1, 1), Verdict.ADOPTED))
    assert agent.state == before
