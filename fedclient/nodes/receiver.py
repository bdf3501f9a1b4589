"""From a message on the nodes' broker to what a known node said, or the reason why it does not count.

Cheap things first: topic, name, length, tag; only what is genuine is read.  Pure: who is known comes from
`registry.py`, time and storage are `intake.py`'s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from fedclient import limits
from fedclient.errors import CryptoError, FinalError, WireError
from fedclient.nodes import messages
from fedclient.nodes.keys import Node, NodeKeys, derive
from fedclient.nodes.messages import Ask, Malformed, NodeLabel, NodeSample
from fedclient.wire.topics import NodeTopics

NOBODY: Final = ""  # whom refusals of unknown senders are counted under: names are cheap to invent
# Why a message does not count; the words are in `fedclient status`.
TOPIC: Final = "another topic"
UNKNOWN: Final = "unknown node"
REVOKED: Final = "revoked node"
LENGTH: Final = "too long or too short"
TAG: Final = "wrong tag"
FORM: Final = "malformed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Heard:
    """A genuine message."""

    node: str
    generation: int
    said: NodeSample | NodeLabel | Ask | Malformed
    size: int  # of the message, in bytes


class _Refused(FinalError):
    def __init__(self, node: str, why: str) -> None:
        super().__init__(why)
        self.node, self.why = node, why


class Receiver:
    """Opens messages; `refused` counts those that did not open, by (node, reason)."""

    def __init__(self, federation: str) -> None:
        self.topics = NodeTopics(federation)
        self.refused: Counter[tuple[str, str]] = Counter()
        self._nodes: Mapping[str, Node] = {}
        self._keys: dict[str, NodeKeys] = {}

    def know(self, nodes: Mapping[str, Node]) -> None:
        """Listen to these nodes from now on."""
        self._nodes = nodes
        self._keys = {
            name: derive(node.secret, node.generation)
            for name, node in nodes.items()
            if node.secret is not None
        }

    def keys(self, node: str) -> NodeKeys | None:
        """Return the keys of a node that may be spoken to."""
        return self._keys.get(node)

    @property
    def active(self) -> list[str]:
        """The nodes that have a secret."""
        return list(self._keys)

    def take_refused(self) -> Counter[tuple[str, str]]:
        """Return what was refused since the last call."""
        taken, self.refused = self.refused, Counter()
        return taken

    def open(self, topic: str, message: bytes) -> Heard | None:
        """Return what a node said, or None, and count why."""
        try:
            return self._open(topic, message)
        except _Refused as refused:
            self.refused[refused.node, refused.why] += 1
            return None

    def _open(self, topic: str, message: bytes) -> Heard:
        try:
            name, kind = self.topics.parse_up(topic)
        except WireError:
            raise _Refused(NOBODY, TOPIC) from None
        node, keys = self._nodes.get(name), self._keys.get(name)
        if node is None:
            raise _Refused(NOBODY, UNKNOWN)
        if keys is None:
            raise _Refused(name, REVOKED)
        most = limits.MAX_NODE_SAMPLE_BYTES if kind == "sample" else limits.MAX_NODE_LABEL_BYTES
        try:
            body = keys.up.open(topic, message, most)
        except WireError:
            raise _Refused(name, LENGTH) from None
        except CryptoError:
            raise _Refused(name, TAG) from None
        try:
            said = _read(kind, body)
        except WireError:
            raise _Refused(name, FORM) from None
        return Heard(node=name, generation=node.generation, said=said, size=len(message))


def _read(kind: str, body: bytes) -> NodeSample | NodeLabel | Ask | Malformed:
    """Return what a genuine body says; raises WireError where not even its counter can be read."""
    try:
        return messages.decode_sample(body) if kind == "sample" else messages.decode_label(body)
    except WireError:
        return messages.decode_malformed(body)
