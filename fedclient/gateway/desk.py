"""What every part of a gateway works with: its database, keys and settings, and signed answers."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

from fedclient.config import GatewaySettings
from fedclient.crypto import cose, keys
from fedclient.downlink import DeviceDownlink, GatewayDownlink
from fedclient.errors import WireError
from fedclient.gateway.store import Release, Store
from fedclient.uplink import GatewayUplink
from fedclient.values import Command, HeadVersion, Manifest, Plan, Receipt
from fedclient.wire import messages
from fedclient.wire.topics import Topics

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Desk:
    """One federation, seen from its gateway."""

    federation: str
    store: Store
    signing: keys.SigningKey
    sealing: keys.SealingKey
    settings: GatewaySettings
    unix_s: Callable[[], float]  # judges invitations and dates records; orders nothing

    @cached_property
    def topics(self) -> Topics:
        return Topics(self.federation)

    @cached_property
    def uplink(self) -> GatewayUplink:
        return GatewayUplink(federation=self.federation, key=self.sealing)

    @cached_property
    def _downlink(self) -> GatewayDownlink:
        return GatewayDownlink(federation=self.federation, key=self.signing)

    def receipt(self, device_id: str, receipt: Receipt) -> bytes:
        """Sign a receipt."""
        return self._downlink.receipt(device_id, receipt)

    def command(self, device_id: str, command: Command) -> bytes:
        """Sign a command; the same bytes every time."""
        return self._downlink.command(device_id, command)

    def release(self, manifest: Manifest) -> Release:
        """Sign a manifest."""
        return Release(
            head_version=manifest.head_version,
            model_hash=manifest.model.hash,
            base=manifest.base,
            signed=self._downlink.manifest(manifest),
        )

    def alarm(self, device_id: str | None, sentence: str) -> None:
        """Record what an operator must know, and say it loudly."""
        log.error("ALARM: device %s: %s", device_id, sentence)
        self.store.alarm(self.unix_s(), device_id, sentence)

    def above(self, version: HeadVersion, why: str) -> None:
        """Record that a head above this database exists: it was restored from a backup (PROTOCOL 4.6)."""
        log.critical(
            "head %s is above this database (%s): restored from a backup? Nothing is published until "
            "`fedclient gateway recover`",
            version,
            why,
        )
        self.store.note_seen(version)

    def open_manifest(self, data: bytes) -> Manifest:
        """Open a manifest that came from outside; raises WireError or CryptoError unless we signed it."""
        return DeviceDownlink(federation=self.federation, gateway_key=self.signing.public).open_manifest(data)


def under(manifest: Manifest, plan: Plan) -> Manifest:
    """Return `manifest` with another plan, and its hash."""
    encoded = messages.encode_plan(plan)
    return replace(manifest, plan=plan, plan_hash=hashlib.sha256(encoded).digest())


def manifest_of(release: Release) -> Manifest:
    """Read the manifest of a release from our own database, also one that an earlier fedclient made."""
    payload = cose.peek(release.signed).payload
    try:
        return messages.decode_manifest(payload)
    except WireError:
        return messages.decode_earlier_manifest(payload)


def is_read(release: Release) -> bool:
    """Whether devices of this fedclient read the manifest: an earlier one wrote them in another form."""
    try:
        messages.decode_manifest(cose.peek(release.signed).payload)
    except WireError:
        return False
    return True
