from __future__ import annotations

import logging
import random
import shutil
from dataclasses import replace

import pytest

from fedclient.crypto import keys
from fedclient.errors import StorageDamaged, StorageError, StorageFull, WireError
from fedclient.gateway import releases, server
from fedclient.gateway.desk import manifest_of
from fedclient.gateway.roster import Standing
from fedclient.gateway.server import SETTLE_S, Gateway, found, open_desk
from fedclient.transport.memory import MemoryBroker, MemoryTransport
from fedclient.values import Broker, HeadVersion, Reason, ReceiptStatus
from tests.gateway.harness import SETTINGS, TOPICS, Device, Farm, content

BROKER = Broker(host="localhost", port=1883)


def complete(farm, devices):
    for device in devices:
        device.update()
    farm.settle(*devices)


def test_a_round_closes_when_the_cohort_is_complete(farm):
    devices = farm.devices(3)
    assert devices[0].manifest.head_version == HeadVersion(1, 1)
    before = farm.head()
    envelopes = [device.update() for device in devices]
    farm.settle(*devices)
    for device, envelope in zip(devices, envelopes, strict=True):
        receipt = device.receipt_for(envelope)
        assert (receipt.status, receipt.reason, receipt.counter) == (ReceiptStatus.COUNTED, Reason.NONE, 1)
        assert device.manifest.head_version == HeadVersion(1, 2)
    assert (farm.head() != before).any()


def test_a_round_tells_what_it_took(farm):
    devices = farm.devices(3)
    sent = sum(len(device.pack(counter=1)) for device in devices)
    complete(farm, devices)
    ((version, made),) = farm.store.rounds()
    assert (version, made.counted, made.accuracy) == (HeadVersion(1, 2), 3, None)
    assert sent < made.bytes_up < sent + 3 * 80, "the MQTT header is on the wire, too"
    assert made.bytes_down > 3 * 100
    assert 0 < made.seconds < 60
    assert made.closed_unix_s == farm.unix_s


def test_what_waits_behind_a_complete_cohort_is_for_the_next_version(farm):
    devices = farm.devices(4)
    complete(farm, devices)
    assert [row[3] for row in farm.store.ledger()] == [2, 2, 2]
    assert devices[3].receipts[0].reason is Reason.LATE


def test_rule_4_5_the_deadline_closes_with_the_minimum_and_is_extended_below_it(tmp_path):
    farm = Farm(tmp_path / "gateway", server.GatewaySettings(cohort=9, min_devices=3, deadline_s=60.0))
    devices = farm.devices(3)
    complete(farm, devices[:2])
    farm.run(200)
    assert farm.store.current() == HeadVersion(1, 1)
    assert len(list(farm.store.buffered())) == 2
    complete(farm, devices[2:])
    farm.run(61)
    assert farm.store.current() == HeadVersion(1, 2)
    assert [row[3] for row in farm.store.ledger()] == [2, 2, 2]


# --- PROTOCOL 4.6: restored from a backup ------------------------------------------------------------
@pytest.fixture
def restored(tmp_path):
    """A farm two versions on, and its devices, whose database is then put back to the first version."""
    farm = Farm(tmp_path / "gateway")
    devices = farm.devices(3)
    farm.store.close()
    shutil.copytree(farm.folder, tmp_path / "backup")
    farm.broker.part("gateway")
    farm.broker.heal("gateway")
    farm.open()
    farm.run(5)
    for _ in range(2):
        complete(farm, devices)
    assert devices[0].manifest.head_version == HeadVersion(1, 3)
    farm.store.close()
    shutil.rmtree(farm.folder)
    shutil.copytree(tmp_path / "backup", farm.folder)
    farm.broker.part("gateway")
    farm.broker.heal("gateway")
    return farm, devices


def test_rule_4_6_our_own_manifest_above_the_database_stops_publishing(restored, caplog):
    farm, devices = restored
    before = dict(farm.broker._retained)
    farm.open()
    with caplog.at_level(logging.CRITICAL):
        farm.run(5)
    assert "gateway recover" in caplog.text
    assert farm.broker._retained == before, "nothing was published over what devices know"
    waiting = devices[0].update()
    farm.settle(*devices)
    assert devices[0].receipt_for(waiting).status is ReceiptStatus.DEFER
    assert farm.store.current() == HeadVersion(1, 1)

    farm.restart()  # it stays so until somebody recovers
    assert farm.broker._retained == before
    releases.recover(farm.desk)
    farm.settle(*devices)
    assert devices[0].manifest.head_version == HeadVersion(2, 4)
    devices[0].receipts.clear()
    devices[0].send(waiting)
    farm.settle(*devices)
    receipt = devices[0].receipt_for(waiting)
    assert (receipt.status, receipt.reason) == (ReceiptStatus.NOT_COUNTED, Reason.GENERATION)
    complete(farm, devices)
    assert farm.store.current() == HeadVersion(2, 5)


def test_rule_4_6_a_known_head_is_deferred_too_while_stopped(restored):
    farm, devices = restored
    farm.open()
    farm.run(5)
    old = farm.store.base(HeadVersion(1, 1))
    envelope = devices[0].update(base=old)
    farm.settle(*devices)
    assert devices[0].receipt_for(envelope).status is ReceiptStatus.DEFER
    assert farm.store.ledger() == []


def test_rule_4_6_a_devices_floor_above_the_database_stops_publishing(restored):
    farm, devices = restored
    farm.broker.stop()  # the broker remembers nothing: only devices know better
    farm.broker.start()
    for device in devices:
        device.transport.connect(0.0)
        device.listen()
    farm.open()
    farm.run(5)
    devices[0].status(floor=HeadVersion(1, 3))
    farm.settle(*devices)
    assert farm.store.seen() == HeadVersion(1, 3)
    envelope = devices[0].update(base=farm.store.base(HeadVersion(1, 1)))
    farm.settle(*devices)
    assert devices[0].receipt_for(envelope).status is ReceiptStatus.DEFER
    assert releases.recover(farm.desk) == HeadVersion(2, 4)


def test_rule_4_6_the_same_version_made_a_second_time_stops_publishing(restored):
    farm, devices = restored
    first = farm.broker._retained[TOPICS.manifest]
    farm.broker.stop()
    farm.broker.start()
    farm.open()
    farm.run(5)
    for device in devices:
        device.transport.connect(0.0)
    farm.settle(*devices)
    for _ in range(2):
        for device in devices:
            device.update(body=b"\x20")  # other updates than the first time: other heads
        farm.settle(*devices)
    assert farm.store.current() == HeadVersion(1, 3)
    farm.broker.route(TOPICS.manifest, first[0], qos=1, retain=True)
    farm.run()
    assert farm.store.seen() > farm.store.current()


def test_a_manifest_that_we_did_not_sign_stops_nothing(farm):
    ours = manifest_of(farm.store.releases(1)[0])
    forged = farm.desk.release(replace(ours, head_version=HeadVersion(9, 9))).signed
    for damaged in (b"", b"garbage", forged[:-1] + bytes([forged[-1] ^ 1])):
        farm.broker.route(TOPICS.manifest, damaged, qos=1, retain=True)
        farm.run()
    assert farm.store.seen() == HeadVersion(0, 0)
    farm.broker.route(TOPICS.manifest, forged, qos=1, retain=True)
    farm.run()
    assert farm.store.seen() == HeadVersion(9, 9), "this one we did sign"


@pytest.mark.parametrize("foreign", [b"", b"garbage", "older"])
def test_rule_4_7_what_a_stranger_puts_in_the_place_of_our_manifest_does_not_stay(farm, foreign):
    first = farm.store.releases(1)[0].signed
    farm.run()
    releases.rollback(farm.desk, 1)
    farm.run(3.0)
    newest = farm.store.releases(1)[0].signed
    retained = farm.broker._retained
    (model,) = (topic for topic, (payload, _) in retained.items() if payload == b"a model")
    for topic in (TOPICS.manifest, model):
        farm.broker.route(topic, first if foreign == "older" else foreign, qos=1, retain=True)
    farm.run(20.0)
    assert retained[TOPICS.manifest][0] == newest
    assert retained[model][0] == b"a model", "everything is put out again"


# --- other processes ---------------------------------------------------------------------------------
def test_a_running_gateway_notices_what_another_process_publishes(farm):
    (device,) = farm.devices(1)
    other = open_desk(farm.folder, farm.settings, lambda: farm.unix_s)
    releases.rollback(other, 1)
    farm.settle(device)
    assert device.manifest.head_version == HeadVersion(2, 2)
    with other.store.transaction():
        other.store.roster.set_standing(device.id, Standing.REVOKED)
    refused = device.update()
    farm.settle(device)
    assert device.receipt_for(refused).reason is Reason.REVOKED
    other.store.close()


def test_an_update_that_crosses_a_publish_is_judged_against_what_was_committed(farm):
    (device,) = farm.devices(1)
    envelope = device.update()
    releases.rollback(farm.desk, 1)  # between two looks of the gateway at the database
    farm.gateway.service((), farm.now_s)
    farm.settle(device)
    assert device.receipt_for(envelope).reason is Reason.GENERATION
    assert farm.store.ledger() == []


# --- the loop ----------------------------------------------------------------------------------------
def test_it_listens_before_it_publishes(tmp_path):
    found(tmp_path / "gateway", "farm", BROKER)
    desk = open_desk(tmp_path / "gateway", SETTINGS)
    broker = MemoryBroker()
    gateway = Gateway(transport=MemoryTransport(broker, "gateway"), desk=desk, jitter=random.Random(1))
    releases.publish(desk, content())
    gateway.start(100.0)
    gateway.service((), 100.0)
    gateway.service((), 100.0 + SETTLE_S - 0.01)
    assert broker._retained == {}
    assert gateway.deadline_s() == 100.0 + SETTLE_S
    gateway.service((), 100.0 + SETTLE_S)
    assert TOPICS.manifest in broker._retained


def test_attempts_to_connect_back_off_with_jitter(farm):
    farm.broker.stop()
    pauses = []
    for _ in range(12):
        farm.gateway.service((), farm.now_s)
        at = farm.gateway._connect_at
        if at is not None:
            pauses.append(at - farm.now_s)
            farm.now_s = at
    assert all(0.5 * 2**n <= pause <= 2**n for n, pause in enumerate(pauses[:6])), pauses
    assert max(pauses) <= 60
    assert len({round(pause / 60, 6) for pause in pauses[-4:]}) > 1
    farm.broker.start()
    farm.run(120)
    assert farm.gateway._online


def test_an_idle_gateway_sleeps(farm):
    wakes, end_s = 0, farm.now_s + 60
    while farm.now_s < end_s:
        farm.gateway.service((), farm.now_s)
        assert farm.gateway.deadline_s() > farm.now_s
        farm.now_s, wakes = farm.gateway.deadline_s(), wakes + 1
    assert wakes <= 61


@pytest.mark.parametrize("at", ["add_receipt", "COMMIT"])
def test_a_full_disk_answers_nothing_counts_nothing_and_passes(farm, monkeypatch, at):
    (device,) = farm.devices(1)
    with monkeypatch.context() as patched:
        original = type(farm.store._db).execute

        def execute(database, sql, *parameters):
            if (at == "COMMIT" and sql == "COMMIT") or (
                at == "add_receipt" and sql.startswith("INSERT INTO receipt")
            ):
                raise StorageFull("no room: make some")
            return original(database, sql, *parameters)

        patched.setattr(type(farm.store._db), "execute", execute)
        envelope = device.update()
        farm.settle(device)
    assert (farm.store.ledger(), device.receipts) == ([], [])
    farm.run(10)
    device.send(envelope)
    farm.settle(device)
    assert device.receipt_for(envelope).status is ReceiptStatus.COUNTED
    assert farm.gateway._collection.state.updates == 1


def test_a_lost_connection_loses_receipts_and_nothing_else(farm):
    (device,) = farm.devices(1)
    farm.broker.lose = lambda topic: topic.endswith("/receipt")
    envelope = device.update()
    farm.settle(device)
    assert device.receipts == []
    farm.broker.lose = lambda _: False
    device.send(envelope)
    farm.settle(device)
    assert device.receipt_for(envelope).status is ReceiptStatus.COUNTED
    assert len(farm.store.ledger()) == 1


def test_an_inbox_that_is_full_drops_and_says_so(farm, monkeypatch, caplog):
    (device,) = farm.devices(1)
    monkeypatch.setattr(server, "MAX_INBOX_MESSAGES", 5)
    for number in range(9):
        device.send(bytes([number]))
    with caplog.at_level(logging.WARNING):
        farm.settle(device)
    assert caplog.text.count("dropped a message") == 4
    assert len(device.receipts) == 5


def test_one_device_does_not_keep_others_out_of_the_inbox(farm, monkeypatch):
    flooder, honest = farm.devices(2)
    monkeypatch.setattr(server, "MAX_INBOX_MESSAGES", 2000)
    for _ in range(3000):
        flooder.send(b"garbage")
    for _ in range(20):
        flooder.send(bytes(4_000_000))
    update = honest.update()
    farm.settle(flooder, honest)
    assert honest.receipt_for(update) is not None
    assert not farm.gateway._waiting
    again = flooder.update()
    farm.settle(flooder)
    assert flooder.receipt_for(again) is not None  # nothing is held against anybody later


def test_other_topics_are_ignored(farm):
    stranger = MemoryTransport(farm.broker, "x")
    stranger.connect(0.0)
    for topic in ("fl/v1/farm/up/SHOUT/update", "fl/v1/farm/up/abc/none", "fl/v1/barn/up/a/update"):
        stranger.publish(topic, b"x")
    farm.run()
    assert farm.gateway._online


def test_rule_8_what_devices_say_of_being_online_is_input_to_nothing(farm, caplog):
    (device,) = farm.devices(1)
    topic = TOPICS.online(device.id)
    heard = []
    original = farm.gateway._received
    farm.gateway._received = lambda event: (heard.append(event.topic), original(event))
    for said in (b"online", b"offline", b"", b"garbage", bytes(100_000)):
        device.transport.publish(topic, said, retain=True)
    farm.broker.stop()
    farm.broker.start()
    device.transport.connect(0.0)
    device.transport.publish(topic, b"online", retain=True)
    farm.run(120)
    assert topic not in heard
    assert farm.gateway._online
    assert (device.receipts, farm.store.alarms(), farm.store.roster.statuses()) == ([], [], {})
    assert "ALARM" not in caplog.text


def test_duplicates_in_one_batch_are_one_update(tmp_path):
    farm = Farm(tmp_path / "gateway")
    farm.broker._duplicate = 1.0
    devices = farm.devices(2)
    complete(farm, devices)
    assert len(farm.store.ledger()) == 2
    assert len(set(devices[0].raw)) == 1


# --- the state folder --------------------------------------------------------------------------------
def test_a_folder_is_made_once_with_private_keys(tmp_path):
    folder = tmp_path / "gateway"
    found(folder, "farm", BROKER)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    before = {path.name: path.read_bytes() for path in folder.glob("*.key")}
    assert len(before) == 2
    with pytest.raises(StorageError, match="has a federation already"):
        found(folder, "barn", BROKER)
    assert {path.name: path.read_bytes() for path in folder.glob("*.key")} == before
    desk = open_desk(folder, SETTINGS)
    assert (desk.federation, desk.store.federation()) == ("farm", ("farm", BROKER))


def test_a_bad_federation_name_makes_nothing(tmp_path):
    with pytest.raises(WireError, match="federation name"):
        found(tmp_path / "gateway", "Farm!", BROKER)
    assert not (tmp_path / "gateway").exists()


def test_a_folder_without_gateway_says_what_to_do_and_stays_empty(tmp_path):
    with pytest.raises(StorageError, match="gateway init"):
        open_desk(tmp_path, SETTINGS)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_key_is_no_new_identity(tmp_path):
    found(tmp_path / "gateway", "farm", BROKER)
    path = tmp_path / "gateway" / "signing.key"
    path.write_bytes(b"fedclient-ed25519-1 damaged\n")
    with pytest.raises(StorageDamaged):
        open_desk(tmp_path / "gateway", SETTINGS)


def test_a_device_of_another_federation_is_unknown(farm):
    key = keys.SigningKey.generate()
    assert farm.store.roster.device(key.device_id) is None
    assert Device(farm.broker, farm.desk, 5).id != key.device_id
