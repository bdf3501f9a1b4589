"""The books of a federation that has come to rest: what devices finished against what was counted."""

from __future__ import annotations

from collections import Counter
from contextlib import closing

import numpy as np

from fedclient import codec
from fedclient.crypto import cose
from fedclient.gateway.desk import manifest_of
from fedclient.values import HeadVersion
from fedclient.wire import messages
from tests.system.world import Device, World

# What a device writes into its history for each status of a receipt.
_OUTCOME = {"COUNTED": "counted", "NOT_COUNTED": "returned", "REFUSED": "refused"}


def check(world: World) -> Counter[str]:
    """Fail unless every finished update is settled once, alike on both ends; return how many ended how."""
    outcomes: Counter[str] = Counter()
    for device in world.devices:
        history = device.history()
        outcomes.update(str(status) for _, status, _ in history.values())
        _check_device(world, device, history)
    counted = world.ask("SELECT device, generation, version, counter FROM counted")
    assert len({row[:3] for row in counted}) == len(counted), "at most one counted for each base"
    assert len({(row[0], row[3]) for row in counted}) == len(counted), "no counter is counted twice"
    assert outcomes["counted"] == len(counted)
    _check_heads(world)
    return outcomes


def _check_device(world: World, device: Device, history: dict) -> None:
    assert sorted(history) == list(range(1, len(history) + 1)), f"{device.name}: counters have a gap"
    answered = {
        counter: _OUTCOME[messages.decode_receipt(cose.peek(receipt).payload).status.name]
        for counter, receipt in world.ask(
            "SELECT counter, receipt FROM receipt WHERE device = ? AND counter > 0", device.id
        )
    }
    assert answered == {counter: status for counter, (_, status, _) in history.items()}, device.name
    counted = world.ask("SELECT generation, version, counter FROM counted WHERE device = ?", device.id)
    theirs = {(row[2], HeadVersion(row[0], row[1])) for row in counted}
    ours = {(counter, head) for counter, (head, status, _) in history.items() if status == "counted"}
    assert theirs == ours, f"{device.name}: the gateway counted what its history does not say"


def _check_heads(world: World) -> None:
    """Every head follows the one before it, and was made of the updates that the books name for it."""
    heads = world.ask("SELECT generation, version, counted FROM head ORDER BY generation, version")
    assert [row[1] for row in heads] == list(range(1, len(heads) + 1))
    into = Counter(row[0] for row in world.ask("SELECT went_into FROM counted WHERE went_into IS NOT NULL"))
    for generation, version, counted in heads:
        if counted is not None:
            assert into[version] == counted >= 3, f"head {generation}.{version}"


def replay(world: World) -> int:
    """Make every head again out of the bodies that devices still have; return how many were made.

    Fails unless each is bit for bit what the gateway published, however often it was killed.
    """
    bodies = {
        (device.id, counter): body
        for device in world.devices
        for counter, body in device.ask("SELECT counter, body FROM outbox WHERE state = 'counted'")
    }
    made = 0
    desk = world.desk()
    with closing(desk.store) as store:
        manifests = {one.head_version: manifest_of(one) for one in store.releases(10**6)}
        for version, _ in store.rounds():
            base = manifests[HeadVersion(version.generation, version.version - 1)]
            rows = world.ask(
                "SELECT device, counter, weight FROM counted WHERE went_into = ? ORDER BY row",
                version.version,
            )
            if not all(row[:2] in bodies for row in rows):
                continue  # a device keeps the bodies of its last updates only
            old = np.frombuffer(store.blob(base.head.hash), "<f4")
            total = np.zeros(len(old))
            for device, counter, weight in rows:
                codec.decode(bodies[device, counter], base.tensors, base.plan.codec).add_to(total, weight)
            expected = (old + total / sum(row[2] for row in rows)).astype("<f4")
            assert store.blob(manifests[version].head.hash) == expected.tobytes(), f"head {version}"
            made += 1
    return made
