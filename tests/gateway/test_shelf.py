from __future__ import annotations

import hashlib

from fedclient.gateway import releases
from fedclient.gateway.desk import manifest_of
from fedclient.limits import MAX_CHUNK_BYTES
from fedclient.values import HeadVersion
from fedclient.wire.blobs import check_chunk, check_hashes, split
from tests.gateway.harness import TOPICS, Farm, content


def shelf(farm):
    return {topic: payload for topic, (payload, _) in farm.broker._retained.items()}


def blobs_of(manifest):
    return {TOPICS.blob(manifest.head.hash, 1), TOPICS.blob(manifest.model.hash, 1)}


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
    head = found[TOPICS.blob(manifest.head.hash, 1)]
    assert hashlib.sha256(hashlib.sha256(head).digest()).digest() == manifest.head.hash
    assert TOPICS.blob(manifest.head.hash, 0) not in found, "one chunk needs no list"
    assert max(map(len, found.values())) <= MAX_CHUNK_BYTES


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
    new = TOPICS.blob(devices[0].manifest.head.hash, 1)
    assert order.index(new) < order.index(TOPICS.manifest)
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
