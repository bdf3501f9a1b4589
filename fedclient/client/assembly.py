"""The child that puts a fetched head together, from the agent's side: at most one at a time.

It works on stored blobs alone and writes one, so it may run beside a trainer, and be ended at any
moment: what it was doing is done again.  The kernel ends it with its agent (`die_with`).
"""

from __future__ import annotations

import logging
import os
import selectors
from collections.abc import Callable, Collection
from math import isinf

from fedclient.client.child import Child
from fedclient.client.routes import Route
from fedclient.config import TrainerSettings
from fedclient.device.assembly import AssembleArguments, named
from fedclient.device.blobs import Blobs
from fedclient.device.folder import DeviceFolder
from fedclient.device.jobs import TrainerExit
from fedclient.values import Manifest

log = logging.getLogger(__name__)

TIMEOUT_S = 600.0  # it takes a second or so; on a busy board it runs only when nothing else does
_MIB = 1 << 20
_BASE_MIB, _HEADS = 64, 32  # memory: NumPy itself, and so many times the head (measured: 15 and 28)


class Assembly:
    """Starts the child, and sees it end."""

    def __init__(self, folder: DeviceFolder, trainer: TrainerSettings) -> None:
        self._folder = folder
        self._blobs = Blobs(folder.blobs)
        self._trainer = trainer
        self.begin: Callable[[AssembleArguments, float], Child] = Child
        self.child: Child | None = None

    def start(self, manifest: Manifest, route: Route, now_s: float) -> bool:
        """Put this head together out of blobs that are all here; False where no child can be started."""
        self._blobs.sweep()
        try:
            self.child = self.begin(self._arguments(manifest, route), now_s + TIMEOUT_S)
        except OSError as error:
            log.warning("no child to put head %s together: %s", manifest.head_version, error.strerror)
            return False
        log.info("putting head %s together pid=%d", manifest.head_version, self.child.pid)
        return True

    def _arguments(self, manifest: Manifest, route: Route) -> AssembleArguments:
        enough_mib = _BASE_MIB + _HEADS * manifest.head.size // _MIB
        return AssembleArguments(
            parent=os.getpid(),
            blobs=str(self._folder.blobs),
            head=named(manifest.head),
            base=None if route.base is None else named(route.base),
            steps=tuple(named(step) for step in route.steps),
            tensors=tuple((tensor.name, tensor.shape) for tensor in manifest.tensors),
            nice=self._trainer.nice,
            idle=self._trainer.idle,
            memory_mib=min(enough_mib, self._trainer.memory_mib or enough_mib),
            verbose=log.isEnabledFor(logging.INFO),
        )

    def interests(self) -> dict[int, int]:
        """Wake up when the child is gone."""
        return {} if self.child is None else {self.child.gone_descriptor: selectors.EVENT_READ}

    def deadline_s(self) -> float | None:
        """Wake up when it hangs."""
        return None if self.child is None or isinf(self.child.kill_at_s) else self.child.kill_at_s

    def service(self, ready: Collection[int], now_s: float) -> int | None:
        """Look after the child; returns the exit code of one that is gone, STOPPED if that was our wish."""
        child = self.child
        if child is not None and child.gone_descriptor in ready:
            self.child, code = None, child.finish()
            return TrainerExit.STOPPED if code and child.was_cut_off else code
        if child is not None and now_s >= child.kill_at_s:
            log.error("putting a head together takes longer than %.0f s: ended", TIMEOUT_S)
            child.kill()
        return None

    def cut_off(self) -> None:
        """End the child: whatever speaks against its work now, it is done again later."""
        if self.child is not None and not self.child.was_cut_off:
            self.child.cut_off()

    def stop(self) -> None:
        """End the child now, and wait for that."""
        if self.child is not None:
            self.child.kill()
            self.child.finish()
            self.child = None
