"""The retained messages of a gateway, published anew on every connect (PROTOCOL 4.7).

    manifest and blobs   the current release, and the blobs of the one before: some still fetch those
    commands             what `commands.py` says that devices may still have to hear

A topic is written down before anything is published on it, and crossed out when the broker has
acknowledged that it was cleared: so a kill at any moment leaves none behind that nobody knows of.
Blobs go out before the manifest that names them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from typing import Final

from fedclient.gateway.desk import Desk, manifest_of
from fedclient.gateway.store import Release
from fedclient.transport.base import Transport, publish_wire_bytes
from fedclient.values import NO_HEAD, BlobRef
from fedclient.wire.blobs import chunk_count, split

_KEPT = 2  # manifests whose blobs are on the broker
REVIEW_S: Final = 60.0  # how soon a command that ran out is cleared; a new one goes out at once
WINDOW: Final = 500  # commands and clearings without a PUBACK: a fleet's are more than MQTT has ids for


class Shelf:
    """What lies on the broker, as far as this connection put it there."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.reset()

    def reset(self) -> None:
        """Take note that the broker may have forgotten everything: it was restarted, or is another."""
        self._out: set[bytes] = set()  # hashes of blobs
        self._manifest = NO_HEAD
        self._released: set[str] = set()  # topics of manifest and blobs
        self._sequences: dict[str, int] = {}  # of the commands that are out, by topic
        self._newest_command = 0
        self._review_at = 0.0
        self._queue: deque[tuple[str, bytes]] = deque()  # commands, and b"" to clear a topic
        self._unacknowledged: dict[int, str | None] = {}  # topic that is clear then, by message id
        self._clearing: set[str] = set()  # until they are crossed out
        self._cleared: set[str] = set()

    def publish(self, transport: Transport, now_s: float) -> int:
        """Put out what is missing and clear what nobody needs; returns the bytes sent."""
        releases = self._desk.store.releases(_KEPT)
        newest = self._desk.store.commands.newest()
        new_head = bool(releases) and releases[0].head_version != self._manifest
        new_commands = newest != self._newest_command or now_s >= self._review_at
        sent = self._put_release(transport, releases) if new_head else 0
        if new_commands:
            self._newest_command, self._review_at = newest, now_s + REVIEW_S
            self._line_up_commands()
        if new_head or new_commands:
            unwanted = self._desk.store.retained() - self._released - self._sequences.keys() - self._clearing
            self._queue += [(topic, b"") for topic in sorted(unwanted)]
            self._clearing |= unwanted
        return sent + self._send(transport)

    def delivered(self, message_id: int) -> None:
        """Take note of a PUBACK."""
        topic = self._unacknowledged.pop(message_id, None)
        if topic is not None and topic in self._clearing:  # and nobody has put it out again
            self._cleared.add(topic)

    def cross_out(self) -> None:
        """Forget the topics that are cleared; inside the caller's transaction."""
        if self._cleared:
            self._desk.store.forget_retained(self._cleared)
            self._clearing -= self._cleared
            self._cleared = set()

    @property
    def has_cleared(self) -> bool:
        """Whether `cross_out` has something to write."""
        return bool(self._cleared)

    def _put_release(self, transport: Transport, releases: list[Release]) -> int:
        refs = {ref.hash: ref for release in releases for ref in _refs(release)}
        topics = {topic for ref in refs.values() for topic in self._topics(ref)}
        self._released = topics | {self._desk.topics.manifest}
        self._write_down(self._released)
        sent = sum(self._put(transport, ref) for ref in refs.values())
        newest = releases[0]
        sent += _publish(transport, self._desk.topics.manifest, newest.signed)
        self._manifest = newest.head_version
        self._out = set(refs)
        with self._desk.store.transaction():
            self._desk.store.forget_bodies()  # of updates whose aggregate is published now
        return sent

    def _line_up_commands(self) -> None:
        wanted = self._desk.store.commands.wanted(self._desk.unix_s())
        topics = {self._desk.topics.command(device): device for device in wanted}
        self._write_down(topics.keys())
        for topic, device in sorted(topics.items()):
            if self._sequences.get(topic) != wanted[device].sequence:
                self._queue.append((topic, self._desk.command(device, wanted[device])))
        self._sequences = {topic: wanted[device].sequence for topic, device in topics.items()}

    def _write_down(self, topics: Collection[str]) -> None:
        """Own these topics from now on, also those that are being cleared."""
        self._clearing -= set(topics)
        self._cleared -= set(topics)
        missing = set(topics) - self._desk.store.retained()
        if missing:
            with self._desk.store.transaction():
                self._desk.store.add_retained(missing)

    def _send(self, transport: Transport) -> int:
        """Publish what is lined up, as far as the window is open."""
        sent = 0
        while self._queue and len(self._unacknowledged) < WINDOW:
            topic, payload = self._queue.popleft()
            if not payload and topic not in self._clearing:
                continue  # somebody needs it again
            message_id = transport.publish(topic, payload, retain=True)
            self._unacknowledged[message_id] = None if payload else topic
            sent += publish_wire_bytes(topic, len(payload), qos=1)
        return sent

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


def _refs(release: Release) -> tuple[BlobRef, ...]:
    """Return what devices may fetch: never the head itself, which they put together."""
    manifest = manifest_of(release)
    return manifest.model, manifest.full, *manifest.deltas


def _publish(transport: Transport, topic: str, payload: bytes) -> int:
    transport.publish(topic, payload, retain=True)
    return publish_wire_bytes(topic, len(payload), qos=1)
