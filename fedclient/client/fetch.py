"""Fetching a head and its model: retained chunks, a few subscriptions at a time (PROTOCOL 6).

Never `blob/#`: a broker would pour everything it keeps into a device that asked for little.
A chunk is verified before it is written; what is whole is not fetched again, and a fetch
goes on where a power cut ended it.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable

from fedclient.device.blobs import Blobs
from fedclient.errors import ConfigError, WireError
from fedclient.values import BlobRef
from fedclient.wire.blobs import check_chunk, check_hashes, chunk_count
from fedclient.wire.topics import Topics

log = logging.getLogger(__name__)

WINDOW = 4  # chunks asked for at once: at most 384 KiB in flight
MAX_BAD_COPIES = 3  # then back off: somebody keeps poisoned chunks on the broker

Ask = Callable[[str], None]


class Fetch:
    """The blobs of one manifest, one after the other.

    `subscribe` and `unsubscribe` are the transport's; `take` is given whatever arrives.
    """

    def __init__(self, refs: tuple[BlobRef, ...], blobs: Blobs, topics: Topics) -> None:
        self._blobs = blobs
        self._topics = topics
        self._missing = [ref for ref in refs if not blobs.has(ref)]
        self._hashes: tuple[bytes, ...] = ()
        self._next = 0  # the chunk that is appended next, from 1; 0: the list of hashes
        self._early: dict[int, bytes] = {}  # chunks that came before their turn
        self._asked: set[str] = set()
        self.bad_copies = 0
        self._begin()

    @property
    def done(self) -> bool:
        return not self._missing

    @property
    def fetching(self) -> BlobRef | None:
        """The blob whose chunks are asked for now."""
        return self._missing[0] if self._missing else None

    @property
    def poisoned(self) -> bool:
        return self.bad_copies >= MAX_BAD_COPIES

    def wanted(self) -> set[str]:
        """Topics to be subscribed to now."""
        if self.done:
            return set()
        ref = self._missing[0]
        if self._next == 0:
            return {self._topics.blob(ref.hash, 0)}
        last = min(chunk_count(ref), self._next + WINDOW - 1)
        return {self._topics.blob(ref.hash, number) for number in range(self._next, last + 1)}

    def update(self, subscribe: Ask, unsubscribe: Ask) -> None:
        """Bring the transport's subscriptions in line with what is wanted."""
        wanted = self.wanted()
        for topic in sorted(self._asked - wanted):
            unsubscribe(topic)
        for topic in sorted(wanted - self._asked):
            subscribe(topic)
        self._asked = wanted

    def end(self, unsubscribe: Ask) -> None:
        """Give up every subscription."""
        for topic in sorted(self._asked):
            unsubscribe(topic)
        self._asked = set()

    def reconnected(self) -> None:
        """Forget what was subscribed to: a broker remembers nothing."""
        self._asked = set()

    def take(self, topic: str, payload: bytes) -> bool:
        """Use a chunk if it is one that is wanted; a bad copy is counted and asked for again.

        Returns whether it was of use.
        """
        place = self._topics.parse_blob(topic)
        if place is None or self.done or topic not in self.wanted() or not payload:
            return False
        number = place[1]
        ref = self._missing[0]
        try:
            if number == 0:
                self._resume(check_hashes(ref, payload))
            else:
                self._early[number] = self._checked(ref, number, payload)
        except WireError as error:
            self.bad_copies += 1
            self._asked.discard(topic)  # subscribing again makes the broker send its copy again
            log.warning("bad copy of a chunk, asking again topic=%s: %s", topic, error)
            return False
        while self._next in self._early:
            self._blobs.append(ref, self._early.pop(self._next))
            self._next += 1
        if number and self._next > chunk_count(ref):
            self._missing.pop(0)
            self._begin()
        return True

    def _checked(self, ref: BlobRef, number: int, chunk: bytes) -> bytes:
        if chunk_count(ref) == 1:  # needs no list: its only entry follows from the chunk
            self._hashes = check_hashes(ref, hashlib.sha256(chunk).digest())
        return check_chunk(ref, number, chunk, self._hashes[number - 1])

    def _begin(self) -> None:
        """Start on the next blob: on its list of chunk hashes, unless it is a single chunk."""
        self._hashes, self._early = (), {}
        self._next = 1 if self._missing and chunk_count(self._missing[0]) == 1 else 0

    def _resume(self, hashes: tuple[bytes, ...]) -> None:
        self._hashes = hashes
        self._next = self._blobs.done_chunks(self._missing[0], hashes) + 1


def check_sizes(refs: tuple[BlobRef, ...], max_bytes: int, free_bytes: int) -> None:
    """Refuse blobs that this device's owner, or its disk, has no room for.  Raises ConfigError."""
    total = sum(ref.size for ref in refs)
    if total > max_bytes:
        raise ConfigError(f"model and head have {total} bytes, [limits] max_model_mib allows {max_bytes}")
    if total > free_bytes:
        raise ConfigError(f"model and head have {total} bytes, the disk has {free_bytes} to spare")
