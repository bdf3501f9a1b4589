"""Real processes on one machine: a gateway and agents as systemd would run them, and who watches them.

The test is the supervisor: what it kills it starts again at once with the same arguments, and a
process that ends by itself fails the test.  What the processes know is read from their databases by
SQL, not by the code under test.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedclient.config import GatewaySettings
from fedclient.crypto.keys import SigningKey
from fedclient.device import folder as folders
from fedclient.errors import FinalError
from fedclient.gateway.server import found, open_desk
from fedclient.model.head import write_head
from fedclient.samples.store import SampleStore
from fedclient.testing import fleet, setup
from fedclient.values import Broker, Codec, HeadVersion, Plan

if TYPE_CHECKING:
    from typing_extensions import Self

PATIENCE_S = 60.0  # the machine is shared: only a hang takes this long
FEDERATION = "farm"
FEATURES, CLASSES = 8, 3
PLAN = Plan(epochs=20, learning_rate=0.3, codec=Codec(density=0.3), max_staleness=1)
CONFIG = """
[broker]
retry_min_s = 0.2
retry_max_s = 2.0
{broker}
{eager}
{more}
[trainer]
nice = 0
idle = false
"""
GATEWAY_CONFIG = """
[broker]
retry_min_s = 0.2
retry_max_s = 2.0
[gateway]
cohort = {cohort}
min_devices = 3
answers_per_device_per_minute = 100000
"""


EAGER = fleet.as_toml(schedule=setup.EAGER)


class Process(fleet.Process):
    """One that counts its starts, and whose log can be asked for what is new in it."""

    starts = 0

    def start(self) -> None:
        assert not self.running, f"{self.name} runs already"
        self.starts += 1
        super().start()

    @property
    def running(self) -> bool:
        return self.pid is not None

    def stop(self, patience_s: float = PATIENCE_S) -> int:
        return super().stop(patience_s)

    def check(self) -> None:
        """Fail when it ended although nobody ended it."""
        try:
            super().check()
        except FinalError as error:
            raise AssertionError(f"{error}\n{self.tail()}") from None

    def text(self, since: int = 0) -> str:
        """Return what it said after its first `since` bytes."""
        return self.log.read_bytes()[since:].decode() if self.log.exists() else ""

    def said(self) -> int:
        """How many bytes it has said so far."""
        return self.log.stat().st_size if self.log.exists() else 0

    def tail(self) -> str:
        return "\n".join(self.text().splitlines()[-25:])


def rows(database: Path, query: str, *parameters: object) -> list[tuple]:
    """Ask a database that other processes write."""
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            with closing(sqlite3.connect(database, timeout=10)) as connection:
                connection.execute("PRAGMA query_only = 1")
                return connection.execute(query, parameters).fetchall()
        except sqlite3.OperationalError:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)


class Device:
    """One device: its state folder, its config file and its agent."""

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        self.path = path / name
        self.config = path / f"{name}.toml"
        self.folder = folders.create(self.path)
        self.configure()
        arguments = ["-v", "--config", str(self.config), "--state", str(self.path), "run"]
        self.agent = Process(name, arguments, path / f"{name}.log")

    def configure(self, more: str = "", broker: str = "") -> None:
        self.config.write_text(CONFIG.format(eager=EAGER, more=more, broker=broker))

    def configure_schedule(self, keys: str) -> None:
        """Ask for these conditions only, beside the defaults."""
        self.config.write_text(CONFIG.format(eager="[schedule]", more=keys, broker=""))

    @property
    def id(self) -> str:
        return SigningKey.load(self.folder.key).device_id

    def ask(self, query: str, *parameters: object) -> list[tuple]:
        return rows(self.folder.database, query, *parameters)

    def state(self) -> dict:
        found = self.ask("SELECT state FROM session")
        return json.loads(found[0][0]) if found else {}

    def history(self) -> dict[int, tuple[HeadVersion, str | None, str | None]]:
        """Every job that finished: counter -> (head, what became of it, why)."""
        found = self.ask("SELECT counter, generation, version, status, reason FROM history")
        return {row[0]: (HeadVersion(row[1], row[2]), row[3], row[4]) for row in found}

    def outcomes(self) -> list[str | None]:
        return [status for _, (_, status, _) in sorted(self.history().items())]

    def trainer(self) -> int | None:
        """Process id of the trainer that is at work now."""
        children = Path(f"/proc/{self.agent.pid}/task/{self.agent.pid}/children").read_text().split()
        return int(children[0]) if children else None


@dataclass
class World:
    """A gateway and its devices; `wait` lets them work."""

    path: Path
    port: int
    devices: list[Device] = field(default_factory=list)
    cohort: int = 3
    plan: Plan = PLAN

    def __post_init__(self) -> None:
        self._numbers = itertools.count()
        self.state = self.path / "gateway"
        found(self.state, FEDERATION, Broker(host="127.0.0.1", port=self.port))
        model = write_head(features=FEATURES, classes=CLASSES)
        desk = self.desk()
        with closing(desk.store):
            setup.publish(desk, model, self.plan)
        config = self.path / "gateway.toml"
        config.write_text(GATEWAY_CONFIG.format(cohort=self.cohort))
        arguments = ["-v", "--config", str(config), "--state", str(self.state), "gateway", "run"]
        self.gateway = Process("gateway", arguments, self.path / "gateway.log")

    def desk(self):
        return open_desk(self.state, GatewaySettings(cohort=self.cohort, min_devices=3))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes():
            process.kill()

    def processes(self) -> list[Process]:
        return [self.gateway, *(device.agent for device in self.devices)]

    # --- setting up ---------------------------------------------------------------------------------
    def invitation(self) -> str:
        return self.run("gateway", "invite", state=self.state).strip()

    def add_device(self, samples: int = 64) -> Device:
        """Set up and invite a device; it joins when its agent is started."""
        number = next(self._numbers)
        device = Device(self.path, f"device{number}")
        numbers = np.random.default_rng(number)
        x = numbers.normal(size=(samples, FEATURES)).astype(np.float32)
        y = np.argmax(x[:, :CLASSES], axis=1)
        with SampleStore(device.folder.samples) as store:
            store.append_many(x, y.tolist())
        if number == 0:  # as its owner would; the others the quick way
            self.run("enroll", self.invitation(), state=device.path, config=device.config)
        else:
            desk = self.desk()
            with closing(desk.store):
                setup.join(desk, device.path)
        self.devices.append(device)
        return device

    def run(self, *arguments: str, state: Path, config: Path | None = None, code: int = 0) -> str:
        """Run one command to its end, and return its standard output."""
        options = ["--state", str(state)] + (["--config", str(config)] if config else [])
        done = subprocess.run(
            [sys.executable, "-m", "fedclient", *options, *arguments],
            capture_output=True, text=True, timeout=PATIENCE_S, check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        return done.stdout

    def start(self) -> None:
        for process in self.processes():
            if not process.running:
                process.start()

    # --- watching -----------------------------------------------------------------------------------
    def wait(self, done, what: str, patience_s: float = PATIENCE_S) -> None:
        """Wait until `done()`; nobody may end by itself meanwhile."""
        until = time.monotonic() + patience_s
        while not done():
            for process in self.processes():
                process.check()
            if time.monotonic() > until:
                tails = "\n".join(f"--- {one.name}\n{one.tail()}" for one in self.processes())
                raise AssertionError(f"not within {patience_s:g} s: {what}\n{tails}")
            time.sleep(0.02)

    def version(self) -> HeadVersion:
        """The head that is current by the gateway's database."""
        return HeadVersion(*self.ask("SELECT generation, version FROM head ORDER BY 1 DESC, 2 DESC")[0])

    def wait_for_version(self, version: HeadVersion, patience_s: float = PATIENCE_S) -> None:
        self.wait(lambda: self.version() >= version, f"head {version} is published", patience_s)

    def wait_for_more(self, heads: int = 1, patience_s: float = PATIENCE_S) -> None:
        """Wait until the gateway has made so many more heads out of updates."""
        now = self.version()
        self.wait_for_version(HeadVersion(now.generation, now.version + heads), patience_s)

    def wait_said(self, process: Process, pattern: str, since: int) -> None:
        """Wait until a process has said something new."""
        found = re.compile(pattern)
        self.wait(lambda: found.search(process.text(since)) is not None, f"{process.name} says {pattern!r}")

    def ask(self, query: str, *parameters: object) -> list[tuple]:
        return rows(self.state / "gateway.db", query, *parameters)

    def counted(self, device: Device) -> list[int]:
        """Counters of the updates of `device` that the gateway counted."""
        found = self.ask("SELECT counter FROM counted WHERE device = ? ORDER BY row", device.id)
        return [row[0] for row in found]

    def drain(self) -> None:
        """Let every device settle what it has finished, and finish nothing more; then end everything."""
        for device in self.devices:
            device.agent.stop()
            device.configure("min_new_samples = 1000000")
            since = device.agent.said()
            device.agent.start()
            self.wait_said(device.agent, r": connected", since)
        for device in self.devices:
            self.wait(lambda: all(device.outcomes()), f"{device.name} has a receipt for all it finished")  # noqa: B023
        for process in self.processes():
            assert process.stop() == 0, process.tail()

    def roster(self) -> dict:
        """What `gateway devices --json` says, by device."""
        said = json.loads(self.run("gateway", "devices", "--json", state=self.state))
        return {**{row["id"]: row for row in said["devices"]}, "alarms": said["alarms"]}
