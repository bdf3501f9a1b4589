"""Programs that are asked where no file tells: rarely, for a short time, and never on a recorded tree."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress

from fedclient.scheduler.probe_files import Tree, Unreadable

IDLE_S = 60.0  # a process started once a minute is what an idle board can afford
TRAINING_S = 10.0  # a trainer must stop soon after conditions fail
TIMEOUT_S = 2.0  # the agent does nothing else meanwhile
KILLED_S = 0.5  # from a kill to the end, unless a driver hangs
MAX_BYTES = 1 << 16  # more of an answer nobody reads
RECORDED = "/commands"  # in a recorded tree: what each program printed


class Commands:
    """Runs each program at most once a period, and remembers what it said, failures too."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._now_s = 0.0
        self._period_s = IDLE_S
        self._said: dict[str, tuple[float, str | Unreadable]] = {}

    def at(self, now_s: float, *, training: bool) -> None:
        """Set the moment of the questions that follow."""
        self._now_s = now_s
        self._period_s = TRAINING_S if training else IDLE_S

    def ask(self, name: str, command: Sequence[str]) -> str:
        """Return what the command prints; `name` is that of its record.  Raises Unreadable."""
        if not self._tree.live:
            return self._tree.text(f"{RECORDED}/{name}")
        at_s, said = self._said.get(name, (0.0, None))
        if said is None or not 0 <= self._now_s - at_s < self._period_s:
            said = _run(command)
            self._said[name] = self._now_s, said
        if isinstance(said, Unreadable):
            raise Unreadable(str(said), absent=said.absent)
        return said


def _run(command: Sequence[str]) -> str | Unreadable:
    """Run it; whatever goes wrong is the reason why there is no answer."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "LC_ALL": "C"},
            start_new_session=True,  # what it starts is ended with it
        )
    except FileNotFoundError:
        return Unreadable(f"there is no program {command[0]}", absent=True)
    except (OSError, ValueError) as error:
        return Unreadable(f"`{' '.join(command)}` cannot be run: {getattr(error, 'strerror', None) or error}")
    heard = _heard(process)
    if heard is None:
        return Unreadable(f"`{' '.join(command)}` took longer than {TIMEOUT_S:g} s")
    said, complaint = heard
    if process.returncode == 0 and said:
        return said
    complaint = (complaint or said or "it said nothing").splitlines()[0]
    return Unreadable(f"`{' '.join(command)}` failed (exit {process.returncode}): {complaint[:200]}")


def _heard(process: subprocess.Popen[bytes]) -> tuple[str, str] | None:
    """Return the beginning of what it prints, and of its errors; None: it took too long, and is ended."""
    until_s = time.monotonic() + TIMEOUT_S
    pipes = [pipe for pipe in (process.stdout, process.stderr) if pipe is not None]
    said = {pipe.fileno(): b"" for pipe in pipes}
    with ExitStack() as stack, selectors.PollSelector() as selector:
        for pipe in pipes:
            stack.enter_context(pipe)
            selector.register(pipe, selectors.EVENT_READ)
        while selector.get_map() and (left_s := until_s - time.monotonic()) > 0:
            for ready, _ in selector.select(left_s):
                part = os.read(ready.fd, MAX_BYTES)
                said[ready.fd] = (said[ready.fd] + part)[:MAX_BYTES]
                if not part:
                    selector.unregister(ready.fileobj)
        if selector.get_map() or not _ended(process, until_s - time.monotonic()):
            with suppress(OSError):  # it became another user: then it may go on, unheard
                os.killpg(process.pid, signal.SIGKILL)  # not waited for yet: the number is still its own
            _ended(process, KILLED_S)
            return None
    out, errors = (text.decode(errors="replace").strip() for text in said.values())
    return out, errors


def _ended(process: subprocess.Popen[bytes], wait_s: float) -> bool:
    try:
        process.wait(max(0.0, wait_s))
    except subprocess.TimeoutExpired:
        return False
    return True
