"""Programs that are asked where no file tells: rarely, for a short time, and never on a recorded tree."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence

from fedclient.scheduler.probe_files import Tree, Unreadable

IDLE_S = 60.0  # a process started once a minute is what an idle board can afford
TRAINING_S = 10.0  # a trainer must stop soon after conditions fail
TIMEOUT_S = 2.0  # the agent does nothing else meanwhile
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
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except FileNotFoundError:
        return Unreadable(f"there is no program {command[0]}", absent=True)
    except subprocess.TimeoutExpired:
        return Unreadable(f"`{' '.join(command)}` took longer than {TIMEOUT_S:g} s")
    except (OSError, ValueError) as error:
        return Unreadable(f"`{' '.join(command)}` cannot be run: {getattr(error, 'strerror', None) or error}")
    said = done.stdout.decode(errors="replace").strip()
    if done.returncode == 0 and said:
        return said
    complaint = (done.stderr.decode(errors="replace").strip() or said or "it said nothing").splitlines()[0]
    return Unreadable(f"`{' '.join(command)}` failed (exit {done.returncode}): {complaint[:200]}")
