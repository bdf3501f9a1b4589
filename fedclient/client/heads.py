"""The heads a device takes and fetches, within its owner's bounds."""

from __future__ import annotations

import logging
import shutil

from fedclient.client.fetch import Fetch, check_sizes
from fedclient.client.link import Link
from fedclient.config import Config
from fedclient.device.blobs import Blobs
from fedclient.device.folder import DeviceFolder
from fedclient.device.journal import Journal
from fedclient.errors import ConfigError, StorageDamaged
from fedclient.values import HeadVersion, Manifest

log = logging.getLogger(__name__)


class Heads:
    """Manifests in, blobs fetched."""

    def __init__(self, folder: DeviceFolder, config: Config, journal: Journal) -> None:
        self._folder = folder
        self._config = config
        self._journal = journal
        self._blobs = Blobs(folder.blobs)
        self._fetch: Fetch | None = None
        self._version: HeadVersion | None = None  # which head is being fetched

    def admit(self, manifest: Manifest) -> None:
        """Check a verified manifest against the owner's bounds; raises ConfigError.

        A gateway's model is code that runs here: `[privacy] allowed_models` pins it.
        """
        allowed = self._config.privacy.allowed_models
        if allowed and manifest.model.hash.hex() not in allowed:
            raise ConfigError(f"model {manifest.model.hash.hex()} is not in [privacy] allowed_models")
        missing = tuple(ref for ref in (manifest.model, manifest.head) if not self._blobs.has(ref))
        check_sizes(
            missing,
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
        """Whether the broker's copies of what is being fetched were bad too often."""
        return self._fetch is not None and self._fetch.poisoned

    def begin(self, version: HeadVersion, link: Link | None) -> bool:
        """Fetch what is missing of this head; True when nothing is."""
        manifest = self._journal.manifest(version)
        if manifest is None or link is None:
            if link is not None:
                link.subscribe(link.topics.manifest)  # ours is damaged: the broker sends it again
            return False
        if self._fetch is None or self._version != version or self._fetch.poisoned:
            self._drop_fetch(link)
            self._fetch = Fetch((manifest.model, manifest.head), self._blobs, link.topics)
            self._version = version
        if self._fetch.done:
            self._fetch = None
            return True
        self.update_subscriptions(link)
        return False

    def take(self, topic: str, payload: bytes) -> HeadVersion | None:
        """Use a chunk; return the version of the head that it made whole."""
        if self._fetch is None:
            return None
        self._fetch.take(topic, payload)
        return self._version if self._fetch.done else None

    def update_subscriptions(self, link: Link) -> None:
        """Subscribe to what is wanted now, and to nothing else."""
        if self._fetch is not None and link.connected:
            self._fetch.update(link.subscribe, link.unsubscribe)

    def reconnected(self) -> None:
        """Forget subscriptions: the broker has."""
        if self._fetch is not None:
            self._fetch.reconnected()

    def finish(self, link: Link | None) -> None:
        """Give up the subscriptions of a fetch that is done or given up."""
        if link is not None:
            self._drop_fetch(link)
        self._fetch = None

    def _drop_fetch(self, link: Link) -> None:
        if self._fetch is not None and link.connected:
            self._fetch.end(link.unsubscribe)

    # --- what is here -------------------------------------------------------------------------------
    def check(self, version: HeadVersion, keep: tuple[HeadVersion | None, ...]) -> None:
        """See that this head and its model are here; blobs of any other head that is not in `keep` go.

        Raises StorageDamaged when its bytes are not here as they were fetched.
        """
        manifest = self._journal.manifest(version)
        if manifest is None:
            raise StorageDamaged(f"the manifest of head {version} is damaged: it will be fetched again")
        if not (self._blobs.has(manifest.model) and self._blobs.has(manifest.head)):
            raise StorageDamaged(f"model or head of {version} is gone: it will be fetched again")
        kept = [self._journal.manifest(other) for other in keep if other is not None]
        needed = [manifest, *(other for other in kept if other is not None)]
        self._blobs.keep_only([ref for one in needed for ref in (one.model, one.head)])
