"""The retained messages of a gateway: manifest and blobs, published anew on every connect (PROTOCOL 4.7).

A topic is written down before anything is published on it, and crossed out when the broker has
acknowledged that it was cleared: so a kill at any moment leaves none behind that nobody knows of.
Blobs go out before the manifest that names them.  The blobs of the current manifest and of the one
before it stay: a device may still be fetching those.
"""

from __future__ import annotations

from fedclient.gateway.desk import Desk, manifest_of
from fedclient.gateway.store import Release
from fedclient.transport.base import Transport, publish_wire_bytes
from fedclient.values import NO_HEAD, BlobRef
from fedclient.wire.blobs import chunk_count, split

_KEPT = 2  # manifests whose blobs are on the broker


class Shelf:
    """What lies on the broker, as far as this connection put it there."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.reset()

    def reset(self) -> None:
        """Take note that the broker may have forgotten everything: it was restarted, or is another."""
        self._out: set[bytes] = set()  # hashes of blobs
        self._manifest = NO_HEAD
        self._clearing: dict[int, str] = {}
        self._cleared: set[str] = set()

    def publish(self, transport: Transport) -> int:
        """Put out what is missing and clear what nobody needs; returns the bytes sent."""
        releases = self._desk.store.releases(_KEPT)
        if not releases or releases[0].head_version == self._manifest:
            return 0
        refs = {ref.hash: ref for release in releases for ref in _refs(release)}
        wanted = {topic for ref in refs.values() for topic in self._topics(ref)} | {
            self._desk.topics.manifest
        }
        with self._desk.store.transaction():
            owned = self._desk.store.retained()
            self._desk.store.add_retained(wanted - owned)
        sent = sum(self._put(transport, ref) for ref in refs.values())
        newest = releases[0]
        sent += _publish(transport, self._desk.topics.manifest, newest.signed)
        self._manifest = newest.head_version
        self._out = set(refs)
        for topic in sorted(owned - wanted - set(self._clearing.values())):
            self._clearing[transport.publish(topic, b"", retain=True)] = topic
        with self._desk.store.transaction():
            self._desk.store.forget_bodies()  # of updates whose aggregate is published now
        return sent

    def delivered(self, message_id: int) -> None:
        """Take note of a PUBACK."""
        if (topic := self._clearing.pop(message_id, None)) is not None:
            self._cleared.add(topic)

    def cross_out(self) -> None:
        """Forget the topics that are cleared; inside the caller's transaction."""
        if self._cleared:
            self._desk.store.forget_retained(self._cleared)
            self._cleared = set()

    @property
    def has_cleared(self) -> bool:
        """Whether `cross_out` has something to write."""
        return bool(self._cleared)

    def _topics(self, ref: BlobRef) -> list[str]:
        """Topics of a blob; the list of chunk hashes (0) is needed only where there are several chunks."""
        chunks = chunk_count(ref)
        return [self._desk.topics.blob(ref.hash, number) for number in range(int(chunks == 1), chunks + 1)]

    def _put(self, transport: Transport, ref: BlobRef) -> int:
        if ref.hash in self._out:
            return 0
        blob = split(self._desk.store.blob(ref.hash))
        parts = blob.chunks if len(blob.chunks) == 1 else (blob.hashes, *blob.chunks)
        return sum(
            _publish(transport, topic, part) for topic, part in zip(self._topics(ref), parts, strict=True)
        )


def _refs(release: Release) -> tuple[BlobRef, BlobRef]:
    manifest = manifest_of(release)
    return manifest.model, manifest.head


def _publish(transport: Transport, topic: str, payload: bytes) -> int:
    transport.publish(topic, payload, retain=True)
    return publish_wire_bytes(topic, len(payload), qos=1)
