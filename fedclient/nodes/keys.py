"""A node's secret, its keys and the tag of its messages: HMAC-SHA256, a key for each direction.  Pure."""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from fedclient.errors import CryptoError, WireError

SECRET_BYTES: Final = 32
TAG_BYTES: Final = 16
_CONTEXT: Final = b"fedclient node 1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """One node; `secret` is None once it is revoked."""

    name: str
    generation: int
    secret: bytes | None = field(repr=False)

    @property
    def revoked(self) -> bool:
        return self.secret is None


@dataclass(frozen=True, slots=True)
class NodeKey:
    """The key of one direction; it never leaves the process that derived it."""

    _key: bytes = field(repr=False)

    def seal(self, topic: str, body: bytes) -> bytes:
        """Return the message: the body and its tag."""
        return body + self._tag(topic, body)

    def open(self, topic: str, message: bytes, max_bytes: int) -> bytes:
        """Return the body of a genuine message on this topic.

        Raises WireError for a length that cannot be, and CryptoError for a tag that is not right.
        """
        if not TAG_BYTES < len(message) <= max_bytes:
            raise WireError(f"message of {len(message)} bytes, allowed are {TAG_BYTES + 1} to {max_bytes}")
        body = message[:-TAG_BYTES]
        if not hmac.compare_digest(self._tag(topic, body), message[-TAG_BYTES:]):
            raise CryptoError(f"the tag is not of this node's secret: topic {topic}")
        return body

    def _tag(self, topic: str, body: bytes) -> bytes:
        said = b"\0".join((_CONTEXT, topic.encode(), body))
        return hmac.digest(self._key, said, "sha256")[:TAG_BYTES]


@dataclass(frozen=True, slots=True)
class NodeKeys:
    """Both directions of one node in one generation."""

    up: NodeKey
    down: NodeKey


def derive(secret: bytes, generation: int) -> NodeKeys:
    """Derive the keys of a secret in its generation."""
    return NodeKeys(*(_derive(secret, direction, generation) for direction in (b"up", b"down")))


def _derive(secret: bytes, direction: bytes, generation: int) -> NodeKey:
    label = _CONTEXT + b" " + direction + generation.to_bytes(4, "big")
    return NodeKey(hmac.new(secret, label, sha256).digest())
