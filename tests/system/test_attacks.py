"""Strangers on a real broker: nothing of theirs is counted, they learn nothing, and the fleet goes on.

What the gateway makes of each envelope is tested without a broker in tests/gateway; here the same
attacks meet real processes, and what no gateway sees: retained garbage and packets too large.
"""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from fedclient import codec
from fedclient.crypto.keys import SealingKey, SigningKey
from fedclient.device import enrolment
from fedclient.downlink import DeviceDownlink
from fedclient.testing.broker import Mosquitto
from fedclient.uplink import DeviceUplink, envelope_hash
from fedclient.values import (
    Codec,
    Manifest,
    MessageType,
    Plan,
    Reason,
    Receipt,
    ReceiptStatus,
    Update,
    parameters,
)
from fedclient.wire.topics import Topics
from tests.system.stranger import Stranger
from tests.system.world import FEDERATION, World

pytestmark = pytest.mark.mosquitto
TOPICS = Topics(FEDERATION)
STALENESS = 5
PLAN = Plan(epochs=2, learning_rate=0.3, codec=Codec(density=0.3), max_staleness=STALENESS)
UNOPENABLE = (ReceiptStatus.REFUSED, Reason.UNOPENABLE, 0)
COSE = b"\xd2"  # what our gateway's messages begin with, and garbage here does not
BATCH = 100  # messages at once: brokers drop what they cannot queue
RANDOM = random.Random(5)


class Outlaw:
    """A device that is enrolled, and a program that has its key."""

    def __init__(self, world: World, stranger: Stranger) -> None:
        self.world = world
        self.stranger = stranger
        self.device = world.add_device()
        world.devices.remove(self.device)  # its agent never runs
        stored = enrolment.load(self.device.folder.enrolment)
        assert stored is not None
        self.id = self.device.id
        self.uplink = DeviceUplink(
            federation=FEDERATION,
            key=SigningKey.load(self.device.folder.key),
            gateway_sealing_key=stored.invitation.sealing_key,
        )
        self._downlink = DeviceDownlink(federation=FEDERATION, gateway_key=stored.invitation.signing_key)
        self.counter = 0
        assert self.answers([stored.request], MessageType.ENROL)[0].status is ReceiptStatus.ENROLLED

    def manifests(self) -> list[Manifest]:
        """All that were published, in order; not what strangers put there."""
        return [
            self._downlink.open_manifest(payload)
            for payload in self.stranger.on(TOPICS.manifest)
            if payload[:1] == COSE and len(payload) > 100
        ]

    def pack(self, *, old: bool = False, uplink: DeviceUplink | None = None) -> bytes:
        """Pack an update as good as any, on the newest head or on the first."""
        manifest = self.manifests()[0 if old else -1]
        self.counter += 1
        delta = np.random.default_rng(self.counter).normal(size=parameters(manifest.tensors))
        body = codec.encode(delta.astype(np.float32), manifest.tensors, PLAN.codec).body
        update = Update(
            counter=self.counter,
            head_version=manifest.head_version,
            bucket=5,
            accuracy_percent=None,
            body=body,
        )
        return (uplink or self.uplink).update(update, manifest.base)

    def answers(
        self, envelopes: list[bytes], kind: MessageType = MessageType.UPDATE, as_id: str = ""
    ) -> list[Receipt]:
        """Publish them all, and return the receipt for each."""
        who = as_id or self.id
        found: list[Receipt] = []
        for at in range(0, len(envelopes), BATCH):
            batch = envelopes[at : at + BATCH]
            self.stranger.publish_all(TOPICS.up(who, kind), batch)
            wanted = {envelope_hash(envelope) for envelope in batch}
            self.world.wait(lambda: wanted <= self.receipts(who).keys(), "every message is answered")  # noqa: B023
            receipts = self.receipts(who)
            found += [receipts[envelope_hash(envelope)] for envelope in batch]
        return found

    def receipts(self, who: str) -> dict[bytes, Receipt]:
        """Return the receipts of a device by envelope; each is only ever one."""
        found: dict[bytes, Receipt] = {}
        for payload in set(self.stranger.on(TOPICS.receipt(who))):
            if payload[:1] != COSE:
                continue  # a stranger's
            receipt = self._downlink.open_receipt(payload, who)
            found[receipt.envelope_hash] = receipt
        return found


def judged(receipt: Receipt) -> tuple:
    return receipt.status, receipt.reason, receipt.counter


@pytest.fixture(scope="module")
def broker(mosquitto):
    with Mosquitto(mosquitto) as running:
        yield running


@pytest.fixture(scope="module")
def stranger(broker):
    with Stranger(broker.port, f"fl/v1/{FEDERATION}/#") as connected:
        yield connected


@pytest.fixture(scope="module")
def running(tmp_path_factory, broker, stranger):
    with World(tmp_path_factory.mktemp("attacked"), broker.port, plan=PLAN) as made:
        for _ in range(3):
            made.add_device()
        made.start()
        made.wait_for_more()
        yield made


@pytest.fixture(scope="module")
def outlaw(running, stranger):
    return Outlaw(running, stranger)


@pytest.fixture
def world(running, outlaw):
    """A fleet that must have accepted nothing of the outlaw's, and still be at work, after each test."""
    before = running.counted(outlaw.device)
    starts = [process.starts for process in running.processes()]
    yield running
    running.wait_for_more()
    assert running.counted(outlaw.device) == before, "0 accepted"
    assert [process.starts for process in running.processes()][: len(starts)] == starts, "nobody died"
    assert set(running.ask("SELECT standing, conflicts FROM device")) == {("active", 0)}


def uniform(receipts: list[Receipt]) -> set[tuple]:
    return {judged(receipt) for receipt in receipts}


# --- damaged, cut, stolen ----------------------------------------------------------------------------
def test_rule_3_a_bit_flipped_in_any_byte_gets_the_one_answer(world, outlaw):
    good = outlaw.pack()
    flipped = [bytes([*good[:at], good[at] ^ 1 << at % 8, *good[at + 1 :]]) for at in range(len(good))]
    assert uniform(outlaw.answers(flipped)) == {UNOPENABLE}
    print(f"{len(flipped)} envelopes with a flipped bit: 0 accepted")


def test_rule_3_an_envelope_cut_at_any_length_gets_the_one_answer(world, outlaw):
    good = outlaw.pack()
    cut = [good[:length] for length in range(len(good))]
    assert uniform(outlaw.answers([*cut, good + b"\0"])) == {UNOPENABLE}
    print(f"{len(cut)} cut envelopes: 0 accepted")


def test_rule_3_what_is_meant_for_others_gets_the_one_answer(world, outlaw):
    victim = world.devices[0]
    strange_gateway = replace(outlaw.uplink, gateway_sealing_key=SealingKey.generate().public)
    strange_federation = replace(outlaw.uplink, federation="barn")
    strange_key = replace(outlaw.uplink, key=SigningKey.generate())
    for uplink in (strange_gateway, strange_federation, strange_key):
        assert uniform(outlaw.answers([outlaw.pack(uplink=uplink)])) == {UNOPENABLE}
    counted = len(world.counted(victim))
    assert uniform(outlaw.answers([outlaw.pack()], as_id=victim.id)) == {UNOPENABLE}
    assert len(set(world.counted(victim))) >= counted


def test_rule_4_2_a_replay_gets_the_first_receipt_and_is_counted_once(world, outlaw, stranger):
    victim, other, _ = world.devices
    topic = TOPICS.up(victim.id, MessageType.UPDATE)
    answered = outlaw.receipts(victim.id)  # other tests' garbage was on this topic too, whatever their order
    counted_hashes = {sha for sha, receipt in answered.items() if receipt.status is ReceiptStatus.COUNTED}
    sent = [each for each in dict.fromkeys(stranger.on(topic)) if envelope_hash(each) in counted_hashes][:5]
    assert sent
    first = outlaw.answers(sent, as_id=victim.id)
    heard = len(stranger.on(TOPICS.receipt(victim.id)))
    stranger.publish_all(topic, sent * 3)
    world.wait(
        lambda: len(stranger.on(TOPICS.receipt(victim.id))) >= heard + 3 * len(sent), "each is answered"
    )
    assert outlaw.answers(sent, as_id=victim.id) == first
    assert {receipt.status for receipt in first} == {ReceiptStatus.COUNTED}
    counted = world.counted(victim)
    assert len(set(counted)) == len(counted)
    assert uniform(outlaw.answers(sent, as_id=other.id)) == {UNOPENABLE}, "nor is it anybody else's"


def test_rule_4_3_an_old_round_is_late(world, outlaw):
    world.wait(lambda: world.version().version > STALENESS + 1, "the first head is too old")
    (receipt,) = outlaw.answers([outlaw.pack(old=True)])
    assert judged(receipt) == (ReceiptStatus.NOT_COUNTED, Reason.LATE, outlaw.counter)


# --- garbage -----------------------------------------------------------------------------------------
def test_garbage_on_every_topic_stops_nobody(world, outlaw, stranger):
    somebody = world.devices[1].id
    kinds = (MessageType.ENROL, MessageType.UPDATE, MessageType.STATUS)
    topics = [TOPICS.up(who, kind) for who in (somebody, outlaw.id, "a" * 16) for kind in kinds]
    topics += [TOPICS.receipt(somebody), TOPICS.manifest]
    prefix = f"fl/v1/{FEDERATION}"
    topics += [f"{prefix}/up/{somebody}/x", f"{prefix}/up/x/update", f"{prefix}/down/{somebody}/command"]
    topics += [f"{prefix}/all/blob/x/y", f"{prefix}/all/blob/{'0' * 32}/0"]
    for topic in topics:
        stranger.publish_all(
            topic, [b"", b"\0", b"\1" + RANDOM.randbytes(100), b"\1" + RANDOM.randbytes(5000), b"\x82" * 5000]
        )
    world.wait_for_more()
    silent = [topic for topic, _ in stranger.heard if topic == TOPICS.receipt("a" * 16)]
    assert silent == [], "who is not enrolled hears nothing"


def test_a_packet_too_large_costs_a_connection(world, outlaw, stranger):
    device = world.devices[2]
    gateway_said, device_said = world.gateway.said(), device.agent.said()
    stranger.publish(TOPICS.up(outlaw.id, MessageType.UPDATE), bytes(5 * 1024 * 1024))
    stranger.publish(TOPICS.receipt(device.id), bytes(1024 * 1024))
    for process, said in ((world.gateway, gateway_said), (device.agent, device_said)):
        world.wait_said(process, r"announced a packet", said)
        world.wait_said(process, r"announced a packet[\s\S]*connected\n", said)


@pytest.mark.parametrize("size", [100, 500_000], ids=["small", "too large for devices"])
def test_rule_4_7_retained_garbage_in_the_place_of_the_manifest_does_not_stay(world, outlaw, stranger, size):
    """Devices that are new have nothing but what the broker keeps, and no head follows without them."""
    veterans = world.devices
    for device in veterans:
        device.agent.stop()
    garbage = b"\0" + RANDOM.randbytes(size)
    newest = outlaw.manifests()[-1]
    for ref in (newest.model, newest.head):
        stranger.publish(TOPICS.blob(ref.hash, 1), garbage, retain=True)
    stranger.publish(TOPICS.manifest, garbage, retain=True)
    world.devices = []
    try:
        for _ in range(3):
            world.add_device()
        for device in world.devices:
            device.agent.start()
        world.wait_for_more()
    finally:
        for device in world.devices:
            device.agent.kill()
        world.devices = veterans
        for device in veterans:
            device.agent.start()
            device.agent.starts -= 1


def test_rule_6_poisoned_blobs_are_asked_for_again_and_healed_by_the_gateways_next_connect(
    world, outlaw, stranger
):
    model = outlaw.manifests()[-1].model
    stranger.publish(TOPICS.blob(model.hash, 1), RANDOM.randbytes(model.size), retain=True)
    device = world.add_device()
    try:
        device.agent.start()
        world.wait_said(device.agent, r"bad copies of a blob", 0)
        world.gateway.kill()
        world.gateway.start()
        world.gateway.starts -= 1
        world.wait(lambda: device.state()["current"] is not None, "it has a head")
    finally:
        world.devices.remove(device)
        device.agent.kill()


def test_the_outlaw_would_have_been_counted(running, outlaw):
    (receipt,) = outlaw.answers([outlaw.pack()])
    assert judged(receipt) == (ReceiptStatus.COUNTED, Reason.NONE, outlaw.counter)
    assert running.counted(outlaw.device) == [outlaw.counter]
