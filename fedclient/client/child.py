"""The trainer from the agent's side: start it, see it end, stop it in three steps.

A pipe that only the child holds the other end of becomes readable when the child is gone,
however it went: the agent's selector waits for that like for any socket.
"""

from __future__ import annotations

import json
import logging
import math
import os
import select
import signal
import subprocess
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from fedclient.device.jobs import JobArguments, Jobs, Lease, TrainerExit
from fedclient.device.judgement import JudgeArguments
from fedclient.storage import Database

if TYPE_CHECKING:
    from fedclient.nodes.headfile import NodeHeadArguments

log = logging.getLogger(__name__)

ORPHAN_S = 5.0  # a killed process is gone in milliseconds, unless the disk hangs

_IN_WORDS: dict[int, str] = {
    TrainerExit.DATA: "the samples are too few, or do not fit the model",
    TrainerExit.MODEL: "this model cannot be trained here",
    TrainerExit.DISK: "the disk is full or busy",
    TrainerExit.LOST: "the stored head or model is damaged",
    TrainerExit.ASTRAY: "what was fetched does not lead to the head that the manifest names",
}
_VERBS: dict[type, str] = {JobArguments: "job", JudgeArguments: "judge"}
Arguments = JobArguments | JudgeArguments


class Child:
    """One running trainer, or one that only judges, or writes the heads of nodes."""

    def __init__(self, arguments: Arguments | NodeHeadArguments, timeout_at_s: float) -> None:
        self.only_judges = isinstance(arguments, JudgeArguments)
        verb = _VERBS.get(type(arguments), "node-heads")
        self._gone, kept_by_child = os.pipe()
        # one core for the head; BLAS would start a thread for each core of the board
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        try:
            self._process = subprocess.Popen(  # its standard error is the agent's
                [sys.executable, "-m", "fedclient.trainer", verb, json.dumps(asdict(arguments))],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(kept_by_child,),
                env=environment,
            )
        except OSError:
            os.close(self._gone)
            raise
        finally:
            os.close(kept_by_child)
        self._kill_at_s = timeout_at_s
        self._asked = False
        self.was_cut_off = False

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def gone_descriptor(self) -> int:
        """Readable once the child has ended."""
        return self._gone

    @property
    def kill_at_s(self) -> float:
        """When to end the child without asking (boot-time seconds): it hangs, or did not stop in time."""
        return self._kill_at_s

    @property
    def asked(self) -> bool:
        """Whether it was asked to stop."""
        return self._asked

    def ask_to_stop(self, now_s: float, grace_s: float) -> None:
        """Ask it to checkpoint and end within `grace_s`; once is enough."""
        if not self._asked:
            self._kill_at_s = min(self._kill_at_s, now_s + grace_s)
            self._ask()

    def _ask(self) -> None:
        self._asked = True
        self._process.send_signal(signal.SIGTERM)

    def cut_off(self) -> None:
        """End it at once on purpose: what it did since its last checkpoint is done again."""
        self.was_cut_off = True
        self.kill()

    def kill(self) -> None:
        """End it at once, which a disk that hangs puts off; `finish` still has to be called."""
        self._kill_at_s = math.inf
        self._process.kill()

    def stop(self, grace_s: float) -> None:
        """Ask it to stop, and wait: it may take `grace_s`, then it is ended."""
        self._ask()
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.kill()
        self.finish()

    def finish(self) -> int:
        """Wait for the end, which is near, and return the exit code."""
        os.close(self._gone)
        return self._process.wait()


def describe(code: int) -> str:
    """Say in words what an exit code means, for the log."""
    if code < 0:
        return f"ended by signal {signal.Signals(-code).name}"
    return _IN_WORDS.get(code, f"it crashed (exit {code})")


def end_orphan(database: Database) -> None:
    """End a trainer that an agent before this one left behind (PROTOCOL 5.6)."""
    lease = Jobs(database).lease()
    if lease is None or Lease.of(lease.pid) != lease:
        return
    log.warning("a trainer of an earlier agent is still running, ending it pid=%d", lease.pid)
    try:
        descriptor = os.pidfd_open(lease.pid)
    except OSError:
        return  # it ended meanwhile
    try:
        if Lease.of(lease.pid) == lease:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            # only when it is gone is what the database says its last word
            select.select([descriptor], [], [], ORPHAN_S)
    finally:
        os.close(descriptor)
