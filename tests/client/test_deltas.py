"""Heads that come as deltas, or whole: which way is taken, and what happens where rubbish comes."""

from __future__ import annotations

import pytest

from fedclient.client.heads import QUIET_S
from fedclient.client.timers import Timer
from fedclient.device.blobs import Blobs
from fedclient.model.head import write_head
from fedclient.model.options import HeadOptions, Optimizer
from fedclient.values import BlobRef, HeadVersion, Manifest, Phase
from tests.client.harness import TOPICS, V1, V2, V3, Device, MiniGateway, large, weights

DELTA, WHOLE = 100, 1000  # bytes: any delta has fewer, any whole head more


@pytest.fixture
def gateway(broker) -> MiniGateway:
    return large(broker)


@pytest.fixture
def joined(device, gateway) -> Device:
    """A device with the first head, which nobody will train on."""
    device.join(gateway)
    take(device, gateway, V1)
    return device


def publish(gateway: MiniGateway, version: HeadVersion, **how: bool) -> Manifest:
    return gateway.publish(version, weights=weights(version.version), **how)


def take(device: Device, gateway: MiniGateway, version: HeadVersion) -> Manifest:
    manifest = publish(gateway, version)
    device.turn()
    assert has(device, manifest)
    return manifest


def has(device: Device, manifest: Manifest) -> bool:
    """Whether the device uses this head, bit for bit."""
    version = manifest.head_version
    if device.agent.state.adopted != version:
        return False
    assert Blobs(device.folder.blobs).read(manifest.head) == weights(version.version)
    return True


def counted(device: Device) -> tuple[int, int]:
    """Bytes of encoded heads so far, and what deltas have saved."""
    counters = device.agent.counters()
    return counters["head_bytes"], counters["head_bytes_saved"]


def poison(gateway: MiniGateway, ref: BlobRef) -> None:
    gateway.transport.publish(TOPICS.blob(ref.hash, 1), b"poison", retain=True)


# --- which way ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("missed", "all_of_it"), [(0, False), (1, False), (3, False), (7, False), (9, True)])
def test_a_device_that_missed_some_heads_takes_the_shortest_way(joined, gateway, missed, all_of_it) -> None:
    before = counted(joined)
    joined.stop()
    for number in range(2, missed + 2):
        publish(gateway, HeadVersion(1, number))
    last = publish(gateway, HeadVersion(1, missed + 2))
    joined.start()
    joined.turn()
    assert has(joined, last)
    fetched, saved = (now - then for now, then in zip(counted(joined), before, strict=True))
    if all_of_it:
        assert (fetched, saved) == (last.full.size, 0)
    else:
        assert fetched < DELTA * (missed + 1)
        assert fetched + saved == last.full.size > WHOLE


def test_one_that_has_just_joined_takes_the_whole_head_and_then_deltas(device, gateway) -> None:
    for version in (V1, V2):
        publish(gateway, version)
    device.join(gateway)
    device.turn()
    assert has(device, gateway.manifest)
    assert counted(device) == (gateway.manifest.full.size, 0)
    take(device, gateway, V3)
    assert 0 < counted(device)[0] - len(gateway.encoded[V2][0]) < DELTA


def test_a_head_of_another_generation_comes_whole(joined, gateway) -> None:
    before = counted(joined)[0]
    other = take(joined, gateway, HeadVersion(2, 2))
    assert not other.deltas
    assert counted(joined)[0] - before == other.full.size


def test_head_after_head_comes_as_a_delta_of_the_one_before(joined, gateway) -> None:
    before = counted(joined)[0]
    for number in range(2, 6):
        take(joined, gateway, HeadVersion(1, number))
    assert counted(joined)[0] - before < 4 * DELTA
    assert counted(joined)[1] > 3 * WHOLE


# --- a way that leads nowhere -----------------------------------------------------------------------------
def test_rule_6_a_poisoned_delta_is_given_up_for_the_whole_head(joined, gateway, caplog) -> None:
    manifest = publish(gateway, V2)
    poison(gateway, manifest.deltas[0])
    joined.turn()
    assert has(joined, manifest)
    assert caplog.text.count("asking again") == 3
    assert "head 1.2 is fetched whole: its deltas do not come" in caplog.text
    take(joined, gateway, V3)
    assert counted(joined)[1] > 0, "the next delta is tried"


def test_rule_6_a_poisoned_whole_head_after_a_poisoned_delta_is_backed_off_from(joined, gateway) -> None:
    manifest = publish(gateway, V2)
    for ref in (manifest.deltas[0], manifest.full):
        poison(gateway, ref)
    joined.turn()
    sent = joined.agent._link.transport.sent_bytes
    joined.turn(60.0)
    assert joined.agent._link.transport.sent_bytes == sent
    gateway.publish_blobs(V2)
    joined.turn(joined.config.broker.retry_max_s)
    assert has(joined, manifest)


def test_rule_6_a_poisoned_model_says_nothing_of_the_deltas(joined, gateway) -> None:
    gateway.model = write_head(63, 41, options=HeadOptions(optimizer=Optimizer.MOMENTUM))
    manifest = publish(gateway, V2)
    poison(gateway, manifest.model)
    joined.turn()
    assert joined.agent.state.phase is Phase.FETCHING
    gateway.publish_blobs(V2)
    joined.turn(joined.config.broker.retry_max_s + 1.0)
    assert Blobs(joined.folder.blobs).read(manifest.head) == weights(2)
    assert counted(joined)[1] > 0


def test_a_delta_that_does_not_come_is_waited_for_only_so_long(joined, gateway, caplog) -> None:
    manifest = publish(gateway, V2, blobs=False)
    joined.turn()
    assert joined.agent.deadline_s() <= joined.now_s + QUIET_S
    gateway.publish_blob(gateway.encoded[V2][0])
    joined.turn(QUIET_S - 1.0)
    assert joined.agent.state.phase is Phase.FETCHING
    joined.turn(2.0)
    assert has(joined, manifest)
    assert "do not come" in caplog.text


def test_a_stranger_who_says_nothing_again_and_again_holds_no_device_on_a_delta(joined, gateway) -> None:
    manifest = publish(gateway, V2, blobs=False)
    joined.turn()
    gateway.publish_blob(gateway.encoded[V2][0])
    topic = TOPICS.blob(manifest.deltas[0].hash, 1)
    for _ in range(4):
        gateway.transport.publish(topic, b"")
        joined.turn(QUIET_S / 3)
    assert has(joined, manifest)


def test_what_nothing_can_take_the_place_of_is_waited_for_without_a_look(device, gateway) -> None:
    agent = device.join(gateway)
    publish(gateway, V1, blobs=False)
    device.turn()
    assert not agent._timers.is_set(Timer.FETCH)
    assert agent.heads.look_again_s is None
