"""The end and the reload of real agents and gateways: in time wherever they are, and nothing is lost."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest

from fedclient.testing.broker import EmbeddedBroker
from tests.system.commands import SETTINGS, Daemon, Setup

LONG = (
    "epochs = 100\nbatch_size = 1\nlearning_rate = 0.001\n"  # more training than all of these tests wait for
)
BOUND_S = 5.0
_PATIENCE_S = 60.0


class Home:
    """A gateway and a device that has a long job to do."""

    running: Daemon  # the gateway

    def __init__(self, path: Path, port: int) -> None:
        self.device, self.gateway = Setup(path / "device"), Setup(path / "gateway")
        x = np.random.default_rng(0).normal(size=(8000, 4)).astype(np.float32)
        np.savez(path / "data.npz", x=x, y=(x[:, 0] > 0).astype(np.int64))
        plan, model = path / "plan.toml", path / "head.tflite"
        plan.write_text(LONG)
        self.gateway.ok("model", "new-head", "--features", 4, "--classes", 2, "-o", model)
        self.gateway.ok("gateway", "init", "--federation", "farm", "--broker", f"localhost:{port}")
        self.gateway.ok("gateway", "publish", model, "--plan", plan)
        self.device.ok("init")
        self.device.ok("enroll", "-", stdin=self.gateway.ok("gateway", "invite"))
        self.device.ok("samples", "import", "--data", path / "data.npz")

    def checkpoint(self) -> int:
        """Epochs that the stored checkpoint has behind it."""
        with (
            suppress(sqlite3.OperationalError),
            closing(sqlite3.connect(self.device.path / "device.db")) as found,
        ):
            row = found.execute("SELECT epoch FROM checkpoint").fetchone()
            return int(row[0]) if row else 0
        return 0

    def training(self, agent: Daemon, beyond: int = 0) -> int:
        """Wait until a checkpoint beyond that epoch is stored; return the trainer's process id."""
        until(
            lambda: self.checkpoint() > beyond and trainer(agent),
            f"a checkpoint beyond {beyond}\n{agent.log}",
        )
        found = trainer(agent)
        assert found
        return found


def until(condition, what: str) -> None:
    end = time.monotonic() + _PATIENCE_S
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def trainer(agent: Daemon) -> int | None:
    found = Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()
    return int(found[0]) if found else None


def connecting(agent: Daemon) -> bool:
    """Whether one of its TCP connections is in state 2, SYN_SENT."""
    own = set()
    for one in Path(f"/proc/{agent.pid}/fd").iterdir():
        with suppress(OSError):
            own.add(str(one.readlink()))
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(line[3] == "02" and f"socket:[{line[9]}]" in own for line in lines)


def stop(agent: Daemon) -> tuple[int, float]:
    """Ask it to end; returns its exit code and how long that took."""
    began = time.monotonic()
    code = agent.stop()
    return code, time.monotonic() - began


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Iterator[Home]:
    """One for all: each test goes on with the job where the one before has left it."""
    pytest.importorskip("amqtt", reason="LEFT OUT: amqtt is not installed (pip install 'fedclient[test]')")
    with EmbeddedBroker() as broker:
        made = Home(tmp_path_factory.mktemp("daemon"), broker.port)
        with made.gateway.daemon("gateway", "run") as made.running:
            yield made
            assert made.running.stop() == 0


@pytest.fixture(autouse=True)
def settings(home) -> None:
    home.device.config.write_text(SETTINGS)


def test_it_ends_in_training_in_time_and_goes_on_from_the_checkpoint(home) -> None:
    with home.device.daemon("run") as agent:
        home.training(agent)
        code, took_s = stop(agent)
    assert code == 0
    assert took_s < BOUND_S
    kept = home.checkpoint()
    assert kept > 0
    with home.device.daemon("run") as agent:
        pid = home.training(agent, beyond=kept)
        os.kill(pid, signal.SIGSTOP)  # a trainer that takes no notice, as one in a long call
        code, took_s = stop(agent)
        assert code == 0
        assert 2.5 < took_s < BOUND_S  # it was asked first
        assert not Path(f"/proc/{pid}").exists()
    assert home.checkpoint() > kept


def test_it_ends_in_time_while_the_disk_is_kept_busy(home) -> None:
    """Another process holds the database: what waits for it is ended by the timer, and loses nothing."""
    with home.device.daemon("run") as agent:
        home.training(agent)
        kept = home.checkpoint()
        with closing(sqlite3.connect(home.device.path / "device.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            code, took_s = stop(agent)
            other.execute("ROLLBACK")
        assert code in (0, -signal.SIGALRM)
        assert took_s < BOUND_S
        with home.device.daemon("run") as again:
            home.training(again, beyond=kept)


def test_it_ends_in_time_in_a_connect_that_hangs(home) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.settimeout(0)
            one.connect_ex(listener.getsockname())
        hanging = f'host = "127.0.0.1"\nport = {listener.getsockname()[1]}\nconnect_timeout_s = 60'
        home.device.config.write_text(SETTINGS.replace("[broker]", f"[broker]\n{hanging}"))
        with home.device.daemon("run") as agent:
            agent.expect("agent starts")
            until(lambda: connecting(agent), "it connects")
            code, took_s = stop(agent)
        for one in waiting:
            one.close()
    assert code == -signal.SIGALRM  # by the unit a clean exit: SuccessExitStatus=SIGALRM
    assert took_s < BOUND_S


def test_a_reload_takes_new_settings_and_resumes_the_job(home) -> None:
    with home.device.daemon("run") as agent:
        home.training(agent)
        kept = home.checkpoint()
        home.device.config.write_text(SETTINGS + "\n[brokre]\n")
        os.kill(agent.pid, signal.SIGHUP)
        line = agent.expect("not reloaded")
        assert f"{home.device.config}" in line
        assert "brokre" in line
        pid = home.training(agent, beyond=kept)  # the old one never stopped
        home.device.config.write_text(SETTINGS.replace("nice = 0", "nice = 7"))
        kept = home.checkpoint()
        os.kill(agent.pid, signal.SIGHUP)
        agent.expect("reloading")
        agent.expect(": connected")
        again = home.training(agent, beyond=kept)
        assert again != pid
        assert os.getpriority(os.PRIO_PROCESS, again) == 7
        assert agent.stop() == 0


def test_a_gateway_reloads(home) -> None:
    gateway = home.running
    home.gateway.config.write_text("[gateway]\ncohort = 0\n")
    os.kill(gateway.pid, signal.SIGHUP)
    assert "cohort is 0" in gateway.expect("not reloaded")
    home.gateway.config.write_text(SETTINGS)
    os.kill(gateway.pid, signal.SIGHUP)
    gateway.expect("reloading")
    gateway.expect("connected")
