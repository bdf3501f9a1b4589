"""Heads for nodes, from the agent's side: when a child has to write them, and what it wrote.

The agent has no NumPy, so a child makes int8 of the head that apps have (`trainer/node_heads.py`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Sequence
from selectors import EVENT_READ

from fedclient.client.child import Child, describe
from fedclient.config import Config
from fedclient.device.folder import DeviceFolder
from fedclient.device.slots import Slots
from fedclient.errors import FedClientError
from fedclient.nodes import headfile
from fedclient.nodes.headfile import POOLED, HeadFile, NodeHeadArguments

log = logging.getLogger(__name__)

PATIENCE_S = 600.0  # a head of one layer takes half a second; tuning of many nodes takes longer
AGAIN_S = 300.0  # after a child that failed


class NodeHeads:
    """The files of heads, kept up with `current/`."""

    def __init__(self, folder: DeviceFolder, config: Config) -> None:
        self._folder = folder
        self._config = config
        self._slots = Slots(folder.current)
        self._files: dict[str, HeadFile | None] = {}
        self._seen: object = None  # of the slot and the nodes, when everything was in order
        self._child: Child | None = None
        self._making: object = None
        self._not_before_s = 0.0
        self.why = ""  # what there is to say of them

    def interests(self) -> dict[int, int]:
        """Descriptors to wait for."""
        return {} if self._child is None else {self._child.gone_descriptor: EVENT_READ}

    def deadline_s(self) -> float | None:
        """When a child has had time enough."""
        return None if self._child is None else self._child.kill_at_s

    def service(self, ready: Collection[int], nodes: Sequence[str], now_s: float, *, alone: bool) -> bool:
        """Look after the files; True when there are new ones to send."""
        if self._child is not None:
            if self._child.gone_descriptor in ready:
                return self._ended(now_s)
            if now_s >= self._child.kill_at_s:
                self._child.kill()
            return False
        wanted = (self._mark(), tuple(nodes))
        if not nodes or wanted == self._seen or not alone or now_s < self._not_before_s:
            return False
        if not self._missing(nodes):
            self._seen = wanted
            return False
        self._start(nodes, now_s)
        self._making = wanted
        return False

    def stop(self) -> None:
        """End a child; what it had not finished is done by the next."""
        if self._child is not None:
            self._child.stop(0.5)
            self._child = None

    def body(self, node: str) -> bytes:
        """Return the body of a node's head; empty where there is none."""
        name = node if self._config.nodes.personal else POOLED
        if name not in self._files:
            self._files[name] = headfile.load(self._folder.node_heads, name)
        found = self._files[name]
        return b"" if found is None else found.body

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
        marks: list[object] = []
        for path in (self._folder.current / "current.json", self._folder.node_heads):
            try:
                found = path.stat()
            except OSError:
                marks.append(None)
            else:
                marks.append((found.st_ino, found.st_mtime_ns))
        return tuple(marks)

    def _missing(self, nodes: Sequence[str]) -> bool:
        """Whether a file is not of the head that apps have now."""
        try:
            slot = self._slots.active()
        except FedClientError as error:
            log.warning("%s", error)
            return False
        if slot is None:
            return False
        names = nodes if self._config.nodes.personal else (POOLED,)
        self._files = {name: headfile.load(self._folder.node_heads, name) for name in names}
        self.why = next((one.why for one in self._files.values() if one is not None and not one.body), "")
        return any(one is None or one.adopted_sha256 != slot.head_sha256 for one in self._files.values())

    def _start(self, nodes: Sequence[str], now_s: float) -> None:
        trainer, adoption = self._config.trainer, self._config.adoption
        arguments = NodeHeadArguments(
            parent=os.getpid(),
            state=str(self._folder.path),
            nodes=tuple(nodes) if self._config.nodes.personal else (),
            tuned_epochs=adoption.finetune_epochs,
            min_judged=adoption.min_samples,
            feature_batch=None,
            threads=1,
            nice=trainer.nice,
            idle=trainer.idle,
            memory_mib=trainer.memory_mib,
            verbose=log.isEnabledFor(logging.INFO),
        )
        try:
            self._child = Child(arguments, now_s + PATIENCE_S)
        except OSError as error:
            self._failed(f"no child could be started: {error.strerror}", now_s)

    def _ended(self, now_s: float) -> bool:
        assert self._child is not None  # noqa: S101 - for the type checker
        code, self._child = self._child.finish(), None
        if code:
            self._failed(f"the heads of nodes were not written: {describe(code)}", now_s)
            return False
        self._files, self._seen = {}, None  # read anew: something may have changed meanwhile
        return True

    def _failed(self, why: str, now_s: float) -> None:
        log.error("%s", why)
        self.why, self._not_before_s = why, now_s + AGAIN_S
