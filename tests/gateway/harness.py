"""A gateway and devices in one process, over the memory transport, with a clock that tests turn."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np

from fedclient import codec
from fedclient.config import GatewaySettings
from fedclient.crypto import keys
from fedclient.downlink import DeviceDownlink
from fedclient.gateway import canonical, releases
from fedclient.gateway.desk import Desk, manifest_of
from fedclient.gateway.enrolment import token_hash
from fedclient.gateway.server import Gateway, found, open_desk
from fedclient.transport.base import Connected, Received
from fedclient.transport.memory import MemoryBroker, MemoryTransport
from fedclient.uplink import DeviceUplink, envelope_hash
from fedclient.values import (
    MEAN,
    MEAN_SQUARE,
    Base,
    Broker,
    Codec,
    HeadVersion,
    Manifest,
    MessageType,
    Phase,
    Plan,
    Receipt,
    Status,
    TensorSpec,
    Update,
    parameters,
)
from fedclient.wire.topics import Topics

FEDERATION = "farm"
TENSORS = (TensorSpec(name="bias", shape=(4,)), TensorSpec(name="kernel", shape=(16, 4)))
P = parameters(TENSORS)
PLAN = Plan(codec=Codec(density=0.2), norm_bound=5.0)
SETTINGS = GatewaySettings(cohort=3, min_devices=3, deadline_s=60.0)
TOPICS = Topics(FEDERATION)
NOTHING = HeadVersion(0, 0)


def content(plan: Plan = PLAN, model: bytes = b"a model") -> releases.Content:
    head = np.linspace(-1, 1, P, dtype=np.float32)
    return releases.Content(model=model, head=head, tensors=TENSORS, labels=("a", "b"), plan=plan)


START = canonical.begin(content().head, TENSORS).head  # as it is published


# A head whose features are standardised, and a plan that collects what that needs.
NORMALIZED = (
    TensorSpec(name="bias", shape=(4,)),
    TensorSpec(name=MEAN, shape=(3,)),
    TensorSpec(name=MEAN_SQUARE, shape=(3,)),
)
COLLECTING = replace(PLAN, epochs=5, statistics=True)


def normalized(plan: Plan = COLLECTING) -> releases.Content:
    head = np.array([1, 2, 3, 4, 0, 0, 0, 1, 1, 1], dtype=np.float32)
    return releases.Content(model=b"a model", head=head, tensors=NORMALIZED, labels=(), plan=plan)


def samples(seed: int, rows: int = 32) -> np.ndarray:
    """A device's features."""
    return np.random.default_rng(seed).normal(size=(rows, 3)) * [1e-3, 1, 1e4] + [0, 5, 1e4]


def statistics_body(seed: int) -> bytes:
    """What a device with `samples(seed)` sends under COLLECTING."""
    x = samples(seed)
    vector = np.concatenate([np.zeros(4), x.mean(axis=0), np.square(x).mean(axis=0)]).astype(np.float32)
    return codec.encode(vector, NORMALIZED, COLLECTING.body_codec).body


def normalized_body(seed: int) -> bytes:
    """A delta under the plan that follows COLLECTING."""
    vector = np.random.default_rng(seed).normal(size=parameters(NORMALIZED)).astype(np.float32) / 9
    return codec.encode(vector, NORMALIZED, COLLECTING.codec).body


class Device:
    """What a device does on the wire, and nothing it should not."""

    def __init__(self, broker: MemoryBroker, desk: Desk, seed: int) -> None:
        self.key = keys.SigningKey(random.Random(seed).randbytes(32))
        self.id = self.key.device_id
        self.uplink = DeviceUplink(
            federation=FEDERATION, key=self.key, gateway_sealing_key=desk.sealing.public
        )
        self._downlink = DeviceDownlink(federation=FEDERATION, gateway_key=desk.signing.public)
        self.transport = MemoryTransport(broker, self.id)
        self.counter = 0
        self.manifest: Manifest | None = None
        self.raw: list[bytes] = []  # receipts as they came
        self.receipts: list[Receipt] = []
        self.blobs: dict[str, bytes] = {}
        self.transport.connect(0.0)
        self.listen()

    def listen(self) -> None:
        """Read what has come; subscribes on every connect."""
        for event in self.transport.service((), 0.0):
            match event:
                case Connected():
                    self.transport.subscribe(TOPICS.receipt(self.id))
                    self.transport.subscribe(TOPICS.manifest)
                case Received(topic=topic, payload=payload) if topic == TOPICS.manifest:
                    self.manifest = self._downlink.open_manifest(payload)
                case Received(topic=topic, payload=payload) if topic == TOPICS.receipt(self.id):
                    self.raw.append(payload)
                    self.receipts.append(self._downlink.open_receipt(payload, self.id))

    def base(self) -> Base:
        """What an update on the newest manifest is bound to."""
        manifest = self.manifest
        assert manifest is not None, "no manifest has come"
        return manifest.base

    def pack(self, *, base: Base | None = None, counter: int | None = None, **fields: object) -> bytes:
        """Pack an update; by default the next one, on the newest head."""
        base = base or self.base()
        if counter is None:
            self.counter += 1
            counter = self.counter
        values = {"bucket": 5, "accuracy_percent": None, "body": body(seed=counter)} | fields
        return self.uplink.update(Update(counter=counter, head_version=base.head_version, **values), base)

    def send(
        self, envelope: bytes, kind: MessageType = MessageType.UPDATE, as_id: str | None = None
    ) -> bytes:
        self.transport.publish(TOPICS.up(as_id or self.id, kind), envelope)
        return envelope

    def update(self, **fields: object) -> bytes:
        """Pack and send an update."""
        return self.send(self.pack(**fields))

    def status(self, floor: HeadVersion = NOTHING, sequence: int = 1, **fields: object) -> bytes:
        values = {"phase": Phase.IDLE, "closed_gates": ("power",), "software": "0.1"} | fields
        status = Status(start=1, sequence=sequence, floor=floor, **values)
        return self.send(self.uplink.status(status), MessageType.STATUS)

    def enrol(self, token: bytes) -> bytes:
        return self.send(self.uplink.enrolment(token), MessageType.ENROL)

    def receipt_for(self, envelope: bytes) -> Receipt | None:
        """Return the one answer to an envelope; fails on two different ones."""
        found = {receipt for receipt in self.receipts if receipt.envelope_hash == envelope_hash(envelope)}
        assert len(found) <= 1, found
        return next(iter(found), None)


def delta(seed: int, norm: float = 1.0) -> np.ndarray:
    vector = np.random.default_rng(seed).normal(size=P).astype(np.float32)
    return vector * np.float32(norm / np.linalg.norm(vector))


def body(seed: int, norm: float = 1.0, plan: Plan = PLAN) -> bytes:
    return codec.encode(delta(seed, norm), TENSORS, plan.codec).body


class Farm:
    """A gateway on its state folder, its broker, and as many enrolled devices as asked for."""

    def __init__(self, folder: Path, settings: GatewaySettings = SETTINGS, *, publish: bool = True) -> None:
        self.folder = folder
        self.settings = settings
        self.broker = MemoryBroker()
        self.now_s = 1000.0
        self.unix_s = 1_700_000_000.0
        if not folder.exists():
            found(folder, FEDERATION, Broker(host="localhost", port=1883))
        self.open()
        if publish:
            releases.publish(self.desk, content())
        self.run()

    def open(self) -> None:
        """Start the gateway, as after a restart of its process."""
        self.desk = open_desk(self.folder, self.settings, lambda: self.unix_s)
        self.store = self.desk.store
        self.gateway = Gateway(
            transport=MemoryTransport(self.broker, "gateway"), desk=self.desk, jitter=random.Random(1)
        )
        self.gateway.start(self.now_s)

    def restart(self) -> None:
        """Kill and start again: nothing is said goodbye to."""
        self.broker.part("gateway")
        self.broker.heal("gateway")
        self.store.close()
        self.open()
        self.run()

    def run(self, seconds: float = 2.0) -> None:
        """Let the gateway do all that is due during the next seconds."""
        end_s = self.now_s + seconds
        while True:
            self.gateway.service((), self.now_s)
            deadline_s = self.gateway.deadline_s()
            following = self.now_s if deadline_s is None else max(deadline_s, self.now_s)
            if following > end_s:
                break
            self.now_s = following
        self.now_s = end_s

    def token(self, valid_s: float = 3600.0) -> bytes:
        token = random.Random(self.now_s).randbytes(16)
        with self.store.transaction():
            self.store.roster.add_invitation(token_hash(token), int(self.unix_s + valid_s))
        return token

    def devices(self, count: int, first: int = 1) -> list[Device]:
        """Return `count` enrolled devices that know the current head."""
        made = [Device(self.broker, self.desk, seed) for seed in range(first, first + count)]
        with self.store.transaction():
            for device in made:
                self.store.roster.enrol(device.id, device.key.public, self.unix_s)
        self.settle(*made)
        return made

    def settle(self, *devices: Device) -> None:
        """Let everything that was said be heard and answered."""
        for _ in range(3):
            self.run()
            for device in devices:
                device.listen()

    def head(self) -> np.ndarray:
        """Return the current head's parameters."""
        manifest = manifest_of(self.store.releases(1)[0])
        return np.frombuffer(self.store.blob(manifest.head.hash), dtype="<f4")

    def wanted(self) -> np.ndarray:
        """Return what the current head would be if nothing were rounded."""
        head = self.head()
        return head + self.store.remainder.of(self.store.current(), head.size)
