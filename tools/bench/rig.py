"""A federation on this machine to measure: a broker, a gateway and one device as they are installed.

Agent and gateway are processes started by their command line, and are watched from outside: their log
lines are stamped when they arrive, and an observer subscribes to everything on the broker.  A version
needs two updates (PROTOCOL 4.5), so the bench itself is a second device: while the trainer of the device
under test starts, it sends an update of zeros, and that of the device under test completes the version.
"""

from __future__ import annotations

import os
import selectors
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from fedclient import codec
from fedclient.config import GatewaySettings
from fedclient.crypto import keys
from fedclient.daemon import boottime_s
from fedclient.device import folder
from fedclient.downlink import DeviceDownlink
from fedclient.gateway.desk import Desk
from fedclient.gateway.enrolment import invite
from fedclient.gateway.server import found, open_desk
from fedclient.model.head import write_head
from fedclient.samples.store import SampleStore
from fedclient.testing import setup
from fedclient.testing.broker import EmbeddedBroker, Mosquitto, find_mosquitto
from fedclient.testing.fleet import as_toml
from fedclient.testing.setup import EAGER
from fedclient.transport.base import Connected, Received
from fedclient.transport.mqtt import MqttTransport
from fedclient.transport.settings import MqttSettings
from fedclient.uplink import DeviceUplink
from fedclient.values import Broker, Codec, MessageType, Plan, Update
from fedclient.wire.topics import Topics

if TYPE_CHECKING:
    from typing_extensions import Self

FEDERATION = "bench"
FEATURES, CLASSES, SAMPLES = 1280, 10, 160  # a head of 12,810 parameters, MobileNet's features
PATIENCE_S = 30.0
NOTHING: dict[str, str] = {}
_DEVICE = """
{schedule}
[broker]
{broker}
[trainer]
{trainer}
"""
_GATEWAY = "[gateway]\ncohort = 2\nmin_devices = 2\n[broker]\n{broker}\n"


@dataclass(frozen=True)
class Seen:
    """Something that happened: a log line, or a message on the broker."""

    at_s: float  # CLOCK_BOOTTIME
    source: str  # agent, gateway or mqtt
    text: str  # the line, or the topic
    size: int = 0  # of the message on the wire


@dataclass
class Process:
    """A command that runs, and its standard error."""

    name: str
    popen: subprocess.Popen[bytes]
    started_s: float
    rest: bytes = b""
    log: IO[bytes] | None = None

    @property
    def pid(self) -> int:
        return self.popen.pid


@dataclass
class Rig:
    """See the module; a context manager that ends what it started."""

    path: Path  # where the state folders are made
    tls: bool = False
    broker_kind: str = "mosquitto"
    plan: Plan = field(default_factory=lambda: Plan(epochs=1, learning_rate=0.1, codec=Codec(density=0.01)))
    schedule: str = as_toml(schedule=replace(EAGER, poll_s=60.0))
    trainer: str = "nice = 0\nidle = false"
    board: Path | None = None  # a capture whose sensors the agent reads in place of this machine's
    environment: dict[str, str] = field(default_factory=dict)  # of the agent, beside ours
    seen: list[Seen] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._answer_due = False
        self._stack = ExitStack()
        self._selector = self._stack.enter_context(selectors.DefaultSelector())
        try:
            self._set_up()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # --- setting up -----------------------------------------------------------------------------------
    def _set_up(self) -> None:
        self._certificates = make_certificates(self.path / "pki") if self.tls else None
        broker = start_broker(self.broker_kind, self._certificates)
        self._stack.callback(broker.kill)
        self.broker_name, self.broker_pid = type(broker).__name__.lower(), broker.pid
        self.address = Broker(host="localhost" if self.tls else "127.0.0.1", port=broker.port, tls=self.tls)
        self._found_gateway()
        self.device = folder.create(self.path / "device")
        self._second = Second(self)
        options = f'ca_file = "{self._certificates}"' if self._certificates else ""
        self.device_config = self._write(
            "device.toml", _DEVICE, schedule=self.schedule, trainer=self.trainer, broker=options
        )
        self._gateway_config = self._write("gateway.toml", _GATEWAY, broker=options)
        self._observer = self.connect("observer")
        self._observer.subscribe(f"fl/v1/{FEDERATION}/#")
        self.gateway = self.start(
            "gateway",
            ["--config", self._gateway_config, "--state", str(self.path / "gateway"), "gateway", "run"],
        )
        self.wait(lambda: self.when("mqtt", "/all/manifest") is not None)

    def _write(self, name: str, template: str, **values: str) -> str:
        path = self.path / name
        path.write_text(template.format(**values))
        return str(path)

    def _found_gateway(self) -> None:
        found(self.path / "gateway", FEDERATION, self.address)
        desk = self._desk()
        with closing(desk.store):
            setup.publish(desk, write_head(FEATURES, CLASSES), self.plan)
            self.invitation = invite(desk, os.urandom(16), int(time.time()) + 3600)  # of the second device

    def _desk(self) -> Desk:
        return open_desk(self.path / "gateway", GatewaySettings(cohort=2, min_devices=2))

    def enrol(self) -> None:
        """Invite the device under test, as `fedclient enroll` does."""
        desk = self._desk()
        with closing(desk.store):
            setup.join(desk, self.device.path)

    def record_samples(self) -> None:
        """Give the device something to train on: every class often enough for the privacy floor."""
        rng = np.random.default_rng(7)
        x = rng.normal(size=(SAMPLES, FEATURES)).astype(np.float32)
        with SampleStore(self.device.samples) as store:
            store.append_many(x, [index % CLASSES for index in range(SAMPLES)])

    def connect(self, client_id: str) -> MqttTransport:
        """Return a connected transport of the bench's own."""
        settings = MqttSettings(broker=self.address, client_id=client_id, ca_file=self._certificates)
        transport = MqttTransport(settings)
        self._stack.callback(transport.close)
        transport.connect(boottime_s())
        until_s = boottime_s() + PATIENCE_S
        while not any(
            isinstance(event, Connected) for event in transport.service(transport.interests(), boottime_s())
        ):
            if boottime_s() > until_s:
                raise TimeoutError("no connection to the broker")
        return transport

    # --- running --------------------------------------------------------------------------------------
    def start(
        self,
        name: str,
        arguments: list[str],
        prefix: tuple[str, ...] = (),
        environment: dict[str, str] = NOTHING,
    ) -> Process:
        """Start `fedclient ARGUMENTS`, watch its log, and end it with the rig."""
        started_s = boottime_s()
        popen = subprocess.Popen(
            [*prefix, sys.executable, "-m", "fedclient", "-v", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, **environment},
            start_new_session=True,  # strace does not pass SIGTERM on: the whole group is ended
        )
        process = Process(name=name, popen=popen, started_s=started_s)
        assert popen.stderr is not None
        os.set_blocking(popen.stderr.fileno(), False)
        self._selector.register(popen.stderr, selectors.EVENT_READ, process)
        self._stack.callback(self.end, process)
        return process

    def start_agent(self, prefix: tuple[str, ...] = ()) -> Process:
        """Start the device under test."""
        board = [] if self.board is None else ["--root", str(self.board)]
        words = ["--config", self.device_config, "--state", str(self.device.path), "run", *board]
        return self.start("agent", words, prefix, self.environment)

    def end(self, process: Process) -> None:
        """End a process orderly, and let go of its log."""
        if process.popen.stderr in {key.fileobj for key in self._selector.get_map().values()}:
            self._selector.unregister(process.popen.stderr)
        self._signal(process, signal.SIGTERM)
        try:
            process.popen.wait(5)
        except subprocess.TimeoutExpired:
            self._signal(process, signal.SIGKILL)
            process.popen.wait()

    def _signal(self, process: Process, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(process.popen.pid, number)

    def wait(self, done: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
        """Watch until `done`; raises TimeoutError with the last lines that were seen."""
        until_s = boottime_s() + timeout_s
        while not done():
            if boottime_s() > until_s:
                raise TimeoutError("\n".join(f"{one.source}: {one.text}" for one in self.seen[-30:]))
            self.turn(0.2)

    def turn(self, sleep_s: float) -> None:
        """Wait for one thing to happen, and note it."""
        transports = (self._observer, *self._second.transports)
        wanted = {fd: events for transport in transports for fd, events in transport.interests().items()}
        for descriptor, events in wanted.items():
            self._selector.register(descriptor, events)
        ready = self._selector.select(sleep_s)
        now_s = boottime_s()
        for descriptor in wanted:
            self._selector.unregister(descriptor)
        for key, _ in ready:
            if isinstance(key.data, Process):
                self._lines(key.data, now_s)
        descriptors = {key.fd for key, _ in ready}
        for event in self._observer.service(descriptors, now_s):
            if isinstance(event, Received):
                self.seen.append(Seen(now_s, "mqtt", event.topic, event.wire_bytes))
        self._second.service(descriptors, now_s)
        if self._answer_due and self._second.answer():
            self._answer_due = False

    def _lines(self, process: Process, now_s: float) -> None:
        assert process.popen.stderr is not None
        data = process.popen.stderr.read() or b""
        *lines, process.rest = (process.rest + data).split(b"\n")
        self.seen += [Seen(now_s, process.name, line.decode(errors="replace")) for line in lines]
        if any(b"training on head" in line for line in lines):
            self._answer_due = True  # while the trainer starts, so that it is in nobody's way
        if not data:
            self._selector.unregister(process.popen.stderr)

    def when(self, source: str, text: str, after_s: float = 0.0) -> float | None:
        """Return when something with `text` in it was first seen after an instant."""
        return next(
            (
                one.at_s
                for one in self.seen
                if one.source == source and text in one.text and one.at_s > after_s
            ),
            None,
        )

    @property
    def device_id(self) -> str:
        return keys.SigningKey.load(self.device.key).device_id

    def join_second(self) -> None:
        """Enrol the bench's own device, which answers each manifest from now on."""
        self._second.join()


class Second:
    """The other device: no process, only the messages that it would send."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._key = keys.SigningKey.generate()
        self._topics = Topics(FEDERATION)
        invitation = rig.invitation
        self._uplink = DeviceUplink(
            federation=FEDERATION, key=self._key, gateway_sealing_key=invitation.sealing_key
        )
        self._downlink = DeviceDownlink(federation=FEDERATION, gateway_key=invitation.signing_key)
        self._counter = 0
        self._manifest = self._answered = b""
        self.transports: list[MqttTransport] = []

    def join(self) -> None:
        transport = self._rig.connect(self._key.device_id)
        transport.publish(
            self._topics.up(self._key.device_id, MessageType.ENROL),
            self._uplink.enrolment(self._rig.invitation.token),
        )
        receipts = self._topics.receipt(self._key.device_id)
        self._rig.wait(lambda: any(one.text == receipts for one in self._rig.seen))
        transport.subscribe(self._topics.manifest)
        self.transports.append(transport)

    def service(self, ready: set[int], now_s: float) -> None:
        for transport in self.transports:
            for event in transport.service(ready, now_s):
                if isinstance(event, Received) and event.payload:
                    self._manifest = event.payload

    def answer(self) -> bool:
        """Send the update of zeros on the newest manifest; False: that was done, or it is on its way here."""
        if self._manifest == self._answered:
            return False
        manifest = self._downlink.open_manifest(self._manifest)
        self._answered = self._manifest
        self._counter += 1
        size = sum(tensor.size for tensor in manifest.tensors)
        body = codec.encode(np.zeros(size, dtype=np.float32), manifest.tensors, manifest.plan.codec).body
        update = Update(
            counter=self._counter,
            head_version=manifest.head_version,
            bucket=5,
            accuracy_percent=None,
            body=body,
        )
        self.transports[0].publish(
            self._topics.up(self._key.device_id, MessageType.UPDATE),
            self._uplink.update(update, manifest.base),
        )
        return True


def start_broker(kind: str, certificates: str | None) -> Mosquitto | EmbeddedBroker:
    """Start the real broker as it comes, or the embedded one where there is none."""
    found_at = find_mosquitto()
    broker: Mosquitto | EmbeddedBroker
    if kind == "mosquitto" and found_at:
        pki = Path(certificates).parent if certificates else None
        config = (
            []
            if pki is None
            else ["allow_anonymous true", f"certfile {pki}/server.crt", f"keyfile {pki}/server.key"]
        )
        broker = Mosquitto(found_at, config=config)
    elif certificates:
        raise FileNotFoundError("TLS needs mosquitto: the embedded broker has none")
    else:
        broker = EmbeddedBroker()
    broker.start()
    return broker


def make_certificates(path: Path) -> str:
    """Make an authority and a certificate for localhost with openssl; return a file of authorities.

    It has the system's, too: a device that trusts those holds all of them in memory.
    """
    path.mkdir()
    (path / "san").write_text("subjectAltName=DNS:localhost")
    for command in (
        "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -days 2 -subj /CN=bench",
        "req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=localhost",
        "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out server.crt -extfile san",
    ):
        subprocess.run(["openssl", *command.split()], cwd=path, check=True, capture_output=True)
    system = ssl.get_default_verify_paths().cafile
    trusted = (path / "ca.crt").read_bytes() + (Path(system).read_bytes() if system else b"")
    (path / "trusted.crt").write_bytes(trusted)
    return str(path / "trusted.crt")
