"""The link: only genuine messages of our gateway come out of it."""

from __future__ import annotations

import selectors

import pytest

from fedclient.client.link import MAX_COPIES, OFFLINE, ONLINE, UNACKNOWLEDGED_S, Chunk, Link, LinkDown, LinkUp
from fedclient.device import enrolment
from fedclient.errors import ConfigError
from fedclient.transport.base import Delivered
from fedclient.transport.memory import MemoryTransport
from fedclient.values import Command, CommandKind, MessageType, Receipt, ReceiptStatus
from tests.client.harness import TOPICS, V1, MiniGateway


@pytest.fixture
def link(device, gateway, broker) -> Link:
    device.invite(gateway)
    stored = enrolment.load(device.folder.enrolment)
    assert stored is not None
    return Link(stored.invitation, device.key, MemoryTransport(broker, device.id))


PAUSE = Command(sequence=7, kind=CommandKind.PAUSE, seconds=60)


def connect(link: Link, *, enrolled: bool = True) -> list[object]:
    link.connect(0.0, enrolled=enrolled)
    return link.service((), 0.0)


def retained(broker) -> dict[str, bytes]:
    return {topic: payload for topic, (payload, _) in broker._retained.items()}


def test_every_connect_subscribes_again(link, gateway, broker) -> None:
    gateway.publish(V1)
    for _ in range(2):
        assert connect(link) == [LinkUp()]
        assert link.service((), 0.0) == [gateway.manifest]
        broker.stop()
        broker.start()
        (down,) = link.service((), 0.0)
        assert isinstance(down, LinkDown)
        gateway.connect()
        gateway.publish(V1)


def test_rule_3_receipts_of_our_gateway_for_us_only(link, gateway, device, broker, caplog) -> None:
    connect(link)
    impostor = MiniGateway(broker, b"i")
    impostor.answer(device.id, b"envelope", ReceiptStatus.COUNTED)
    gateway.transport.publish(TOPICS.receipt(device.id), b"junk")
    gateway.transport.publish(
        TOPICS.receipt(device.id), gateway.downlink.manifest(gateway.publish(V1, blobs=False))
    )
    found = link.service((), 0.0)
    assert found == [gateway.manifest]
    assert caplog.text.count("not our gateway's") == 1  # said once for each connection
    gateway.answer(device.id, b"envelope", ReceiptStatus.COUNTED)
    (receipt,) = link.service((), 0.0)
    assert receipt.status is ReceiptStatus.COUNTED


# --- commands -----------------------------------------------------------------------------------------
def test_a_retained_command_comes_at_every_connect(link, gateway, device) -> None:
    signed = gateway.downlink.command(device.id, PAUSE)
    gateway.transport.publish(TOPICS.command(device.id), signed, retain=True)
    for _ in range(2):
        assert connect(link) == [LinkUp()]
        assert link.service((), 0.0) == [PAUSE]  # twice the same: its sequence tells the agent


def test_rule_3_commands_of_our_gateway_for_us_only(link, gateway, device, broker, caplog) -> None:
    connect(link)
    topic = TOPICS.command(device.id)
    receipt = Receipt(counter=0, envelope_hash=bytes(32), status=ReceiptStatus.COUNTED)
    for wrong in (
        b"junk",
        bytes(10_000),
        MiniGateway(broker, b"i").downlink.command(device.id, PAUSE),
        gateway.downlink.command("a" * 16, PAUSE),
        gateway.downlink.receipt(device.id, receipt),
    ):
        gateway.transport.publish(topic, wrong)
    gateway.transport.publish(TOPICS.receipt(device.id), gateway.downlink.command(device.id, PAUSE))
    assert link.service((), 0.0) == []
    assert caplog.text.count("not our gateway's") == 1
    gateway.transport.publish(topic, gateway.downlink.command(device.id, PAUSE))
    assert link.service((), 0.0) == [PAUSE]


def test_a_bad_message_that_is_retained_is_told_once(link, gateway, device, caplog) -> None:
    gateway.transport.publish(TOPICS.command(device.id), b"junk", retain=True)
    for _ in range(3):
        connect(link)
        assert link.service((), 0.0) == []
    assert caplog.text.count("not our gateway's") == 1
    gateway.transport.publish(TOPICS.command(device.id), b"other, and more of it", retain=True)
    assert link.service((), 0.0) == []
    assert caplog.text.count("not our gateway's") == 2


def test_a_command_that_is_cleared_is_nothing(link, gateway, device, caplog) -> None:
    connect(link)
    gateway.transport.publish(TOPICS.command(device.id), b"", retain=True)
    assert link.service((), 0.0) == []
    assert caplog.text == ""


# --- online, offline ----------------------------------------------------------------------------------
def test_an_enrolled_device_says_online_after_it_has_subscribed(link, device, monkeypatch) -> None:
    done = []
    for name in ("subscribe", "publish"):
        real = getattr(link.transport, name)
        monkeypatch.setattr(
            link.transport, name, lambda *a, real=real, **k: (done.append((a, k)), real(*a, **k))[1]
        )
    connect(link)
    online = ((TOPICS.online(device.id), ONLINE), {"qos": 1, "retain": True})
    assert done == [
        ((TOPICS.receipt(device.id),), {}),
        ((TOPICS.command(device.id),), {}),
        ((TOPICS.manifest,), {}),
        online,
    ]


def test_the_end_says_offline_whichever_way_it_comes(link, device, broker) -> None:
    topic = TOPICS.online(device.id)
    connect(link)
    assert retained(broker)[topic] == ONLINE
    link.close()
    assert retained(broker)[topic] == OFFLINE
    connect(link)
    assert retained(broker)[topic] == ONLINE
    broker.part(device.id)  # without a goodbye
    assert retained(broker)[topic] == OFFLINE
    broker.heal(device.id)
    connect(link)
    assert retained(broker)[topic] == ONLINE


def test_a_link_that_is_down_ends_without_a_word(link, broker, device) -> None:
    connect(link)
    broker.stop()
    link.service((), 0.0)
    link.close()
    assert not link.connected


def test_who_is_not_enrolled_leaves_nothing(link, device, broker) -> None:
    topic = TOPICS.online(device.id)
    connect(link, enrolled=False)
    assert topic not in retained(broker)
    broker.part(device.id)
    broker.heal(device.id)
    assert topic not in retained(broker)
    connect(link, enrolled=False)
    link.close()
    assert topic not in retained(broker)


def test_a_membership_that_ends_takes_its_word_along(link, device, broker) -> None:
    connect(link)
    connect(link, enrolled=False)
    assert TOPICS.online(device.id) not in retained(broker)


def test_rule_6_manifests_of_another_gateway_are_ignored(link, gateway, broker) -> None:
    MiniGateway(broker, b"i").publish(V1)
    assert connect(link) == [LinkUp()]
    assert link.service((), 0.0) == []
    gateway.transport.publish(TOPICS.manifest, b"", retain=True)  # cleared
    assert link.service((), 0.0) == []


def test_rule_6_chunks_come_unverified(link, gateway) -> None:
    connect(link)
    topic = TOPICS.blob(b"h" * 32, 1)
    link.subscribe(topic)
    gateway.transport.publish(topic, b"chunk", retain=True)
    assert link.service((), 0.0) == [Chunk(topic, b"chunk")]
    link.unsubscribe(topic)
    gateway.transport.publish(topic, b"chunk", retain=True)
    assert link.service((), 0.0) == []


def test_without_a_connection_nothing_is_lost_and_nothing_raises(link) -> None:
    assert not link.connected
    assert not link.send(MessageType.UPDATE, b"envelope")
    link.subscribe("x")
    link.unsubscribe("x")
    assert link.service((), 0.0) == []


def test_rule_3_what_is_sent_travels_as_it_is(link, gateway, device) -> None:
    connect(link)
    assert link.send(MessageType.UPDATE, b"the same bytes as ever")
    assert gateway.listen() == [(device.id, MessageType.UPDATE, b"the same bytes as ever")]


def test_copies_do_not_pile_up_on_a_broker_that_acknowledges_nothing(link, gateway, monkeypatch) -> None:
    connect(link)
    real = link.transport.service
    with monkeypatch.context() as deaf:
        deaf.setattr(
            link.transport, "service", lambda *args: [e for e in real(*args) if not isinstance(e, Delivered)]
        )
        for second in range(100):
            assert link.send(MessageType.UPDATE, b"envelope")
            assert link.service((), float(second)) == []
        assert link.send(MessageType.ENROL, b"request")  # another kind does not wait for it
        assert [payload for _, _, payload in gateway.listen()] == [b"envelope"] * MAX_COPIES + [b"request"]
        (down,) = link.service((), 100.0 + UNACKNOWLEDGED_S)
        assert isinstance(down, LinkDown)
    assert not link.connected
    connect(link)
    assert link.send(MessageType.UPDATE, b"envelope")
    link.service((), 5000.0)
    assert link.send(MessageType.UPDATE, b"envelope")  # acknowledged: now it may be offered again
    assert len(gateway.listen()) == 2


def test_a_broker_that_takes_only_small_messages_does_not_end_the_agent(
    link, gateway, monkeypatch, caplog
) -> None:
    connect(link)

    def refuse(*_: object, **__: object) -> int:
        raise ConfigError("a message of 99 bytes is above the 20 that the broker takes")

    monkeypatch.setattr(link.transport, "publish", refuse)
    assert not link.send(MessageType.UPDATE, b"envelope")
    assert not link.send(MessageType.UPDATE, b"envelope")
    assert caplog.text.count("above the 20") == 1


def test_a_slow_link_is_given_time_and_no_second_copy(link, gateway, monkeypatch) -> None:
    connect(link)
    real = link.transport.service
    monkeypatch.setattr(
        link.transport, "service", lambda *args: [e for e in real(*args) if not isinstance(e, Delivered)]
    )
    monkeypatch.setattr(link.transport, "interests", lambda: {5: selectors.EVENT_WRITE})
    assert link.send(MessageType.UPDATE, b"envelope")
    assert link.send(MessageType.UPDATE, b"envelope")
    assert link.service((), 100.0 + UNACKNOWLEDGED_S) == []
    assert len(gateway.listen()) == 1
