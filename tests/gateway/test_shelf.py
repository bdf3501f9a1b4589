from __future__ import annotations

import hashlib
from contextlib import closing

import pytest

from fedclient import codec
from fedclient.downlink import DeviceDownlink
from fedclient.gateway import releases
from fedclient.gateway import shelf as shelf_module
from fedclient.gateway.desk import manifest_of
from fedclient.gateway.roster import Standing
from fedclient.gateway.server import POLL_S, open_desk
from fedclient.gateway.shelf import REVIEW_S
from fedclient.limits import MAX_CHUNK_BYTES, MAX_DELTAS
from fedclient.values import Command, CommandKind, HeadVersion
from fedclient.wire.blobs import check_chunk, check_hashes, is_blob, split
from fedclient.wire.fields import DELTA_HASH_BYTES
from tests.gateway.harness import TOPICS, Farm, content


def shelf(farm):
    return {topic: payload for topic, (payload, _) in farm.broker._retained.items()}


def blobs_of(manifest):
    return {TOPICS.blob(ref.hash, 1) for ref in (manifest.model, manifest.full, *manifest.deltas)}


def close_a_version(farm, devices):
    for device in devices:
        device.update()
    farm.settle(*devices)


def test_rule_6_a_manifest_and_its_blobs_can_be_fetched(tmp_path):
    farm = Farm(tmp_path / "gateway", publish=False)
    model = bytes(range(256)) * 1000  # three chunks
    releases.publish(farm.desk, content(model=model))
    farm.run()
    found, manifest = shelf(farm), manifest_of(farm.store.releases(1)[0])
    hashes = check_hashes(manifest.model, found[TOPICS.blob(manifest.model.hash, 0)])
    chunks = [
        check_chunk(manifest.model, number, found[TOPICS.blob(manifest.model.hash, number)], expected)
        for number, expected in enumerate(hashes, start=1)
    ]
    assert b"".join(chunks) == model
    full = found[TOPICS.blob(manifest.full.hash, 1)]
    assert hashlib.sha256(hashlib.sha256(full).digest()).digest() == manifest.full.hash
    assert is_blob(manifest.head, codec.head_from(full, manifest.tensors).astype("<f4").tobytes())
    assert TOPICS.blob(manifest.full.hash, 0) not in found, "one chunk needs no list"
    assert TOPICS.blob(manifest.head.hash, 1) not in found, "devices put the head together"
    assert max(map(len, found.values())) <= MAX_CHUNK_BYTES


def test_rule_6_deltas_lead_from_head_to_head_as_far_back_as_they_are_listed(farm):
    devices = farm.devices(3)
    heads = {1: farm.head()}
    for version in range(2, 13):
        close_a_version(farm, devices)
        manifest, found = devices[0].manifest, shelf(farm)
        heads[version] = farm.head()
        assert 1 <= len(manifest.deltas) <= MAX_DELTAS
        assert {len(delta.hash) for delta in manifest.deltas} == {DELTA_HASH_BYTES}
        assert sum(delta.size for delta in manifest.deltas) < manifest.full.size
        for back in range(1, len(manifest.deltas) + 1):
            head = heads[version - back]
            for delta in manifest.deltas[back - 1 :: -1]:
                data = found[TOPICS.blob(delta.hash, 1)]
                assert is_blob(delta, data)
                head = codec.head_after(head, data, manifest.tensors)
            assert head.tobytes() == heads[version].tobytes()
    print([delta.size for delta in manifest.deltas], manifest.full.size)


def test_rule_4_7_everything_is_published_again_on_every_connect(farm):
    before = shelf(farm)
    assert TOPICS.manifest in before
    farm.broker.stop()  # and everything retained is gone
    farm.run()
    farm.broker.start()
    farm.run(120)
    assert shelf(farm) == before


def test_rule_4_4_a_restart_publishes_identical_bytes(farm):
    devices = farm.devices(3)
    close_a_version(farm, devices)
    before = shelf(farm)
    farm.broker.stop()
    farm.broker.start()
    farm.restart()
    farm.run(120)
    for topic in (TOPICS.manifest, *blobs_of(devices[0].manifest)):
        assert shelf(farm)[topic] == before[topic]


def test_rule_4_7_what_nobody_needs_is_cleared(farm):
    devices = farm.devices(3)
    manifests = [devices[0].manifest]
    for _ in range(3):
        close_a_version(farm, devices)
        manifests.append(devices[0].manifest)
    assert manifests[-1].head_version == HeadVersion(1, 4)
    needed = {TOPICS.manifest} | blobs_of(manifests[-1]) | blobs_of(manifests[-2])
    assert set(shelf(farm)) == needed
    assert farm.store.retained() == needed


def test_rule_4_7_what_a_killed_gateway_left_is_cleared_after_its_restart(farm):
    stale = split(b"left over")
    topic = TOPICS.blob(stale.ref.hash, 1)
    with farm.store.transaction():
        farm.store.add_retained({topic})
    farm.broker.route(topic, b"left over", qos=1, retain=True)
    farm.restart()
    assert topic not in shelf(farm)
    assert topic not in farm.store.retained()


def test_topics_are_written_down_before_anything_is_published(farm, monkeypatch):
    transport = farm.gateway._transport
    original = transport.publish

    def publish(topic, payload, **how):
        if how.get("retain") and payload:
            assert topic in farm.store.retained()
        return original(topic, payload, **how)

    monkeypatch.setattr(transport, "publish", publish)
    devices = farm.devices(3)
    close_a_version(farm, devices)
    assert devices[0].manifest.head_version == HeadVersion(1, 2)


def test_blobs_go_out_before_the_manifest_that_names_them(farm, monkeypatch):
    transport, order = farm.gateway._transport, []
    original = transport.publish
    monkeypatch.setattr(
        transport,
        "publish",
        lambda topic, payload, **how: (order.append(topic), original(topic, payload, **how))[1],
    )
    devices = farm.devices(3)
    close_a_version(farm, devices)
    manifest = devices[0].manifest
    assert manifest.deltas
    for ref in (manifest.full, *manifest.deltas):
        assert order.index(TOPICS.blob(ref.hash, 1)) < order.index(TOPICS.manifest)
    assert TOPICS.blob(devices[0].manifest.model.hash, 1) not in order, "it is there already"


def test_rule_4_4_bodies_are_deleted_once_their_aggregate_is_published(farm):
    devices = farm.devices(3)
    for device in devices[:2]:
        device.update()
    farm.settle(*devices)
    bodies = "SELECT count(*) FROM counted WHERE body IS NOT NULL"
    assert farm.store._db.one(bodies) == (2,)
    devices[2].update()
    farm.settle(*devices)
    assert farm.store._db.one(bodies) == (0,)
    assert len(farm.store.ledger()) == 3


# --- commands ----------------------------------------------------------------------------------------
def give(farm, devices, kind=CommandKind.PAUSE, seconds=0):
    """Do what `fedclient gateway pause` does, in another process."""
    other = open_desk(farm.folder, farm.settings)
    with closing(other.store), other.store.transaction():
        return other.store.commands.give([device.id for device in devices], kind, seconds, farm.unix_s)


def ordered(farm):
    """Open what lies on the broker for each device, as that device would."""
    end = DeviceDownlink(federation="farm", gateway_key=farm.desk.signing.public)
    return {
        topic.split("/")[4]: end.open_command(payload, topic.split("/")[4])
        for topic, payload in shelf(farm).items()
        if topic.endswith("/command")
    }


def test_a_command_is_out_within_a_second_and_again_after_every_connect(farm):
    one, two = farm.devices(2)
    farm.run(30)
    sequence = give(farm, [one], seconds=60)
    farm.run(POLL_S)
    expected = {one.id: Command(sequence=sequence, kind=CommandKind.PAUSE, seconds=60)}
    assert ordered(farm) == expected
    before = shelf(farm)
    farm.broker.stop()
    farm.broker.start()
    farm.unix_s += 30
    farm.run(30)
    assert shelf(farm) == before
    assert TOPICS.command(one.id) in farm.store.retained()
    assert TOPICS.command(two.id) not in farm.store.retained()


def test_a_later_command_takes_the_place_of_the_first(farm):
    (device,) = farm.devices(1)
    give(farm, [device])
    farm.run(POLL_S)
    sequence = give(farm, [device], CommandKind.RESUME)
    farm.run(POLL_S)
    assert ordered(farm) == {device.id: Command(sequence=sequence, kind=CommandKind.RESUME)}


def test_a_command_that_nobody_needs_is_cleared_and_crossed_out(farm):
    devices = farm.devices(3)
    give(farm, devices, seconds=90)
    farm.run(POLL_S)
    assert len(ordered(farm)) == 3
    with farm.store.transaction():
        farm.store.roster.set_standing(devices[0].id, Standing.REVOKED)
    farm.run(REVIEW_S + 2)
    assert set(ordered(farm)) == {device.id for device in devices[1:]}
    farm.unix_s += 90
    farm.run(REVIEW_S + 2)
    assert ordered(farm) == {}
    assert not [topic for topic in farm.store.retained() if topic.endswith("/command")]
    assert TOPICS.manifest in shelf(farm)


def test_what_a_revoked_device_said_of_itself_is_cleared(farm):
    (device,) = farm.devices(1)
    topic = TOPICS.online(device.id)
    device.transport.publish(topic, b"offline", retain=True)
    farm.run(REVIEW_S + 2)
    assert topic in shelf(farm), "it is the device's"
    with farm.store.transaction():
        farm.store.add_retained({topic})  # as `gateway devices revoke` does
    farm.run(REVIEW_S + 2)
    assert topic not in shelf(farm)
    assert topic not in farm.store.retained()


@pytest.mark.parametrize("acknowledged", [False, True])
def test_a_topic_that_is_needed_again_while_it_is_cleared_stays_ours(farm, acknowledged):
    (device,) = farm.devices(1)
    give(farm, [device], seconds=1)
    farm.run(POLL_S)
    farm.unix_s += 5
    farm.now_s += REVIEW_S
    farm.gateway.service((), farm.now_s)  # the clearing is on its way, its PUBACK not back
    assert ordered(farm) == {}
    sequence = give(farm, [device])
    if not acknowledged:
        farm.gateway._shelf.publish(farm.gateway._transport, farm.now_s)
    farm.run(2)
    assert ordered(farm)[device.id].sequence == sequence
    assert TOPICS.command(device.id) in farm.store.retained()


def test_a_clearing_that_waits_is_not_sent_when_its_topic_is_needed_again(farm, monkeypatch):
    devices = farm.devices(3)
    give(farm, devices, seconds=1)
    farm.run(POLL_S)
    monkeypatch.setattr(shelf_module, "WINDOW", 0)
    farm.unix_s += 5
    farm.run(REVIEW_S + 2)
    assert len(ordered(farm)) == 3, "the window is closed"
    sequence = give(farm, devices[:1])
    farm.run(POLL_S)
    monkeypatch.setattr(shelf_module, "WINDOW", 500)
    sent = []
    original = farm.gateway._transport.publish
    monkeypatch.setattr(
        farm.gateway._transport,
        "publish",
        lambda topic, payload, **how: (sent.append((topic, bool(payload))), original(topic, payload, **how))[
            1
        ],
    )
    farm.run(2)
    assert {id_: command.sequence for id_, command in ordered(farm).items()} == {devices[0].id: sequence}
    assert (TOPICS.command(devices[0].id), False) not in sent


def test_the_commands_of_a_fleet_go_out_a_window_at_a_time(farm, monkeypatch):
    monkeypatch.setattr(shelf_module, "WINDOW", 2)
    devices = farm.devices(7)
    transport, most = farm.gateway._transport, 0
    original = transport.publish

    def publish(topic, payload, **how):
        nonlocal most
        most = max(most, len(farm.gateway._shelf._unacknowledged) + 1)
        return original(topic, payload, **how)

    monkeypatch.setattr(transport, "publish", publish)
    give(farm, devices)
    farm.run(3)
    assert len(ordered(farm)) == 7
    assert most == 2


def test_commands_need_no_head_but_a_gateway_that_is_not_behind(tmp_path):
    farm = Farm(tmp_path / "gateway", publish=False)
    (device,) = farm.devices(1)
    give(farm, [device])
    farm.run(POLL_S)
    assert len(ordered(farm)) == 1
    with farm.store.transaction():
        farm.store.note_seen(HeadVersion(3, 3))
    farm.restart()
    give(farm, [device], CommandKind.RESUME)
    farm.run(5)
    assert ordered(farm)[device.id].kind is CommandKind.PAUSE, (
        "what is restored may be older than what is out"
    )
