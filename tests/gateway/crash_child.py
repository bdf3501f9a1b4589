"""A gateway and its devices in one process, which kills itself (-9) at a chosen moment.

    python crash_child.py FOLDER STEPS VERSION

The moment is the STEPS-th statement sent to the database or message sent to the broker; without one
it ends with exit code 0 when the head has reached VERSION.  Devices keep what they have sent and not
settled in a file, as the agent keeps its outbox.  The first version collects feature statistics; under
those after it the devices do different numbers of epochs.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
from pathlib import Path

from fedclient.gateway import releases
from fedclient.storage import Database
from fedclient.transport.memory import MemoryTransport
from fedclient.uplink import envelope_hash
from fedclient.values import HeadVersion, Plan, ReceiptStatus
from tests.gateway.harness import Device, Farm, normalized, normalized_body, statistics_body

DEVICES = 4


class Agent:
    """One device's outbox in a file, and what it was told of each update."""

    def __init__(self, farm: Farm, device: Device, path: Path) -> None:
        self.farm, self.device, self.path = farm, device, path
        self.saved = {"counter": 0, "envelope": None, "done": [0, 0], "settled": {}}
        if path.exists():
            self.saved = json.loads(path.read_text())

    def save(self) -> None:
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.saved))
        part.replace(self.path)

    def turn(self) -> None:
        self.device.listen()
        envelope = self.saved["envelope"]
        if envelope is not None:
            receipt = self.device.receipt_for(bytes.fromhex(envelope))
            if receipt is None or receipt.status is ReceiptStatus.DEFER:
                self.device.send(bytes.fromhex(envelope))
                return
            self.saved["settled"][str(self.saved["counter"])] = [receipt.status.name, receipt.reason.name]
            self.saved["envelope"] = None
            self.save()
        manifest = self.device.manifest
        if manifest is not None and manifest.head_version > HeadVersion(*self.saved["done"]):
            counter = self.saved["counter"] + 1
            made = sent(self.device.id, counter, manifest.plan)
            envelope = self.device.pack(counter=counter, **made)
            done = [manifest.head_version.generation, manifest.head_version.version]
            self.saved |= {"counter": counter, "envelope": envelope.hex(), "done": done}
            self.save()
            self.device.send(envelope)
            assert envelope_hash(envelope)


def sent(device_id: str, counter: int, plan: Plan) -> dict[str, object]:
    """Return body and epochs of an update."""
    seed = int.from_bytes(device_id.encode(), "big") % 1000 + 1000 * counter
    if plan.statistics:
        return {"body": statistics_body(seed), "epochs": None}
    return {"body": normalized_body(seed), "epochs": seed % plan.epochs or None}


def die_after(steps: int) -> None:
    count = itertools.count(1)

    def counted(original):
        def call(*args, **kwargs):
            if next(count) == steps:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        return call

    Database.execute = counted(Database.execute)
    MemoryTransport.publish = counted(MemoryTransport.publish)


def main() -> None:
    folder, steps, version = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    farm = Farm(folder / "gateway", publish=False)
    if farm.store.current() == HeadVersion(0, 0):
        releases.publish(farm.desk, normalized())
    devices = farm.devices(DEVICES)
    agents = [Agent(farm, device, folder / f"{device.id}.json") for device in devices]
    die_after(steps)
    while farm.store.current().version < version:
        for agent in agents:
            agent.turn()
        farm.run(1.0)


if __name__ == "__main__":
    main()
