"""MQTT brokers as child processes: the embedded one (amqtt), and mosquitto in the same style.

    with EmbeddedBroker() as broker:
        ... broker.port ...
        broker.kill(); broker.restart()      # same port, nothing remembered

    python -m fedclient.testing.broker --port 1883

Loopback only: the embedded broker admits everybody.  A broker dies with the thread that started
it, whatever way that ends.  Of amqtt 0.12: it forgets sessions at a reconnect, delivers a
retained message once per matching subscription, gives an unacknowledged message up after 5 s,
lets two connections with one client id live side by side, and goes deaf to a client that connects
while another one subscribes (mended by `_Topics`).  asyncio sets TCP_NODELAY on each connection
that it accepts.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import logging
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from functools import partial
from typing import IO, TYPE_CHECKING, Any, ClassVar

from fedclient.errors import ConfigError, FedClientError, Unreachable, UsageError
from fedclient.training.process import die_with

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from typing_extensions import Self

_START_S = 20.0  # amqtt imports for a second; on a loaded board for many
_POLL_S = 0.005
_PORT_TRIES = 5
_NOBODY = 65534


class _BrokerProcess:
    """A broker that somebody else wrote, as a child process."""

    ready: ClassVar[str]  # what it logs when it listens
    user: int | None = None  # to run as
    files: tuple[int, ...] = ()  # descriptors to inherit

    def __init__(self, *, port: int = 0) -> None:
        self.port = port  # 0: any free one
        self.pid = 0
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start(self.port)
        return self

    def __exit__(self, *_exc: object) -> None:
        self.kill()

    def start(self, port: int = 0) -> int:
        """Start, wait until it listens, and return the port.  Raises Unreachable."""
        self.kill()
        for _ in range(1 if port else _PORT_TRIES):
            self.port = port or _free_port()
            if log := self._try_start():
                # Somebody took the port between our look and its bind: look again.
                continue
            return self.port
        lines = log.strip().splitlines()
        said = next((line for line in lines if "error" in line.lower()), lines[-1])
        raise Unreachable(f"the broker did not start on port {self.port}: {said}")

    def kill(self) -> None:
        """End it as a power cut would (kill -9)."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> int:
        """Kill it if it runs, and start it again on the same port."""
        return self.start(self.port)

    def command(self) -> list[str]:
        """Return how to start it on `self.port`."""
        raise NotImplementedError

    def _try_start(self) -> str:
        """Return nothing when it listens, else what it logged."""
        # Files without a name: nothing is left behind when this process is killed.
        log = tempfile.TemporaryFile()  # noqa: SIM115  closed with the last reference
        self._process = subprocess.Popen(
            self.command(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            pass_fds=self.files,
            user=self.user,
            preexec_fn=partial(die_with, os.getpid()),  # noqa: PLW1509  one system call, no lock taken
        )
        self.pid = self._process.pid
        end = time.monotonic() + _START_S
        while self._process.poll() is None and time.monotonic() < end:
            logged = _read(log)
            if "address already in use" in logged.lower():
                break  # mosquitto goes on with ::1 alone
            if self.ready in logged:
                return ""
            time.sleep(_POLL_S)
        self.kill()
        return _read(log) or "it said nothing"


class EmbeddedBroker(_BrokerProcess):
    """amqtt, from the extras `demo` and `test`."""

    ready = "listening on"

    def command(self) -> list[str]:
        return [sys.executable, "-m", "fedclient.testing.broker", "--port", str(self.port)]


class Mosquitto(_BrokerProcess):
    """The real one; as it comes, or with lines of a configuration for its one listener."""

    ready = " running\n"  # "clients running on this machine" comes before it listens

    def __init__(self, path: str, port: int = 0, *, config: Sequence[str] = ()) -> None:
        super().__init__(port=port)
        self._path = path
        self._config = tuple(config)
        if os.geteuid() == 0 and not config:
            # As root it would become another user itself, and the kernel would then forget to end it with us.
            self.user = _NOBODY

    def command(self) -> list[str]:
        if not self._config:
            return [self._path, "-p", str(self.port)]
        # Another user could not read a test's certificates.
        user = ["user root"] if os.geteuid() == 0 else []
        lines = "\n".join([*user, f"listener {self.port} 127.0.0.1", *self._config, ""])
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the broker
        self._file.write(lines.encode())
        self._file.flush()
        self.files = (self._file.fileno(),)
        return [self._path, "-c", f"/proc/self/fd/{self._file.fileno()}"]


def find_mosquitto() -> str | None:
    """Return the path of the real broker, which distributions put where only root looks."""
    return shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def _read(log: IO[bytes]) -> str:
    """Read from the start, leaving alone the position that the child writes at."""
    return os.pread(log.fileno(), 1 << 16, 0).decode(errors="replace")


def _free_port() -> int:
    """Return one below the range of outgoing connections, where nobody lands while we restart.

    In that range a client that tries again and again can even connect to itself.
    """
    while True:
        port = 16384 + secrets.randbelow(16384)
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


class _Topics(dict[str, Any]):
    """amqtt's table of subscriptions: what is added while somebody goes through it is not gone through.

    amqtt waits in the middle of doing so for each client that connects.  A dict that grows meanwhile raises
    RuntimeError, and then nobody reads what this client sends, though its pings are answered.
    """

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self.keys()))


async def _serve(host: str, port: int) -> None:
    """Run amqtt for ever."""
    if not ipaddress.ip_address(host).is_loopback:
        raise UsageError(f"--bind {host}: this broker admits everybody, so loopback only")
    if not 0 < port < 0x10000:
        raise UsageError(f"--port {port}: give one from 1 to 65535")
    logging.disable(logging.CRITICAL)  # amqtt logs each client's coming and going as a warning
    try:
        from amqtt.broker import Broker  # noqa: PLC0415  an extra; the classes above do without
        from amqtt.errors import BrokerError  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError("the embedded broker needs amqtt: pip install 'fedclient[demo]'") from error
    config = {
        "listeners": {"default": {"type": "tcp", "bind": f"{host}:{port}", "max_connections": -1}},
        "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
    }
    broker = Broker(config)
    broker._subscriptions = _Topics()  # noqa: SLF001 - there is no other way to it
    try:
        await broker.start()
    except (BrokerError, OSError) as error:
        raise Unreachable(f"cannot listen on {host}:{port}: {error}") from error
    sys.stdout.write(f"listening on {host}:{port}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the embedded broker until a signal ends it."""
    parser = argparse.ArgumentParser(prog="fedclient.testing.broker", description=main.__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--bind", default="127.0.0.1", metavar="ADDRESS")
    chosen = parser.parse_args(arguments)
    try:
        with suppress(KeyboardInterrupt):
            asyncio.run(_serve(chosen.bind, chosen.port))
    except (FedClientError, ValueError) as error:
        sys.stderr.write(f"{parser.prog}: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
