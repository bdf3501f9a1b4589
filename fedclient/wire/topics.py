"""MQTT topics: the only place that builds or takes apart one (PROTOCOL 2).

fl/v1/<federation>/up/<device>/enroll|update|status
fl/v1/<federation>/up/<device>/online          retained; for people, the gateway does not listen
fl/v1/<federation>/down/<device>/receipt
fl/v1/<federation>/down/<device>/command       retained
fl/v1/<federation>/all/manifest                retained
fl/v1/<federation>/all/blob/<name>/<n>         retained; n = 0 is the list of chunk hashes

On the nodes' own broker:

fl/v1/<federation>/node/<node>/sample|label
fl/v1/<federation>/node/<node>/ack
fl/v1/<federation>/node/<node>/head            retained
"""

from __future__ import annotations

import re

from fedclient.errors import WireError
from fedclient.limits import DEVICE_ID_CHARS, MAX_BLOB_CHUNKS, MAX_FEDERATION_CHARS, MAX_NODE_CHARS
from fedclient.values import MessageType

_FEDERATION = re.compile(rf"[a-z0-9][a-z0-9_-]{{0,{MAX_FEDERATION_CHARS - 1}}}")
_DEVICE = re.compile(rf"[a-z2-7]{{{DEVICE_ID_CHARS}}}")
_NODE = re.compile(rf"[a-z][a-z0-9-]{{0,{MAX_NODE_CHARS - 1}}}")
_UP = {MessageType.ENROL: "enroll", MessageType.UPDATE: "update", MessageType.STATUS: "status"}
_UP_BY_NAME = {name: kind for kind, name in _UP.items()}
_BLOB_NAME_BYTES = 16  # names only route; the hash in the manifest is what is verified


def check_federation(name: str) -> str:
    """Return `name`, or raise WireError with the rule it breaks."""
    if not _FEDERATION.fullmatch(name):
        raise WireError(
            f"federation name {name[:40]!r} is not allowed: 1 to {MAX_FEDERATION_CHARS} characters of "
            "a-z, 0-9, '-' and '_', starting with a letter or digit"
        )
    return name


def check_device(device_id: str) -> str:
    """Return `device_id`, or raise WireError."""
    if not _DEVICE.fullmatch(device_id):
        raise WireError(f"device id {device_id[:40]!r} is not {DEVICE_ID_CHARS} characters of base32")
    return device_id


def check_node(name: str) -> str:
    """Return `name`, or raise WireError with the rule it breaks."""
    if not _NODE.fullmatch(name):
        raise WireError(
            f"node name {name[:40]!r} is not allowed: 1 to {MAX_NODE_CHARS} characters of a-z, 0-9 and '-', "
            "the first a letter"
        )
    return name


def blob_name(blob_hash: bytes) -> str:
    """Name of a blob in its topics: at most the first 16 bytes of its hash, in hex."""
    return blob_hash[:_BLOB_NAME_BYTES].hex()


class Topics:
    """The topics of one federation."""

    def __init__(self, federation: str) -> None:
        self._prefix = f"fl/v1/{check_federation(federation)}/"
        self.manifest = self._prefix + "all/manifest"
        # one by one: `up/+/+` would bring the birth message of every device at each connect
        self.messages_up = tuple(f"{self._prefix}up/+/{name}" for name in _UP.values())

    def up(self, device_id: str, kind: MessageType) -> str:
        return f"{self._prefix}up/{check_device(device_id)}/{_UP[kind]}"

    def online(self, device_id: str) -> str:
        return f"{self._prefix}up/{check_device(device_id)}/online"

    def receipt(self, device_id: str) -> str:
        return f"{self._prefix}down/{check_device(device_id)}/receipt"

    def command(self, device_id: str) -> str:
        return f"{self._prefix}down/{check_device(device_id)}/command"

    def blob(self, blob_hash: bytes, number: int) -> str:
        return f"{self._prefix}all/blob/{blob_name(blob_hash)}/{number}"

    def parse_up(self, topic: str) -> tuple[str, MessageType]:
        """Take apart a topic that a device published to.

        Returns device id and kind of message; raises WireError for any other topic.
        """
        if topic.startswith(self._prefix + "up/"):
            device_id, _, kind = topic[len(self._prefix) + 3 :].partition("/")
            if _DEVICE.fullmatch(device_id) and kind in _UP_BY_NAME:
                return device_id, _UP_BY_NAME[kind]
        raise WireError(f"topic {topic[:80]!r} is not one a device of this federation publishes to")

    def parse_blob(self, topic: str) -> tuple[str, int] | None:
        """Name and chunk number of a blob topic, or None for another topic."""
        start = self._prefix + "all/blob/"
        if not topic.startswith(start):
            return None
        name, _, number = topic[len(start) :].partition("/")
        # isascii: str.isdigit alone admits digits that int() reads but nobody publishes
        if not (number.isascii() and number.isdigit()) or len(number) > 4 or int(number) > MAX_BLOB_CHUNKS:
            return None
        return name, int(number)


class NodeTopics:
    """The topics of the nodes that send to one device."""

    def __init__(self, federation: str) -> None:
        self._prefix = f"fl/v1/{check_federation(federation)}/node/"
        self.samples_up, self.labels_up = self._prefix + "+/sample", self._prefix + "+/label"

    def sample(self, node: str) -> str:
        return f"{self._prefix}{check_node(node)}/sample"

    def label(self, node: str) -> str:
        return f"{self._prefix}{check_node(node)}/label"

    def ack(self, node: str) -> str:
        return f"{self._prefix}{check_node(node)}/ack"

    def head(self, node: str) -> str:
        return f"{self._prefix}{check_node(node)}/head"

    def parse_up(self, topic: str) -> tuple[str, str]:
        """Take apart a topic that a node published to: its name, and `sample` or `label`.

        Raises WireError for any other topic.
        """
        if topic.startswith(self._prefix):
            node, _, kind = topic[len(self._prefix) :].partition("/")
            if _NODE.fullmatch(node) and kind in {"sample", "label"}:
                return node, kind
        raise WireError(f"topic {topic[:80]!r} is not one a node of this federation publishes to")
