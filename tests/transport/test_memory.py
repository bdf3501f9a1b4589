import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedclient.errors import Unreachable
from fedclient.transport.base import Connected, Delivered, Disconnected, Event, Received, Will
from fedclient.transport.memory import MemoryBroker, MemoryTransport, matches


def connected(broker: MemoryBroker, name: str, *filters: str, will: Will | None = None) -> MemoryTransport:
    client = MemoryTransport(broker, name)
    client.connect(0.0, will=will)
    assert client.service([], 0.0) == [Connected()]
    for topic_filter in filters:
        client.subscribe(topic_filter)
    return client


def payloads(events: list[Event]) -> list[bytes]:
    return [event.payload for event in events if isinstance(event, Received)]


@pytest.mark.parametrize(
    ("topic_filter", "topic", "expected"),
    [
        # MQTT 3.1.1, 4.7.1.2, 4.7.1.3, 4.7.2
        ("sport/tennis/player1/#", "sport/tennis/player1", True),
        ("sport/tennis/player1/#", "sport/tennis/player1/ranking", True),
        ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", True),
        ("sport/#", "sport", True),
        ("#", "a/b/c", True),
        ("sport/tennis/+", "sport/tennis/player1", True),
        ("sport/tennis/+", "sport/tennis/player1/ranking", False),
        ("sport/+", "sport", False),
        ("sport/+", "sport/", True),
        ("+/+", "/finance", True),
        ("/+", "/finance", True),
        ("+", "/finance", False),
        ("#", "$SYS/load", False),
        ("+/load", "$SYS/load", False),
        ("$SYS/#", "$SYS/load", True),
        ("a/b", "a/B", False),
        ("a/b/#", "a", False),
    ],
)
def test_a_filter_covers_what_the_standard_says(topic_filter: str, topic: str, expected: bool) -> None:
    assert matches(topic_filter, topic) is expected


@pytest.mark.parametrize("bad", ["", "a#", "#/a", "a/+b", "a/#/b"])
def test_a_filter_that_is_none_is_a_programming_mistake(bad: str) -> None:
    with pytest.raises(ValueError, match="no MQTT topic filter"):
        connected(MemoryBroker(), "a").subscribe(bad)


def test_nothing_is_due_until_something_is_queued() -> None:
    broker = MemoryBroker()
    client = connected(broker, "a", "t")
    assert client.interests() == {}
    assert client.deadline_s() is None
    connected(broker, "b").publish("t", b"x")
    assert client.deadline_s() == 0.0
    assert payloads(client.service([], 5.0)) == [b"x"]
    assert client.deadline_s() is None


def test_overlapping_subscriptions_give_one_message() -> None:
    broker = MemoryBroker()
    client = connected(broker, "a", "t/#", "t/+")
    connected(broker, "b").publish("t/1", b"x")
    assert payloads(client.service([], 0.0)) == [b"x"]


@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.3, 1.0]))
def test_duplicates_follow_the_seed(seed: int, probability: float) -> None:
    def run() -> list[bytes]:
        broker = MemoryBroker(seed=seed, duplicate=probability)
        client = connected(broker, "a", "t")
        sender = connected(broker, "b")
        for number in range(200):
            sender.publish("t", bytes([number]))
        return payloads(client.service([], 0.0))

    got = run()
    assert got == run()
    assert got == sorted(got)
    assert set(got) == {bytes([number]) for number in range(200)}
    extra = len(got) - 200
    assert {0.0: extra == 0, 0.3: 25 < extra < 100, 1.0: extra == 200}[probability]


def test_qos_0_is_never_duplicated_and_never_acknowledged() -> None:
    broker = MemoryBroker(duplicate=1.0)
    client = connected(broker, "a", "t")
    client.publish("t", b"x", qos=0)
    events = client.service([], 0.0)
    assert payloads(events) == [b"x"]
    assert not any(isinstance(event, Delivered) for event in events)


def test_a_lost_message_is_acknowledged_all_the_same() -> None:
    broker = MemoryBroker()
    client = connected(broker, "a", "#")
    broker.lose = lambda topic: topic.endswith("receipt")
    number = client.publish("down/receipt", b"x", retain=True)
    assert client.service([], 0.0) == [Delivered(message_id=number)]
    client.publish("down/other", b"y")
    assert payloads(client.service([], 0.0)) == [b"y"]


def test_a_stopped_broker_ends_connections_and_forgets() -> None:
    broker = MemoryBroker()
    client = connected(broker, "a", will=Will(topic="gone", payload=b"a"))
    client.publish("t", b"x", retain=True)
    client.service([], 0.0)
    broker.stop()
    assert not client.connected
    assert [type(event) for event in client.service([], 1.0)] == [Disconnected]
    client.connect(2.0)
    [refused] = client.service([], 2.0)
    assert isinstance(refused, Disconnected)
    assert "start it" in refused.reason
    with pytest.raises(Unreachable):
        client.publish("t", b"x")
    broker.start()
    again = connected(broker, "a", "#")
    assert again.service([], 3.0) == []


def test_a_parted_client_is_alone_until_healed() -> None:
    broker = MemoryBroker()
    one, other = connected(broker, "a", "t"), connected(broker, "b", "t")
    broker.part("a")
    other.publish("t", b"x")
    assert [type(event) for event in one.service([], 0.0)] == [Disconnected]
    assert payloads(other.service([], 0.0)) == [b"x"]
    one.connect(1.0)
    assert not one.connected
    broker.heal("a")
    one.connect(2.0)
    assert one.service([], 2.0) == [Connected()]


def test_a_second_client_with_the_same_id_takes_over() -> None:
    broker = MemoryBroker()
    first = connected(broker, "a", "t")
    second = connected(broker, "a", "t")
    [ended] = first.service([], 0.0)
    assert isinstance(ended, Disconnected)
    first.close()  # must not take the second's place away
    connected(broker, "b").publish("t", b"x")
    assert payloads(second.service([], 0.0)) == [b"x"]


def test_the_will_is_published_unless_the_client_says_goodbye() -> None:
    broker = MemoryBroker()
    watcher = connected(broker, "w", "state/#")
    polite = connected(broker, "p", will=Will(topic="state/p", payload=b"off"))
    polite.close()
    assert watcher.service([], 0.0) == []
    connected(broker, "c", will=Will(topic="state/c", payload=b"off"))
    broker.part("c")
    assert payloads(watcher.service([], 0.0)) == [b"off"]
    assert payloads(connected(broker, "late", "state/#").service([], 0.0)) == [b"off"]  # wills are retained
