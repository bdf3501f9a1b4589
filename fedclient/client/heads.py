"""The heads a device takes, fetches and puts together, within its owner's bounds.

    manifest -> route -> blobs of the route -> a child puts the head together -> the head, verified

What leads nowhere is replaced by the whole head, once; where that leads nowhere either, the pauses grow.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from math import inf

from fedclient.client import allowance
from fedclient.client.assembly import Assembly
from fedclient.client.child import describe
from fedclient.client.fetch import Fetch, check_sizes
from fedclient.client.link import Link
from fedclient.client.routes import Route, shortest, whole
from fedclient.config import Config
from fedclient.device.blobs import Blobs
from fedclient.device.folder import DeviceFolder
from fedclient.device.jobs import TrainerExit
from fedclient.device.journal import Journal
from fedclient.errors import ConfigError, StorageDamaged
from fedclient.values import BlobRef, HeadVersion, Manifest

log = logging.getLogger(__name__)

QUIET_S = 60.0  # without a chunk of a delta that is asked for: the broker may not have it, but the whole head
LOOK_S = 1.0  # while a child works: whether something speaks against it now
PAUSES_S = (30.0, 3600.0)  # after a child that failed: the first, and the longest; they double
MAX_CRASHES = 3  # of a child that adds deltas; then the whole head is tried


@dataclass(frozen=True, kw_only=True, slots=True)
class Came:
    """What it took to fetch a head, and what that was less than for the whole one."""

    bytes: int
    saved: int


class Heads:
    """Manifests in, heads out."""

    def __init__(self, folder: DeviceFolder, config: Config, journal: Journal, assembly: Assembly) -> None:
        self._folder = folder
        self._config = config
        self._journal = journal
        self._blobs = Blobs(folder.blobs)
        self.assembly = assembly
        self._forget(None)

    def _forget(self, version: HeadVersion | None) -> None:
        """Begin with another head."""
        self._version = version  # which head is being fetched
        self._fetch: Fetch | None = None
        self._route: Route | None = None
        self._only_whole = False  # its deltas led nowhere
        self._quiet_from_s: float | None = None  # since when nothing came of a delta
        self._failures = 0
        self._not_before_s = -inf
        self.look_again_s: float | None = None  # when `begin` has something to do, if nothing comes before
        self._target: Manifest | None = None  # of the head that the child works on
        self.came: Came | None = None  # how this head came; None: it was here
        self.trouble = ""  # why the head that is wanted is not here yet, where that is not the broker's fault

    def admit(self, manifest: Manifest) -> None:
        """Check a verified manifest against the owner's bounds; raises ConfigError.

        A gateway's model is code that runs here: `[privacy] allowed_models` pins it.
        """
        allowed = self._config.privacy.allowed_models
        if allowed and manifest.model.hash.hex() not in allowed:
            raise ConfigError(f"model {manifest.model.hash.hex()} is not in [privacy] allowed_models")
        allowance.check(self._config.limits, manifest)
        missing = {ref for ref in (manifest.model, manifest.head) if not self._blobs.has(ref)}
        if manifest.head in missing:  # as it travels it counts too: no route is longer than the whole one
            missing.add(manifest.full)
        check_sizes(
            tuple(missing),
            self._config.limits.max_model_mib << 20,
            shutil.disk_usage(self._folder.path).free,
        )

    def job_may_finish(self, base: HeadVersion | None, manifest: Manifest) -> bool:
        """PROTOCOL 5.5: does the job on `base` still count under the new manifest?"""
        before = None if base is None else self._journal.manifest(base)
        if before is None:
            return False
        new, old = manifest.head_version, before.head_version
        same = new.generation == old.generation and manifest.model.hash == before.model.hash
        behind = new.version - old.version
        same_codec = before.plan.body_codec == manifest.plan.body_codec  # statistics have their own
        return same and same_codec and behind <= manifest.plan.max_staleness

    # --- fetching -----------------------------------------------------------------------------------
    @property
    def poisoned(self) -> bool:
        """Whether the broker's copies of what is fetched were bad too often, and no other way is left."""
        return self._is_bad and not self._on_delta

    def is_fetched(self, version: HeadVersion) -> bool:
        """Whether nothing of this head has to come over the network any more: the rest is a child's work."""
        if self.assembly.child is not None:
            return True
        if version != self._version:
            return False
        done = self._fetch is not None and self._fetch.done
        return done or (self._target is not None and self._is_here(self._target))

    @property
    def _is_bad(self) -> bool:
        return self._fetch is not None and self._fetch.poisoned and not self._fetch.done

    @property
    def _on_delta(self) -> bool:
        """Whether a delta is what is fetched now."""
        if self._fetch is None or self._route is None or self._route.base is None:
            return False
        return self._fetch.fetching in self._route.steps

    def begin(self, version: HeadVersion, link: Link | None, now_s: float) -> bool:
        """Do what is next for this head: fetch it, have it put together; True when it is here."""
        manifest = self._journal.manifest(version)
        if manifest is None or link is None:
            if link is not None:
                link.subscribe(link.topics.manifest)  # ours is damaged: the broker sends it again
            return False
        if self.assembly.child is not None:  # also of another head: the next route may begin from it
            self.look_again_s = now_s + LOOK_S
            return False
        if version != self._version:
            self.finish(link)
            self._forget(version)
        if self._is_here(manifest):
            self.finish(link)
            self.trouble, self._failures = "", 0
            return True
        if now_s < self._not_before_s:
            self.look_again_s = self._not_before_s
            return False
        return self._go_on(manifest, link, now_s)

    def _go_on(self, manifest: Manifest, link: Link, now_s: float) -> bool:
        """Fetch, and when all of the route is here have the child do its part; True when nothing is left."""
        if self._on_delta and (self._is_bad or self._is_quiet(now_s)):
            log.warning("head %s is fetched whole: its deltas do not come", manifest.head_version)
            self._only_whole = True
            self.finish(link)
        was_fetched = self.is_fetched(manifest.head_version)
        if self._fetch is None or self._route is None or self._is_bad:
            self.finish(link)
            self._route, self.came = self._shortest(manifest), None
            self._fetch = Fetch((manifest.model, *self._route.steps), self._blobs, link.topics)
        self.update_subscriptions(link)
        if not self._fetch.done:
            self.look_again_s = self._patience_s(now_s)
        elif self._is_here(manifest):
            self.finish(link)
            return True
        elif was_fetched:
            self._assemble(manifest, self._route, now_s)
        else:
            self.look_again_s = now_s  # whoever asks looks first whether a child may work now
        return False

    def _shortest(self, manifest: Manifest) -> Route:
        if self._only_whole:
            return whole(manifest)
        return shortest(manifest, self._journal.manifest, self._blobs.has)

    def _is_here(self, manifest: Manifest) -> bool:
        return self._blobs.has(manifest.model) and self._blobs.has(manifest.head)

    def _patience_s(self, now_s: float) -> float | None:
        """Return until when a delta is waited for; None: nothing else can take the place of what is."""
        if not self._on_delta:
            return None
        if self._quiet_from_s is None:
            self._quiet_from_s = now_s
        return self._quiet_from_s + QUIET_S

    def _is_quiet(self, now_s: float) -> bool:
        return self._quiet_from_s is not None and now_s >= self._quiet_from_s + QUIET_S

    def take(self, topic: str, payload: bytes) -> None:
        """Use a chunk; `begin` does what follows from it."""
        if self._fetch is not None and self._fetch.take(topic, payload):
            self._quiet_from_s = None  # only a sound chunk: anybody can publish what is none, again and again

    def update_subscriptions(self, link: Link) -> None:
        """Subscribe to what is wanted now, and to nothing else."""
        if self._fetch is not None and link.connected:
            self._fetch.update(link.subscribe, link.unsubscribe)

    def reconnected(self) -> None:
        """Forget subscriptions: the broker has."""
        self._quiet_from_s = None
        if self._fetch is not None:
            self._fetch.reconnected()

    def finish(self, link: Link | None) -> None:
        """Give up a fetch that is done or given up, with its subscriptions."""
        if self._fetch is not None and link is not None and link.connected:
            self._fetch.end(link.unsubscribe)
        self._fetch = None
        self._quiet_from_s = self.look_again_s = None

    def hold_back(self, link: Link | None) -> None:
        """Do nothing for a head now, and have nothing done; what came is kept."""
        if self._fetch is not None and not self._fetch.done:
            self.finish(link)
        self.assembly.cut_off()

    # --- putting together ---------------------------------------------------------------------------
    def _assemble(self, manifest: Manifest, route: Route, now_s: float) -> None:
        if self.assembly.start(manifest, route, now_s):
            self._target = manifest
            self.look_again_s = now_s + LOOK_S
        else:
            self._failed(TrainerExit.CRASHED, now_s)

    def service(self, ready: Collection[int], now_s: float) -> bool:
        """Look after the child; True when it is gone, and `begin` shall go on."""
        code = self.assembly.service(ready, now_s)
        if code is None or self._target is None or self._route is None:
            return False
        if self._blobs.has(self._target.head):  # that it was asked to stop came too late
            self.came = Came(bytes=self._route.bytes, saved=self._target.full.size - self._route.bytes)
        elif code != TrainerExit.STOPPED:
            self._failed(code or TrainerExit.CRASHED, now_s)
        if code != TrainerExit.STOPPED:
            self._fetch = None  # what is here may have changed: somebody may have found the model damaged
        return True

    def _failed(self, code: int, now_s: float) -> None:
        """Take the whole head where deltas are at fault; else wait, ever longer, and say so once."""
        route, self._failures = self._route, self._failures + 1
        at_fault = code in {TrainerExit.ASTRAY, TrainerExit.LOST} or self._failures >= MAX_CRASHES
        if route is not None and route.base is not None and at_fault:
            log.warning("head %s is fetched whole, its deltas led nowhere: %s", self._version, describe(code))
            self._blobs.remove(route.steps)
            self._only_whole, self._failures, self.look_again_s = True, 0, now_s
            return
        trouble = f"head {self._version} cannot be put together: {describe(code)}"
        if trouble != self.trouble:  # once per change
            log.error("%s; trying again later", trouble)
        first_s, longest_s = PAUSES_S
        pause_s = min(longest_s, first_s * 2.0 ** min(self._failures - 1, 16))
        self.trouble, self._not_before_s, self.look_again_s = trouble, now_s + pause_s, now_s + pause_s

    # --- what is here -------------------------------------------------------------------------------
    def check(self, version: HeadVersion, keep: tuple[HeadVersion | None, ...]) -> None:
        """See that this head and its model are here; blobs of any other head that is not in `keep` go.

        Of a head that is not here yet its route is kept too.  Raises StorageDamaged when the bytes of
        `version` are not here as they were stored.
        """
        manifest = self._journal.manifest(version)
        if manifest is None:
            raise StorageDamaged(f"the manifest of head {version} is damaged: it will be fetched again")
        if not self._is_here(manifest):
            raise StorageDamaged(f"model or head of {version} is gone: it will be fetched again")
        kept = [self._journal.manifest(other) for other in keep if other is not None]
        needed = [manifest, *(other for other in kept if other is not None)]
        if self.assembly.child is None:
            self._blobs.sweep()
        self._blobs.keep_only([ref for one in needed for ref in self._refs(one)])

    def _refs(self, manifest: Manifest) -> tuple[BlobRef, ...]:
        """Return what is needed of a head."""
        here = manifest.model, manifest.head
        return here if self._blobs.has(manifest.head) else (*here, manifest.full, *manifest.deltas)
