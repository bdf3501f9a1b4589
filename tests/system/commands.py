"""The command line as people meet it: real processes, their one line of error, their log."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from typing_extensions import Self

ROOT = Path(__file__).parent.parent.parent
SETTINGS = """
[broker]
retry_min_s = 0.1
retry_max_s = 0.5
[schedule]
min_battery_percent = false
max_cpu_percent = false
min_free_memory_mib = false
min_free_disk_mib = false
pause_on_under_voltage = false
pause_on_throttling = false
pause_temp_c = false
max_pressure_percent = false
min_input_idle_s = false
networks = []
allow_metered = true
min_spacing_s = 0
daily_training_s = false
dwell_s = 0
poll_s = 1
[trainer]
nice = 0
idle = false
[adoption]
holdout = 0
[gateway]
cohort = 2
min_devices = 2
deadline_s = 1
"""
_PATIENCE_S = 60.0  # a trainer takes a second, on a busy machine many


def python_for(user: int, group: int) -> str:
    """Return an interpreter that another user can run, with the packages of this one."""
    for python in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        try:
            subprocess.run(
                [python, "-c", "import fedclient, numpy, nacl"], env=environment(), check=True,
                capture_output=True, user=user, group=group, extra_groups=[], cwd="/",
            )  # fmt: skip
        except (OSError, subprocess.CalledProcessError):
            continue
        return python
    pytest.skip("LEFT OUT: another user cannot run this Python (it is in a folder that only root may enter)")


def environment(**extra: str) -> dict[str, str]:
    clean = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith("FEDCLIENT") and key != "STATE_DIRECTORY"
    }
    packages = os.pathsep.join([str(ROOT), *(path for path in sys.path if path.endswith("-packages"))])
    return {**clean, "PYTHONPATH": packages, "PYTHONUNBUFFERED": "1", **extra}


class Setup:
    """One state folder and the config file beside it."""

    def __init__(self, path: Path, settings: str = SETTINGS) -> None:
        self.path = path
        self.config = path.parent / f"{path.name}.toml"
        self.config.write_text(settings)
        self.before: Sequence[str] = ()  # what to start commands with, for example a false clock
        self.python = sys.executable
        self.user: int | None = None
        self.group: int | None = None

    def give_to(self, user: int, group: int) -> None:
        """Give the folder to another user, who runs the commands from now on; only root can."""
        self.python = python_for(user, group)
        self.user, self.group = user, group
        for path in [self.path, *self.path.rglob("*")]:
            os.chown(path, user, group)

    def _argv(self, words: tuple[object, ...]) -> list[str]:
        settings = ["--state", str(self.path), "--config", str(self.config)]
        return [*self.before, self.python, "-m", "fedclient", *settings, *map(str, words)]

    def run(self, *words: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self._argv(words), input=stdin, capture_output=True, text=True, check=False,
            env=environment(), cwd=self.path.parent, **self._identity(),
        )  # fmt: skip

    def ok(self, *words: object, stdin: str = "") -> str:
        done = self.run(*words, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def refused(self, *words: object, code: int = 1, stdin: str = "") -> str:
        """Run a command that must fail with one clear line, and return that line."""
        done = self.run(*words, stdin=stdin)
        assert "Traceback" not in done.stderr
        assert "defect" not in done.stderr
        last = done.stderr.splitlines()[-1] if done.stderr else ""
        assert (done.returncode, done.stdout) == (code, ""), (done.returncode, done.stdout, done.stderr)
        assert last.startswith("fedclient: "), done.stderr
        said = [line for line in done.stderr.splitlines() if line.startswith("fedclient: ")]
        assert said == [last]
        return last.removeprefix("fedclient: ")

    def daemon(self, *words: object) -> Daemon:
        return Daemon(self._argv(words), cwd=self.path.parent, **self._identity())

    def _identity(self) -> dict[str, Any]:
        return {} if self.user is None else {"user": self.user, "group": self.group, "extra_groups": []}


class Daemon:
    """`run` or `gateway run` as a process; its log can be waited on."""

    def __init__(self, argv: list[str], cwd: Path, **identity: Any) -> None:
        self._process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            env=environment(), cwd=cwd, **identity,
        )  # fmt: skip
        assert self._process.stderr is not None
        self._stream: IO[bytes] = self._process.stderr
        os.set_blocking(self._stream.fileno(), False)
        self._at = 0
        self.log = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._stream.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def expect(self, text: str, patience_s: float = _PATIENCE_S) -> str:
        """Wait for a line with `text` after the one that was found last, and return it."""
        until = time.monotonic() + patience_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._stream, selectors.EVENT_READ)
            while True:
                found = self.log.find(text, self._at)
                end = self.log.find("\n", found)
                if found >= 0 and end >= 0:
                    self._at = end
                    return self.log[self.log.rfind("\n", 0, found) + 1 : end]
                left = until - time.monotonic()
                came = left > 0 and selector.select(left)
                assert came, f"no line with {text!r} in:\n{self.log}"
                more = self._stream.read()
                assert more != b"", f"ended without a line with {text!r}:\n{self.log}"
                self.log += (more or b"").decode()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Keep the process from doing anything for a while."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def stop(self) -> int:
        """End it as systemd does, and return its exit code."""
        self._process.send_signal(signal.SIGTERM)
        drain = threading.Thread(target=self._drain)
        drain.start()
        code = self._process.wait(_PATIENCE_S)
        drain.join()
        assert "Traceback" not in self.log, self.log
        assert "defect" not in self.log, self.log
        return code

    def _drain(self) -> None:
        os.set_blocking(self._stream.fileno(), True)
        self.log += self._stream.read().decode()
