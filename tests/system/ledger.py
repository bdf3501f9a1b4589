"""The books of a federation that has come to rest: what devices finished against what was counted."""

from __future__ import annotations

from collections import Counter
from contextlib import closing

import numpy as np

from fedclient import codec
from fedclient.crypto import cose
from fedclient.gateway import canonical
from fedclient.gateway.collection import usual_budget
from fedclient.gateway.desk import manifest_of
from fedclient.values import HeadVersion, parameters
from fedclient.wire import messages
from tests.system.world import Device, World

_ROUNDING = 1e-12  # float64 has 1e-16 of what weights there are
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
    """Make heads again, newest first, out of the bodies that devices still have; return how many were made.

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
        newest = max(manifests)
        left = store.remainder.of(newest, parameters(manifests[newest].tensors))
        for version, _ in reversed(store.rounds()):
            base, manifest = (
                manifests[HeadVersion(version.generation, version.version - 1)],
                manifests[version],
            )
            rows = world.ask(
                "SELECT device, counter, weight FROM counted WHERE went_into = ? ORDER BY row",
                version.version,
            )
            if not all(row[:2] in bodies for row in rows):
                break  # a device keeps the bodies of its last updates only
            old, new = (np.frombuffer(store.blob(one.head.hash), "<f4") for one in (base, manifest))
            total, sizes = np.zeros(len(old)), [len(bodies[row[:2]]) for row in rows]
            for device, counter, weight in rows:
                codec.decode(bodies[device, counter], base.tensors, base.plan.codec).add_to(total, weight)
            change = total / sum(row[2] for row in rows)
            before = new + left - old - change  # what had been left over then, but for rounding
            before[np.abs(before) < _ROUNDING] = 0.0
            now = canonical.Canonical(head=old, full=b"", remainder=before)
            expected, delta = canonical.advance(
                now, change, base.tensors, usual_budget(sum(sizes), len(sizes))
            )
            assert new.tobytes() == expected.head.tobytes(), f"head {version}"
            assert delta == (store.blob(manifest.deltas[0].hash) if manifest.deltas else None)
            assert store.blob(manifest.full.hash) == expected.full
            left, made = before, made + 1
    return made
