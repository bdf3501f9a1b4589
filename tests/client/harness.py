"""A gateway of few lines, and an agent on a folder of its own, over the memory transport."""

from __future__ import annotations

import hashlib
import os
import select
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from fedclient import codec, runtime
from fedclient.client.agent import Agent
from fedclient.client.child import Arguments, Child
from fedclient.config import AdoptionSettings, Config, TrainerSettings
from fedclient.crypto.keys import SealingKey, SigningKey
from fedclient.device import enrolment
from fedclient.device import folder as folders
from fedclient.device.blobs import Blobs
from fedclient.device.folder import DeviceFolder
from fedclient.device.judgement import JudgeArguments
from fedclient.device.outbox import Outbox
from fedclient.downlink import GatewayDownlink
from fedclient.errors import CodecError, FedClientError
from fedclient.limits import MAX_DELTAS
from fedclient.model.head import write_head
from fedclient.samples.store import SampleStore
from fedclient.testing import setup
from fedclient.trainer import __main__ as trainer
from fedclient.trainer import judge
from fedclient.transport.base import Received
from fedclient.transport.memory import MemoryBroker, MemoryTransport
from fedclient.uplink import DeviceUplink, GatewayUplink, envelope_hash
from fedclient.values import (
    Base,
    BlobRef,
    Broker,
    Codec,
    HeadVersion,
    Invitation,
    Manifest,
    MessageType,
    Plan,
    Receipt,
    ReceiptStatus,
    TensorSpec,
    Update,
)
from fedclient.wire.blobs import split
from fedclient.wire.fields import DELTA_HASH_BYTES
from fedclient.wire.invitation import encode_invitation
from fedclient.wire.messages import encode_plan
from fedclient.wire.topics import Topics
from tests.trainer.setup import CLASSES, FEATURES, samples

FEDERATION = "farm"
TOPICS = Topics(FEDERATION)
PLAN = Plan(epochs=2, batch_size=16, learning_rate=0.3, codec=Codec(density=0.3), norm_bound=4.0)
EAGER = replace(setup.EAGER, min_new_samples=1)
# what these devices have too few samples for is tested in test_adoption.py: a judge takes its time to start
UNJUDGED = AdoptionSettings(holdout=0.0, min_samples=10**6)
CONFIG = Config(
    state=Path("/nowhere"),
    schedule=EAGER,
    trainer=TrainerSettings(idle=False, nice=0, grace_s=5.0),
    adoption=UNJUDGED,
)
GRID = 2.0**14  # steps in 1 of the weights that are published here
V1, V2, V3 = HeadVersion(1, 1), HeadVersion(1, 2), HeadVersion(1, 3)


class MiniGateway:
    """Reads what devices publish, and publishes what a test tells it to."""

    def __init__(self, broker: MemoryBroker, seed: bytes = b"g") -> None:
        self.signing, self.sealing = SigningKey(seed * 32), SealingKey(seed * 32)
        self.uplink = GatewayUplink(federation=FEDERATION, key=self.sealing)
        self.downlink = GatewayDownlink(federation=FEDERATION, key=self.signing)
        self.transport = MemoryTransport(broker, f"gateway-{seed.decode()}")
        self.model = write_head(FEATURES, CLASSES)
        self.manifest: Manifest | None = None
        self.bases: dict[HeadVersion, Base] = {}
        self.canonical: dict[HeadVersion, np.ndarray] = {}
        self.encoded: dict[HeadVersion, list[bytes]] = {}  # the whole head, then its deltas, newest first
        self.inbox: list[tuple[str, MessageType, bytes]] = []
        self.connect()

    def connect(self) -> None:
        self.transport.connect(0.0)
        self.transport.service((), 0.0)
        for topic_filter in TOPICS.messages_up:
            self.transport.subscribe(topic_filter)

    def listen(self) -> list[tuple[str, MessageType, bytes]]:
        """Return what came since the last time; all of it stays in `inbox`."""
        came = [
            (*TOPICS.parse_up(event.topic), event.payload)
            for event in self.transport.service((), 0.0)
            if isinstance(event, Received)
        ]
        self.inbox += came
        return came

    def envelopes(self, kind: MessageType = MessageType.UPDATE) -> list[bytes]:
        self.listen()
        return [payload for _, found, payload in self.inbox if found is kind]

    def publish(
        self,
        version: HeadVersion,
        plan: Plan = PLAN,
        *,
        blobs: bool = True,
        weights: bytes = b"",
        labels: tuple[str, ...] = (),
    ) -> Manifest:
        """Publish a head; where no weights are given they follow from its version."""
        manifest = self.make(version, plan, weights=weights, labels=labels)
        if blobs:
            self.publish_blobs(version)
        self.announce(manifest)
        return manifest

    def make(
        self, version: HeadVersion, plan: Plan = PLAN, *, weights: bytes = b"", labels: tuple[str, ...] = ()
    ) -> Manifest:
        """Make a head and what leads to it, and keep it to yourself."""
        loaded = runtime.load(self.model)
        head = np.full(len(loaded.get_weights()), version.version / 100, np.float32)
        head = on_grid(np.frombuffer(weights, "<f4")) if weights else on_grid(head)
        encoded = self._encode(version, head, loaded.tensors)
        full, *deltas = (split(one).ref for one in encoded)
        self.manifest = Manifest(
            head_version=version,
            model=split(self.model).ref,
            head=split(head.tobytes()).ref,
            full=full,
            tensors=loaded.tensors,
            labels=labels,
            plan=plan,
            plan_hash=hashlib.sha256(encode_plan(plan)).digest(),
            deltas=tuple(BlobRef(hash=ref.hash[:DELTA_HASH_BYTES], size=ref.size) for ref in deltas),
        )
        self.bases[version] = self.manifest.base
        return self.manifest

    def _encode(self, version: HeadVersion, head: np.ndarray, tensors: tuple[TensorSpec, ...]) -> list[bytes]:
        """Return the whole head and the deltas that lead to it from the heads before."""
        before = HeadVersion(version.generation, version.version - 1)
        try:
            encoded = [codec.head_blob(head, tensors)]
        except CodecError:  # NaN: `hand_over` brings such a head
            return [head.tobytes()[:9]]
        if before in self.canonical and self.canonical[before].shape == head.shape:
            with suppress(CodecError):  # the personal layer or the statistics changed
                newest = codec.delta_blob(self.canonical[before], head, tensors)
                encoded += [newest, *self.encoded[before][1:]][:MAX_DELTAS]
        self.canonical[version], self.encoded[version] = head, encoded
        return encoded

    def publish_blobs(self, version: HeadVersion) -> None:
        """Publish model, whole head and deltas."""
        for data in (self.model, *self.encoded.get(version, ())):
            self.publish_blob(data)

    def publish_blob(self, data: bytes) -> None:
        """Publish a blob as manifests name it, by its whole hash, or by the first bytes that a delta has."""
        blob = split(data)
        for name in {blob.ref.hash, blob.ref.hash[:DELTA_HASH_BYTES]}:
            for number, chunk in enumerate((blob.hashes, *blob.chunks)):
                self.transport.publish(TOPICS.blob(name, number), chunk, retain=True)

    def announce(self, manifest: Manifest) -> None:
        self.transport.publish(TOPICS.manifest, self.downlink.manifest(manifest), retain=True)

    def answer(self, device_id: str, envelope: bytes, status: ReceiptStatus, **fields: object) -> None:
        receipt = Receipt(counter=0, envelope_hash=envelope_hash(envelope), status=status, **fields)
        self.transport.publish(TOPICS.receipt(device_id), self.downlink.receipt(device_id, receipt))

    def open(self, device: Device, envelope: bytes) -> Update:
        return self.uplink.open_update(envelope, (device.id, device.key.public), self.bases.get)


def on_grid(weights: np.ndarray) -> np.ndarray:
    """Return weights as a gateway would round them; NaN stays."""
    rounded = np.round(weights.astype(np.float64) * GRID) / GRID
    return (rounded + 0.0).astype("<f4")


def large(broker: MemoryBroker) -> MiniGateway:
    """Return a gateway whose heads are so large that deltas are worth their while."""
    made = MiniGateway(broker)
    made.model = write_head(63, 41)
    return made


def weights(number: int) -> bytes:
    """Return one of a series of heads for `large`: each changes the one before in few places."""
    draw = np.random.default_rng(5)
    head = draw.integers(-500, 500, 41 * 64)
    for _ in range(number):
        head[draw.integers(0, len(head), 20)] += draw.integers(-9, 9, 20)
    return (head / 1024).astype("<f4").tobytes()


class Here:
    """Judges like the child, but in this process, and has ended at once."""

    only_judges = True

    def __init__(self, arguments: JudgeArguments, timeout_at_s: float) -> None:
        self.gone_descriptor = os.eventfd(1)
        self.kill_at_s, self.asked, self.was_cut_off, self.pid = timeout_at_s, False, False, os.getpid()
        self._code = self.work(arguments)

    def work(self, arguments: JudgeArguments) -> int:
        try:
            return judge.run(arguments, lambda: False)
        except FedClientError as error:
            return trainer._exit_code(error)

    def ask_to_stop(self, *_: float) -> None:
        self.asked = True

    def cut_off(self) -> None:
        self.was_cut_off = True

    def kill(self) -> None:
        """It has ended."""

    def stop(self, _: float) -> None:
        self.finish()

    def finish(self) -> int:
        os.close(self.gone_descriptor)
        return self._code


class Device:
    """An agent, its folder, and a clock that tests turn."""

    def __init__(self, path: Path, broker: MemoryBroker, config: Config = CONFIG) -> None:
        self.folder: DeviceFolder = folders.create(path)
        self.key = SigningKey.load(self.folder.key)
        self.id = self.key.device_id
        self.broker = broker
        self.config = replace(config, state=path)
        self.now_s = 1000.0
        self.agent: Agent | None = None
        self.judges: type = Here  # `Child` for a real one

    def samples(self, count: int = 60, seed: int = 1) -> None:
        with SampleStore(self.folder.samples) as store:
            store.append_many(*samples(count, seed))

    def invite(self, gateway: MiniGateway, floor: HeadVersion = HeadVersion(0, 0)) -> bytes:  # noqa: B008
        """Do what `fedclient enroll` does; returns the stored request."""
        invitation = Invitation(
            broker=Broker(host="localhost", port=1883),
            federation=FEDERATION,
            signing_key=gateway.signing.public,
            sealing_key=gateway.sealing.public,
            token=b"t" * 16,
            expires_unix_s=0,
            floor=floor,
        )
        uplink = DeviceUplink(federation=FEDERATION, key=self.key, gateway_sealing_key=gateway.sealing.public)
        request = uplink.enrolment(invitation.token)
        enrolment.save(self.folder.enrolment, encode_invitation(invitation), request)
        return request

    def start(self) -> Agent:
        self.agent = Agent(
            self.folder, self.config, lambda _, client_id: MemoryTransport(self.broker, client_id), seed=1
        )
        self.agent.work.begin = self._begin
        self.agent.start(self.now_s)
        return self.agent

    def _begin(self, arguments: Arguments, timeout_at_s: float) -> Child | Here:
        begin = self.judges if isinstance(arguments, JudgeArguments) else Child
        return begin(arguments, timeout_at_s)

    def stop(self) -> None:
        if self.agent is not None:
            self.agent.stop()
            self.agent = None

    def turn(self, advance_s: float = 0.0) -> None:
        """Let the agent do what is due now; `advance_s` turns the clock first."""
        assert self.agent is not None
        agent = self.agent
        self.now_s += advance_s
        for _ in range(50):
            ready = self._ready(agent)
            agent.service(ready, self.now_s)
            deadline_s = agent.deadline_s()
            more = ready or (isinstance(agent.work.child, Here) and self._ready(agent))
            if not more and (deadline_s is None or deadline_s > self.now_s):
                return
        raise AssertionError("the agent never rests: something is always due")

    @staticmethod
    def _ready(agent: Agent) -> list[int]:
        return select.select(list(agent.interests()), [], [], 0)[0]

    def trainer_ends(self) -> None:
        """Wait for the real trainer to be gone, and let the agent see it."""
        assert self.agent is not None
        child = self.agent.work.child
        assert child is not None, "no trainer runs"
        assert select.select([child.gone_descriptor], [], [], 60)[0], "the trainer hangs"
        self.turn()

    def head_is_made(self) -> None:
        """Wait until the child that runs has put its head together."""
        assert self.agent is not None
        child, state = self.agent.work.child, self.agent.state
        manifest = self.agent._ledger.journal.manifest(state.judging or state.job)
        until = time.monotonic() + 60
        while not Blobs(self.folder.blobs).has(manifest.head):
            assert time.monotonic() < until, "the head is not put together"
            assert not select.select([child.gone_descriptor], [], [], 0.002)[0], "the child ended first"

    def hand_over(self, ref: BlobRef, data: bytes) -> None:
        """Put a head here that no gateway could encode."""
        Blobs(self.folder.blobs).put(ref, data)

    def join(self, gateway: MiniGateway) -> Agent:
        """Be enrolled, whatever it takes."""
        request = self.invite(gateway)
        agent = self.start()
        self.turn()
        gateway.answer(self.id, request, ReceiptStatus.ENROLLED)
        self.turn()
        return agent

    @property
    def outbox(self) -> Outbox:
        assert self.agent is not None
        return self.agent._ledger.outbox
