from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from fedclient import config
from fedclient.config import GatewaySettings, PrivacySettings
from fedclient.crypto.keys import SigningKey
from fedclient.errors import FinalError, TransientError
from fedclient.model.head import write_head
from fedclient.testing.broker import EmbeddedBroker, Mosquitto
from fedclient.testing.fleet import Fleet
from fedclient.transport.base import Connected, Received
from fedclient.transport.mqtt import MqttTransport
from fedclient.values import Broker, Codec, Plan
from tests.transport.drive import drive, drive_one, now_s, settings

PATIENCE_S = 60.0
PLAN = Plan(epochs=2, learning_rate=0.5, codec=Codec(density=0.5))


@pytest.fixture
def port(broker: EmbeddedBroker | Mosquitto) -> int:
    return broker.port


def fleet_of(devices: int, root: Path, port: int) -> Fleet:
    holdout = root / "holdout.npz"
    x = np.random.default_rng(0).normal(size=(64 * (devices + 1), 4)).astype(np.float32)
    y = (x[:, 0] > 0).astype(int)
    np.savez(holdout, x=x[:64], y=y[:64])
    gateway = GatewaySettings(cohort=devices, min_devices=devices, holdout=holdout)
    fleet = Fleet(root / "fleet", Broker(host="127.0.0.1", port=port), gateway)
    fleet.publish(write_head(4, 2), PLAN)
    for number in range(1, devices + 1):
        own = slice(64 * number, 64 * (number + 1))
        fleet.add_device(x[own], y[own].tolist())
    return fleet


def finished(fleet: Fleet) -> set[tuple[str, int]]:
    return {(device.id, one.counter) for device in fleet.devices for one in device.history()}


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_owners_privacy_floor_is_in_every_devices_settings(tmp_path: Path) -> None:
    nowhere, floor = Broker(host="127.0.0.1", port=1), PrivacySettings(min_samples=50)
    with Fleet(tmp_path, nowhere, GatewaySettings(), privacy=floor) as fleet:
        fleet.publish(write_head(4, 2), PLAN)
        fleet.add_device(np.zeros((1, 4), np.float32), [0])
    assert config.load(tmp_path / "device-1.toml", {}, None).privacy == floor


def test_rounds_are_made_and_every_update_is_counted_once(port: int, tmp_path: Path) -> None:
    with fleet_of(3, tmp_path, port) as fleet:
        fleet.start()
        fleet.wait_until(lambda: len(fleet.rounds()) >= 2, PATIENCE_S, "2 rounds")
        assert all(5 < device.pss_mib() < 60 for device in fleet.devices)
        pids = [process.pid for process in fleet.processes()]
        fleet.drain()
        assert [device.process.pid for device in fleet.devices] == [None] * 3
        assert all(device.state().unsettled is None for device in fleet.devices)
        assert finished(fleet) == fleet.counted()
        assert all(one.status == "counted" for device in fleet.devices for one in device.history())
        first, second, *_ = fleet.rounds()
        assert (first.counted, second.counted) == (3, 3)
        assert second.accuracy is not None
        assert second.accuracy > 0.7
        assert all(up > 0 and down > 0 for up, down in (device.traffic() for device in fleet.devices))
    assert not any(alive(pid) for pid in pids if pid)


def test_a_device_and_the_gateway_go_on_after_kill_9(port: int, tmp_path: Path) -> None:
    with fleet_of(2, tmp_path, port) as fleet:
        fleet.start()
        fleet.wait_until(lambda: len(fleet.rounds()) >= 1, PATIENCE_S, "a round")
        victims = [fleet.devices[0].process, fleet.gateway]
        for process in victims:
            pid = process.pid
            process.kill()
            assert process.pid is None
            assert pid is not None
            assert not alive(pid)
            before = len(fleet.rounds())
            process.start()
            fleet.wait_until(lambda before=before: len(fleet.rounds()) > before, PATIENCE_S, "more rounds")
        ids = [device.id for device in fleet.devices]
        fleet.drain()
        assert finished(fleet) == fleet.counted()
        assert [SigningKey.load(device.folder.key).device_id for device in fleet.devices] == ids


def test_draining_waits_for_receipts_that_are_still_out(port: int, tmp_path: Path) -> None:
    with fleet_of(2, tmp_path, port) as fleet:
        fleet.start()
        fleet.wait_until(lambda: len(fleet.rounds()) >= 1, PATIENCE_S, "a round")
        unsettled = lambda: [device.state().unsettled for device in fleet.devices]  # noqa: E731
        while None in unsettled():
            fleet.gateway.start()
            at_work = lambda: all(d.state().running or d.state().unsettled for d in fleet.devices)  # noqa: E731
            fleet.wait_until(at_work, PATIENCE_S, "both train")
            fleet.gateway.kill()
            with suppress(TransientError):  # the last receipt, or the last head, was on its way
                fleet.wait_until(lambda: None not in unsettled(), 5.0, "updates without a receipt")
        assert finished(fleet) - fleet.counted()
        fleet.gateway.start()
        fleet.drain()  # ends the devices long before the gateway can answer, so that they have to start again
        assert unsettled() == [None, None]
        assert finished(fleet) == fleet.counted()


def retained(port: int) -> list[str]:
    """Return the topics that the broker has retained messages on; what comes after those ends the list."""
    client = MqttTransport(settings(port, client_id="reader"))
    client.connect(now_s())
    drive_one(client, Connected)
    client.subscribe("fl/#")
    client.publish("fl/end", b"")
    last = lambda seen: any(isinstance(e, Received) and e.topic == "fl/end" for e in seen[0])  # noqa: E731
    (events,) = drive([client], last)
    client.close()
    return [event.topic for event in events if isinstance(event, Received) and event.retained]


@pytest.mark.mosquitto
def test_nothing_is_left_on_a_broker_that_others_use(mosquitto: str, tmp_path: Path) -> None:
    with Mosquitto(mosquitto) as broker, fleet_of(2, tmp_path, broker.port) as fleet:
        fleet.start()
        fleet.wait_until(lambda: len(fleet.rounds()) >= 1, PATIENCE_S, "a round")
        assert len(retained(broker.port)) >= 3  # manifest, model, head
        fleet.clear_broker()
        assert retained(broker.port) == []
        broker.kill()
        fleet.clear_broker()  # nothing to be done there


@pytest.mark.mosquitto
def test_a_process_that_ends_by_itself_is_an_error_with_its_last_word(mosquitto: str, tmp_path: Path) -> None:
    with Mosquitto(mosquitto) as broker, fleet_of(2, tmp_path, broker.port) as fleet:
        fleet.start()
        os.kill(fleet.gateway.pid or 0, signal.SIGKILL)
        with pytest.raises(FinalError, match="gateway ended by itself with exit code -9: "):
            fleet.wait_until(lambda: False, PATIENCE_S, "nothing")


def test_what_does_not_come_is_an_error_that_says_what_was_waited_for(tmp_path: Path) -> None:
    with fleet_of(2, tmp_path, 1) as fleet:  # nothing is started
        with pytest.raises(TransientError, match=r"waited 0\.1 s for a miracle \(gateway: it said nothing"):
            fleet.wait_until(lambda: False, 0.1, "a miracle")
        fleet.drain()  # nothing to wait for


def test_the_policy_says_which_gates_are_off_and_leaves_privacy_alone(tmp_path: Path) -> None:
    with fleet_of(2, tmp_path, 1) as fleet:
        assert "max_cpu_percent = false" in fleet.policy
        assert "dwell_s = 0.0" in fleet.policy
        text = (fleet.root / "device-1.toml").read_text()
    assert fleet.policy.replace(", ", "\n") in text
    assert "[privacy]" not in text
