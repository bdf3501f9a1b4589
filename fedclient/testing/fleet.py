"""A federation of real processes on this machine: a gateway, and devices with their own state folders.

    with Fleet(folder, broker, GatewaySettings(cohort=3)) as fleet:
        fleet.publish(model, plan)
        for x, y in parts:
            fleet.add_device(x, y)
        fleet.start()
        fleet.wait_until(lambda: len(fleet.rounds()) >= 5, 60, "5 rounds")
        fleet.devices[0].process.kill()      # kill -9: its trainer dies with it
        fleet.devices[0].process.start()
        fleet.drain()                        # every finished update has its receipt now

Each process is what an owner would start, `python -m fedclient ...`, with a config file beside its
state folder and its log in a file; it ends with the thread that started it, whatever way that ends.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fedclient import daemon
from fedclient.brokers import BrokerSettings
from fedclient.config import (
    SECTIONS,
    GatewaySettings,
    Section,
    TrainerSettings,
)
from fedclient.crypto.keys import SigningKey
from fedclient.device import journal
from fedclient.device.database import open_database
from fedclient.device.folder import DeviceFolder
from fedclient.errors import FinalError, TransientError
from fedclient.gateway.server import found, open_desk
from fedclient.gateway.store import Round
from fedclient.samples.store import SampleStore
from fedclient.session import State
from fedclient.testing import setup
from fedclient.training.process import die_with, pss_mib
from fedclient.transport.base import Connected, Delivered, Disconnected, Transport
from fedclient.transport.mqtt import MqttTransport
from fedclient.transport.settings import MqttSettings
from fedclient.values import Broker, Plan
from fedclient.wire.topics import Topics

if TYPE_CHECKING:
    from typing_extensions import Self

_POLL_S = 0.05
_STOP_S = 15.0  # a trainer has 10 s to write its checkpoint
_DRAIN_S = 60.0
_SWEEP_S = 2.0
_HISTORY = 1000  # all that a device keeps


class Process:
    """One command of ours as a child process."""

    def __init__(self, name: str, words: Sequence[str], log: Path) -> None:
        self.name = name
        self.words = words
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Its process id; None while it is not meant to run."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start it, or start it again; what it logs is added to its log."""
        self.kill()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                cwd=self.log.parent,  # `-m` looks for modules here first
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                start_new_session=True,  # Ctrl-C is for whoever owns the fleet
                preexec_fn=partial(die_with, os.getpid()),  # noqa: PLW1509  one system call, no lock taken
            )

    def command(self) -> list[str]:
        """Return how to start it."""
        return [sys.executable, "-m", "fedclient", *self.words]

    def kill(self) -> None:
        """End it as a power cut would (kill -9)."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def ask_to_stop(self) -> None:
        """Send SIGTERM; `stop` waits for what that leads to."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)

    def stop(self, patience_s: float = _STOP_S) -> int:
        """End it orderly, and return its exit code; 0 where it does not run."""
        if (process := self._process) is None:
            return 0
        self.ask_to_stop()
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience_s)
        self.kill()
        return process.wait()

    def check(self) -> None:
        """Raise FinalError with its last word if it has ended by itself."""
        if self._process is not None and (code := self._process.poll()) is not None:
            raise FinalError(f"{self.name} ended by itself with exit code {code}: {self.last_line()}")

    def last_line(self) -> str:
        """Return the last line of its log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return next((line for line in reversed(text.splitlines()) if line.strip()), "it said nothing")


class Device:
    """One device: its process, and what its database says."""

    def __init__(self, folder: DeviceFolder, process: Process) -> None:
        self.folder = folder
        self.id = SigningKey.load(folder.key).device_id
        self.process = process
        self._database = open_database(folder)
        self._journal = journal.Journal(self._database)

    def state(self) -> State:
        """Return the session's state as it was last committed."""
        return self._journal.load_state()

    def history(self) -> tuple[journal.Round, ...]:
        """Return the finished jobs, newest first."""
        return self._journal.rounds(_HISTORY)

    def traffic(self) -> tuple[int, int]:
        """MQTT bytes up and down, as of the last settled update."""
        return self._journal.counter("bytes_up"), self._journal.counter("bytes_down")

    def pss_mib(self) -> float:
        """Memory of the agent now; 0 when it does not run."""
        return pss_mib(self.process.pid) if self.process.pid else 0.0

    def close(self) -> None:
        self._database.close()


class Fleet:
    """A gateway and its devices below `root`; leaving the block ends all processes."""

    def __init__(
        self,
        root: Path,
        broker: Broker,
        gateway: GatewaySettings,
        *,
        federation: str = "fleet",
        **owner: Section,
    ) -> None:
        """Set the gateway up; nothing runs yet.  `owner`: sections of the devices' own settings."""
        self.root = root
        self._federation = federation
        self._broker = broker
        # Whoever names a broker for this has said that no TLS is needed; lost answers are asked for soon.
        link = BrokerSettings(allow_plaintext=True, retry_min_s=1.0, retry_max_s=5.0)
        self._device_settings = as_toml(
            broker=link, schedule=setup.EAGER, trainer=TrainerSettings(nice=0, idle=False)
        ) + as_toml(**owner)
        self.policy = ", ".join(as_toml(schedule=setup.EAGER).splitlines()[1:])  # of all devices, to be shown
        root.mkdir(parents=True, exist_ok=True)
        state = root / "gateway"
        found(state, federation, broker)
        self._desk = open_desk(state, gateway)
        self.devices: list[Device] = []
        settings = as_toml(broker=link, gateway=gateway)
        self.gateway = self._process("gateway", settings, "gateway", "run")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes():
            process.kill()
        for device in self.devices:
            device.close()
        self._desk.store.close()

    def publish(self, model: bytes, plan: Plan) -> None:
        """Begin a generation with a model."""
        setup.publish(self._desk, model, plan)

    def add_device(self, xs: Iterable[object], labels: Iterable[int]) -> Device:
        """Set up a device with these samples, and an invitation that its agent will find."""
        name = f"device-{len(self.devices) + 1}"
        folder = setup.join(self._desk, self.root / name)
        with SampleStore(folder.samples) as store:
            store.append_many(xs, labels)
        device = Device(folder, self._process(name, self._device_settings, "run"))
        self.devices.append(device)
        return device

    def start(self) -> None:
        """Start everything."""
        for process in self.processes():
            process.start()

    def processes(self) -> list[Process]:
        """Return the gateway, then the devices."""
        return [self.gateway, *(device.process for device in self.devices)]

    def rounds(self) -> list[Round]:
        """Return what each published head was made of, oldest first."""
        return [made for _, made in self._desk.store.rounds()]

    def counted(self) -> set[tuple[str, int]]:
        """Return (device id, counter) of every update that the gateway counted."""
        return {(device, counter) for device, _, counter, _ in self._desk.store.ledger()}

    def wait_until(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Look until `condition` holds.

        Raises FinalError when a process ends by itself, TransientError after `timeout_s`.
        """
        until_s = time.monotonic() + timeout_s
        while not condition():
            for process in self.processes():
                process.check()
            if time.monotonic() > until_s:
                said = "; ".join(f"{process.name}: {process.last_line()}" for process in self.processes()[:2])
                raise TransientError(f"waited {timeout_s:g} s for {what} ({said})")
            time.sleep(_POLL_S)

    def drain(self) -> None:
        """End the devices orderly, each with a receipt for every update that it finished."""
        self._stop(self.devices)
        while waiting := self._unsettled():
            for device in waiting:
                device.process.start()
            self._await_receipts(waiting)
            self._stop(waiting)

    def _unsettled(self) -> dict[Device, int]:
        """Return the counter of each update that has no receipt."""
        found = {device: device.state().unsettled for device in self.devices}
        return {device: counter for device, counter in found.items() if counter is not None}

    def _await_receipts(self, waiting: dict[Device, int]) -> None:
        # by the counter: once it has its receipt, a device may be quick enough to finish another update
        self.wait_until(
            lambda: all(device.state().unsettled != counter for device, counter in waiting.items()),
            _DRAIN_S,
            "the last receipts",
        )

    def clear_broker(self) -> None:
        """Kill everything, and take away what it left on the broker: for one that others use too."""
        for process in self.processes():
            process.kill()
        settings = MqttSettings(broker=self._broker, client_id=f"fleet-{os.getpid()}", allow_plaintext=True)
        left = [Topics(self._federation).online(device.id) for device in self.devices]
        sweeper = _Sweeper(MqttTransport(settings), sorted({*self._desk.store.retained(), *left}))
        daemon.run(sweeper, lambda: sweeper.done)

    def _stop(self, devices: Iterable[Device]) -> None:
        ending = list(devices)
        for device in ending:
            device.process.ask_to_stop()
        for device in ending:
            device.process.stop()

    def _process(self, name: str, settings: str, *words: str) -> Process:
        config = self.root / f"{name}.toml"
        config.write_text(settings)
        options = ["--config", str(config), "--state", str(self.root / name)]
        return Process(name, [*options, *words], self.root / f"{name}.log")


class _Sweeper:
    """Clears retained topics, unless the broker is gone; driven by `daemon.run`."""

    def __init__(self, transport: Transport, topics: Sequence[str]) -> None:
        self._transport = transport
        self._topics = topics
        self._waiting: set[int] = set()
        self._until_s = 0.0
        self.done = False

    def start(self, now_s: float) -> None:
        self._until_s = now_s + _SWEEP_S
        self._transport.connect(now_s)

    def interests(self) -> dict[int, int]:
        return self._transport.interests()

    def deadline_s(self) -> float:
        return min(self._until_s, self._transport.deadline_s() or self._until_s)

    def service(self, ready: Collection[int], now_s: float) -> None:
        for event in self._transport.service(ready, now_s):
            if isinstance(event, Connected):
                self._waiting = {self._transport.publish(topic, b"", retain=True) for topic in self._topics}
            elif isinstance(event, Delivered):
                self._waiting.discard(event.message_id)
            self.done = isinstance(event, Disconnected) or not self._waiting
        self.done = self.done or now_s >= self._until_s

    def stop(self) -> None:
        self._transport.close()


def as_toml(**sections: Section) -> str:
    """Write what differs from the defaults as a config file: `as_toml(schedule=EAGER)`."""
    lines = []
    for name, section in sections.items():
        usual = asdict(SECTIONS[name])
        lines.append(f"[{name}]")
        for key, value in asdict(section).items():
            if value != usual[key]:
                lines.append(f"{key} = {json.dumps(False if value is None else value, default=str)}")
    return "".join(f"{line}\n" for line in lines)
