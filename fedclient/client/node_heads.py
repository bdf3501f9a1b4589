"""Heads for nodes, from the agent's side: when a child has to write them, and what it wrote.

The agent has no NumPy, so a child makes int8 of the head that apps have (`trainer/node_heads.py`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from math import inf, isinf
from pathlib import Path
from selectors import EVENT_READ
from typing import Final

from fedclient.client.child import Child, describe
from fedclient.config import Config
from fedclient.device.folder import DeviceFolder
from fedclient.device.slots import Slots
from fedclient.errors import FedClientError
from fedclient.nodes import headfile
from fedclient.nodes.headfile import POOLED, HeadFile, NodeHeadArguments

log = logging.getLogger(__name__)

PATIENCE_S: Final = 600.0  # a head of one layer takes half a second; tuning of many nodes takes longer
AGAIN_S: Final = 300.0  # after a child that failed
LOOK_S: Final = 1.0  # while a child works: whether something speaks against it now
LOOK_AGAIN_S: Final = 60.0  # while something keeps a child back
TRAINER_RUNS: Final = "a trainer runs"  # which ends soon: looked at as often as a child
GROWTH_S: Final = 3600.0  # between two times that heads are tuned anew because nodes gave more labels

HeldBack = Callable[[], str]  # why no child may work now; empty when one may


class NodeHeads:
    """The files of heads, kept up with `current/`, and heads of nodes' own with what these have learned."""

    def __init__(self, folder: DeviceFolder, config: Config) -> None:
        self._folder = folder
        self._config = config
        self._slots = Slots(folder.current)
        self._files: dict[str, HeadFile | None] = {}  # as they are since `_files_mark`
        self._files_mark: object = None
        self._seen: object = None  # of the slot and the nodes, when everything was in order
        self._outgrown: set[str] = set()  # whose own heads are to be made anew
        self._child: Child | None = None
        self._look_s: float | None = None  # when to look after the child, or whether one may work now
        self._not_before_s = -inf
        self._not_grown_before_s = -inf
        self.why = ""  # what there is to say of them

    def interests(self) -> dict[int, int]:
        """Descriptors to wait for."""
        return {} if self._child is None else {self._child.gone_descriptor: EVENT_READ}

    def deadline_s(self) -> float | None:
        """When to look after a child, or for a good moment to start one; None: there is nothing to do."""
        return self._look_s

    def service(
        self, ready: Collection[int], nodes: Sequence[str], now_s: float, held_back: HeldBack
    ) -> bool:
        """Look after the files; True when there are other ones to send."""
        if self._child is not None:
            return self._look_after(self._child, ready, now_s, held_back)
        changed = self._refresh()
        self._make(nodes, now_s, held_back)
        return changed

    def _make(self, nodes: Sequence[str], now_s: float, held_back: HeldBack) -> None:
        """Start a child where there are files to make, and it may."""
        wanted = (self._mark(), tuple(nodes))
        if not nodes or now_s < self._not_before_s or (wanted == self._seen and not self._outgrown):
            return
        if self._look_s is not None and now_s < self._look_s:
            return
        self._look_s = None
        names = self._missing(nodes)
        if not names:
            self._seen = wanted
        elif why := held_back():
            if why != TRAINER_RUNS:
                log.info("no heads for nodes are made now: %s", why)
            self._look_s = now_s + (LOOK_S if why == TRAINER_RUNS else LOOK_AGAIN_S)
        else:
            self._start(names, now_s)

    def committed(self, labels: Callable[[], Mapping[str, int]], now_s: float) -> None:
        """See which nodes have outgrown their heads; `labels` counts those that each has given."""
        if not self._config.nodes.personal or self._child is not None or now_s < self._not_grown_before_s:
            return
        given, least = labels(), self._config.adoption.min_samples
        for name, file in self._files.items():
            if file is not None and file.is_outgrown(given.get(name, 0), least):
                self._outgrown.add(name)

    def stop(self) -> None:
        """End a child; what it had not finished is done by the next."""
        if self._child is not None:
            self._child.stop(0.5)
            self._child = None

    def body(self, node: str) -> bytes | None:
        """Return the body of a node's head: empty where it gets none, None where none was made yet."""
        self._refresh()
        name = node if self._config.nodes.personal else POOLED
        if name not in self._files:
            self._files[name] = headfile.load(self._folder.node_heads, name)
        found = self._files[name]
        return None if found is None else found.body

    def _refresh(self) -> bool:
        """Forget files as they were before somebody wrote there: a child, or a purge."""
        mark = _mark_of(self._folder.node_heads)
        if mark == self._files_mark:
            return False
        self._files, self._files_mark = {}, mark
        return True

    def remove_others(self, nodes: set[str]) -> None:
        """Let go of heads of nodes that are no more."""
        try:
            headfile.remove_others(
                self._folder.node_heads, nodes if self._config.nodes.personal else {POOLED}
            )
        except FedClientError as error:
            log.warning("%s", error)

    def _mark(self) -> object:
        """Tell adopted heads apart without reading them, and see files go: both are replaced by rename."""
        return _mark_of(self._folder.current / "current.json"), _mark_of(self._folder.node_heads)

    def _missing(self, nodes: Sequence[str]) -> tuple[str, ...]:
        """Return the files to make: those that are not of the head that apps have now, or outgrown."""
        try:
            slot = self._slots.active()
        except FedClientError as error:
            log.warning("%s", error)
            return ()
        if slot is None:
            return ()
        names = nodes if self._config.nodes.personal else (POOLED,)
        self._files = {name: headfile.load(self._folder.node_heads, name) for name in names}
        self.why = next((one.why for one in self._files.values() if one is not None and not one.body), "")
        self._outgrown &= set(names)
        return tuple(
            name
            for name, file in self._files.items()
            if file is None or file.adopted_sha256 != slot.head_sha256 or name in self._outgrown
        )

    def _start(self, names: tuple[str, ...], now_s: float) -> None:
        trainer, adoption = self._config.trainer, self._config.adoption
        arguments = NodeHeadArguments(
            parent=os.getpid(),
            state=str(self._folder.path),
            nodes=names if self._config.nodes.personal else (),
            tuned_epochs=adoption.finetune_epochs,
            min_judged=adoption.min_samples,
            nice=trainer.nice,
            idle=trainer.idle,
            memory_mib=trainer.memory_mib,
            verbose=log.isEnabledFor(logging.INFO),
        )
        if self._outgrown:
            self._outgrown, self._not_grown_before_s = set(), now_s + GROWTH_S
        try:
            self._child = Child(arguments, now_s + PATIENCE_S)
        except OSError as error:
            self._failed(f"no child could be started: {error.strerror}", now_s)
        else:
            self._look_s = now_s + LOOK_S

    def _look_after(self, child: Child, ready: Collection[int], now_s: float, held_back: HeldBack) -> bool:
        if child.gone_descriptor in ready:
            self._child, self._look_s = None, None
            return self._ended(child, now_s)
        if now_s >= child.kill_at_s:
            child.kill()
        elif self._look_s is not None and now_s >= self._look_s:
            self._look_s = now_s + LOOK_S
            # One that only writes the common head is done in less time than it takes to begin again.
            if self._config.nodes.personal and (why := held_back()):
                log.info("the heads for nodes wait: %s", why)
                child.cut_off()
        if isinf(child.kill_at_s):
            self._look_s = None  # it was ended, and tells when it is gone
        return False

    def _ended(self, child: Child, now_s: float) -> bool:
        code = child.finish()
        if code and not child.was_cut_off:
            self._failed(f"the heads of nodes were not written: {describe(code)}", now_s)
            return False
        self._files, self._seen = {}, None  # read anew: something may have changed meanwhile
        return True

    def _failed(self, why: str, now_s: float) -> None:
        log.error("%s", why)
        self.why, self._not_before_s = why, now_s + AGAIN_S


def _mark_of(path: Path) -> object:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns
