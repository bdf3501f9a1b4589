"""The heads a device takes and fetches, within its owner's bounds.

    manifest -> route -> blobs of the route, verified; a head is here when all of its route is

The first trainer or judge that reads a head puts it together (`trainer/assemble.py`).  One that fails in that
says so by its end: what leads nowhere is replaced by the whole head, once; where that leads nowhere
either, the pauses grow.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from math import inf

from fedclient.client import allowance
from fedclient.client.child import describe
from fedclient.client.fetch import Fetch, check_sizes
from fedclient.client.link import Link
from fedclient.config import Config
from fedclient.device.blobs import Blobs
from fedclient.device.folder import DeviceFolder
from fedclient.device.jobs import TrainerExit
from fedclient.device.journal import Journal
from fedclient.device.routes import Route, is_complete, shortest, whole
from fedclient.errors import ConfigError, StorageDamaged
from fedclient.values import BlobRef, HeadVersion, Manifest

log = logging.getLogger(__name__)

QUIET_S = 60.0  # without a chunk of a delta that is asked for: the broker may not have it, but the whole head
PAUSES_S = (30.0, 3600.0)  # after a child that put no head together: the first, and the longest; they double
MAX_CRASHES = 2  # of a child that was to add deltas; then the whole head is tried, before a job is given up


@dataclass(frozen=True, kw_only=True, slots=True)
class Came:
    """What it took to fetch a head, and what that was less than for the whole one."""

    bytes: int
    saved: int


class Heads:
    """Manifests in, heads out."""

    def __init__(self, folder: DeviceFolder, config: Config, journal: Journal) -> None:
        self._folder = folder
        self._config = config
        self._journal = journal
        self._blobs = Blobs(folder.blobs)
        self._forget(None)

    def _forget(self, version: HeadVersion | None) -> None:
        """Begin with another head."""
        self._version = version  # which head is being fetched
        self._fetch: Fetch | None = None
        self._route: Route | None = None
        self._missing_bytes = 0  # of that route, when it was chosen
        self._only_whole = False  # its deltas led nowhere
        self._quiet_from_s: float | None = None  # since when nothing came of a delta
        self._failures = 0
        self._not_before_s = -inf
        self.look_again_s: float | None = None  # when `begin` has something to do, if nothing comes before
        self.came: Came | None = None  # how this head came; None: it was here
        self._reported = ""  # the last trouble that was logged
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
        """Whether nothing of this head has to come over the network any more."""
        manifest = self._journal.manifest(version)
        return manifest is not None and self._is_here(manifest)

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
        """Fetch what leads to this head; True when all of it is here, and a child may put it together."""
        manifest = self._journal.manifest(version)
        if manifest is None or link is None:
            if link is not None:
                link.subscribe(link.topics.manifest)  # ours is damaged: the broker sends it again
            return False
        if version != self._version:
            self.finish(link)
            self._forget(version)
        if now_s < self._not_before_s:
            self.look_again_s = self._not_before_s
            return False
        return self._go_on(manifest, link, now_s)

    def _go_on(self, manifest: Manifest, link: Link, now_s: float) -> bool:
        """Fetch along a route, or another one where that does not come; True when nothing is left."""
        if self._on_delta and (self._is_bad or self._is_quiet(now_s)):
            log.warning("head %s is fetched whole: its deltas do not come", manifest.head_version)
            self._only_whole = True
            self.finish(link)
        if self._fetch is None or self._route is None or self._is_bad:
            self.finish(link)
            self._route = self._shortest(manifest)
            self._missing_bytes = sum(step.size for step in self._route.steps if not self._blobs.has(step))
            self._fetch = Fetch((manifest.model, *self._route.steps), self._blobs, link.topics)
        self.update_subscriptions(link)
        if not self._fetch.done:
            self.look_again_s = self._patience_s(now_s)
            return False
        self.finish(link)
        self._note_what_came(manifest)
        self.trouble = ""
        return True

    def _note_what_came(self, manifest: Manifest) -> None:
        came = self._missing_bytes
        self.came = Came(bytes=came, saved=max(0, manifest.full.size - came)) if came else None

    def _shortest(self, manifest: Manifest) -> Route:
        """Return the way that a child will find to this head; without steps where the head itself is here."""
        if self._blobs.has(manifest.head):
            return Route(base=None, steps=())
        if self._only_whole:
            return whole(manifest)
        return shortest(manifest, self._journal.manifest, self._blobs.has)

    def _is_here(self, manifest: Manifest) -> bool:
        """Whether the model is here, and the head or all that leads to it."""
        return self._blobs.has(manifest.model) and is_complete(self._shortest(manifest), self._blobs.has)

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

    # --- putting together ---------------------------------------------------------------------------
    def is_not_made(self, version: HeadVersion, code: int, now_s: float) -> bool:
        """Tell whether a child that ended like this was to put this head together, and did not.

        Then the whole head is next where deltas are at fault; else it is tried again, ever more rarely.
        """
        manifest = self._journal.manifest(version)
        if manifest is None or self._blobs.has(manifest.head):
            return False
        if version != self._version:
            if self._fetch is not None:  # of the head that comes in its place
                return False
            self._forget(version)
        self._failed(manifest, code, now_s)
        return True

    def _failed(self, manifest: Manifest, code: int, now_s: float) -> None:
        # The one that was taken, if it is known: blobs of it may be gone by now.
        route = self._route or self._shortest(manifest)
        self._failures += 1
        at_fault = code in {TrainerExit.ASTRAY, TrainerExit.LOST} or self._failures >= MAX_CRASHES
        if route.base is not None and at_fault:
            log.warning("head %s is fetched whole, its deltas led nowhere: %s", self._version, describe(code))
            self._blobs.remove(route.steps)
            self._only_whole, self._failures = True, 0
            return
        self.trouble = f"head {self._version} cannot be put together: {describe(code)}"
        if self.trouble != self._reported:  # once per change
            log.error("%s; trying again later", self.trouble)
        self._reported = self.trouble
        first_s, longest_s = PAUSES_S
        self._not_before_s = now_s + min(longest_s, first_s * 2.0 ** min(self._failures - 1, 16))

    # --- what is here -------------------------------------------------------------------------------
    def check(self, version: HeadVersion, keep: tuple[HeadVersion | None, ...]) -> None:
        """See that this head and its model are here; blobs of any other head that is not in `keep` go.

        Of a head that is not put together yet its route is kept too.  Raises StorageDamaged when the bytes of
        `version` are not here as they were stored.
        """
        manifest = self._journal.manifest(version)
        if manifest is None:
            raise StorageDamaged(f"the manifest of head {version} is damaged: it will be fetched again")
        if not self._is_here(manifest):
            raise StorageDamaged(f"model or head of {version} is gone: it will be fetched again")
        kept = [self._journal.manifest(other) for other in keep if other is not None]
        needed = [manifest, *(other for other in kept if other is not None)]
        self._blobs.keep_only([ref for one in needed for ref in self._refs(one)])

    def _refs(self, manifest: Manifest) -> tuple[BlobRef, ...]:
        """Return what is needed of a head; of one that is not put together all that may lead to it."""
        here = manifest.model, manifest.head
        if self._blobs.has(manifest.head):
            return here
        base = self._shortest(manifest).base
        return (*here, manifest.full, *manifest.deltas, *(() if base is None else (base,)))
