"""Older copies come back, receipts get lost, brokers forget: nothing is counted twice, and it goes on."""

from __future__ import annotations

import shutil

import pytest

from fedclient.crypto.keys import SigningKey
from fedclient.testing.broker import Mosquitto
from fedclient.values import Codec, HeadVersion, Plan
from tests.system import ledger
from tests.system.cable import Cable
from tests.system.stranger import Stranger, heads
from tests.system.world import FEDERATION, Device, World

pytestmark = pytest.mark.mosquitto
PREFIX = f"fl/v1/{FEDERATION}"
MANIFEST = f"{PREFIX}/all/manifest"
SYNCHRONOUS = Plan(epochs=5, learning_rate=0.3, codec=Codec(density=0.3), max_staleness=0)


@pytest.fixture
def broker(mosquitto):
    with Mosquitto(mosquitto) as running:
        yield running


@pytest.fixture
def world(tmp_path, broker):
    """Three devices, all of which every head needs."""
    with World(tmp_path, broker.port, plan=SYNCHRONOUS) as made:
        for _ in range(3):
            made.add_device()
        yield made


def copy_of(folder):
    copy = folder.with_name(f"{folder.name}.copy")
    shutil.rmtree(copy, ignore_errors=True)
    return shutil.copytree(folder, copy)


def restore(copy, folder):
    shutil.rmtree(folder)
    shutil.copytree(copy, folder)


def conflicts(device: Device) -> int:
    return [reason for _, _, reason in device.history().values()].count("conflict")


def standing(world: World, device: Device) -> tuple[str, int]:
    return world.ask("SELECT standing, conflicts FROM device WHERE id = ?", device.id)[0]


def manifest_key(world: World) -> bytes:
    return SigningKey.load(world.state / "signing.key").public


def check_nothing_twice(world: World) -> None:
    counted = world.ask("SELECT device, generation, version, counter FROM counted")
    assert len({row[:3] for row in counted}) == len(counted)
    assert len({(row[0], row[3]) for row in counted}) == len(counted)


# --- an older state folder ---------------------------------------------------------------------------
def test_rule_4_2_a_state_folder_restored_goes_on_after_one_conflict_and_the_third_suspends(world):
    device, *_ = world.devices
    world.start()
    world.wait_for_more()
    device.agent.stop()
    copy = copy_of(device.path)
    device.agent.start()
    world.wait_for_more(2)
    for number in (1, 2, 3):
        device.agent.kill()
        restore(copy, device.path)
        device.agent.start()
        world.wait(lambda: conflicts(device) == 1, f"restore {number} makes a conflict")
        if number < 3:
            world.wait_for_more(2)  # every head needs this device
            assert conflicts(device) == 1, "one for each restore"
            assert standing(world, device) == ("active", number)
    assert standing(world, device) == ("suspended", 3)
    world.wait(lambda: device.state()["enrolment"] == "refused", "the device knows that it is suspended")
    check_nothing_twice(world)

    said = world.roster()
    assert said[device.id]["standing"] == "suspended"
    assert [one["device"] for one in said["alarms"]] == [device.id] * 3
    before = world.version()
    world.run("gateway", "devices", "reinstate", device.id, state=world.state)
    world.wait(lambda: world.version() > before, "a reinstated device takes part again")
    assert standing(world, device) == ("active", 0)
    assert HeadVersion(*device.state()["floor"]) >= before, "suspended or not, heads never go back"
    world.wait_for_more()
    check_nothing_twice(world)


def test_rule_4_2_two_devices_with_one_key_are_suspended_and_the_operator_hears_of_it(world):
    original, *_ = world.devices
    world.start()
    world.wait_for_more()
    original.agent.stop()
    twin = Device(world.path, "twin")
    restore(original.path, twin.path)
    assert twin.id == original.id
    world.devices.append(twin)
    world.start()
    world.wait(lambda: standing(world, twin)[0] == "suspended", "the third conflict suspends")
    world.add_device()  # for the others to be enough, and they go on
    world.start()
    world.wait_for_more(2)
    check_nothing_twice(world)
    said = world.roster()
    assert said[twin.id]["standing"] == "suspended"
    assert [one["device"] for one in said["alarms"]] == [twin.id] * 3
    assert "two devices with one key" in said["alarms"][-1]["sentence"]


# --- an older gateway --------------------------------------------------------------------------------
@pytest.mark.parametrize("remembers", [True, False], ids=["broker remembers", "only devices remember"])
def test_rule_4_6_a_gateway_restored_stops_until_recover_and_devices_go_on(world, broker, remembers):
    world.start()
    world.wait_for_more()
    assert world.gateway.stop() == 0
    copy = copy_of(world.state)
    world.gateway.start()
    world.wait_for_more(2)
    published = world.version()
    world.wait(lambda: highest_floor(world) >= published, "a device has seen it")
    world.gateway.kill()
    lost = highest_floor(world)  # the database may have one that nobody saw
    restore(copy, world.state)
    if not remembers:
        broker.restart()
    with Stranger(broker.port, MANIFEST) as stranger:
        since = world.gateway.said()
        world.gateway.start()
        world.wait_said(world.gateway, r"gateway recover", since)
        stopped_at = world.version()
        assert stopped_at < lost
        refused = world.run("gateway", "rollback", "1", state=world.state, code=2)
        assert refused == ""
        world.run("gateway", "recover", state=world.state)
        recovered = world.version()
        assert recovered.generation == 2
        assert recovered.version > lost.version
        world.wait_for_version(HeadVersion(2, recovered.version + 2))
        assert standing_of_all(world) == [("active", 0)] * 3
        check_nothing_twice(world)
        published = heads(stranger, MANIFEST, FEDERATION, manifest_key(world))
        assert not [one for one in published if stopped_at < one < lost], "none is made a second time"
    for device in world.devices:
        assert HeadVersion(*device.state()["floor"]) > lost


def highest_floor(world: World) -> HeadVersion:
    return max(HeadVersion(*device.state()["floor"]) for device in world.devices)


def standing_of_all(world: World) -> list:
    return world.ask("SELECT standing, conflicts FROM device")


# --- a lost receipt ----------------------------------------------------------------------------------
def test_rule_4_2_a_lost_receipt_is_found_again_three_versions_later(world, broker):
    with Cable(broker.port) as cable:
        device = world.add_device()
        device.configure(broker=f"port = {cable.port}")
        world.gateway.start()
        since = device.agent.said()
        device.agent.start()
        world.wait_said(device.agent, r"training on head", since)
        cable.deaf = True  # from now on what the gateway answers is lost
        world.wait(lambda: world.counted(device) == [1], "its update is counted")
        cable.cut = True
        cable.notice()
        residual = device.ask("SELECT data FROM residual")
        assert device.outcomes() == [None]
        world.start()
        world.wait_for_more(3)
        assert device.outcomes() == [None], "nobody told it"
        assert device.state()["unsettled"] == 1, "and it waits"
        device.agent.kill()  # a power cut on top
        device.agent.start()
        cable.deaf = cable.cut = False
        world.wait(lambda: device.outcomes()[0] == "counted", "it hears that its update was counted")
        if len(device.outcomes()) == 1:
            assert device.ask("SELECT data FROM residual") == residual, "counted: nothing is given back"
        assert device.ask("SELECT counter FROM outbox WHERE state = 'returned'") == []
        world.devices[0].agent.stop()  # so that the others need it
        world.wait(lambda: len(world.counted(device)) > 1, "it takes part in what is current now")
        world.drain()
        ledger.check(world)
        assert ledger.replay(world) >= 3
        assert device.history()[1][1:] == ("counted", "none")


# --- floors and forgetful brokers --------------------------------------------------------------------
def test_rule_6_no_older_head_is_taken_after_a_kill(world, broker):
    with Stranger(broker.port, MANIFEST) as stranger:
        world.start()
        world.wait_for_more(2)
        world.gateway.kill()
        device, *_ = world.devices
        newest = device.state()["floor"]
        oldest = next(filter(None, stranger.on(MANIFEST)))
        stranger.publish(MANIFEST, oldest, retain=True)
        device.agent.kill()
        since = device.agent.said()
        device.agent.start()
        world.wait_said(device.agent, r": connected", since)
        stranger.publish(MANIFEST, oldest, retain=True)
        # one connection, in order: when it complains of this, it has read the other
        stranger.publish(f"{PREFIX}/down/{device.id}/receipt", b"no receipt")
        world.wait_said(device.agent, r"not our gateway's", since)
        world.wait(
            lambda: [device.state()[name] for name in ("floor", "current", "wanted")]
            == [newest, newest, None],
            "it has the newest head that it has heard of, and wants no other",
        )
        assert newest >= [1, 2]
        world.gateway.start()
        world.wait_for_more()


def test_rule_4_7_a_broker_that_forgot_everything_gets_it_again(world, broker):
    world.start()
    world.wait_for_more()
    for device in world.devices:
        device.agent.stop()
    with Stranger(broker.port, f"{PREFIX}/all/#") as stranger:
        world.wait(lambda: stranger.on(MANIFEST), "the manifest is retained")
        before = dict(stranger.heard)
    broker.restart()
    with Stranger(broker.port, f"{PREFIX}/all/#") as stranger:
        world.wait(lambda: len(dict(stranger.heard)) >= len(before), "everything is there again")
        assert dict(stranger.heard) == before, "byte for byte"
    late = world.add_device()  # it has nothing yet: model and head come from the new broker
    world.start()
    world.devices[0].agent.kill()  # so that the others need it
    world.wait(lambda: "counted" in late.outcomes(), "a new device takes part")
