"""The four topics of a node, and the tag that every message on them carries.

A tag is made under a key of its direction and over the topic: a message counts on its own topic only.
docs/wire-format.md, section 14, "Secret, keys and tag".
"""

from struct import pack

from micropython import const

from .hmac import Hmac, equal, hmac

_CONTEXT = b"fedclient node 1"
_TAG = const(16)  # bytes


def keys(secret: bytes, generation: int) -> tuple:
    """Return the key of what a node says, and that of what it is told; 32 bytes each."""
    number = pack(">I", generation)
    return hmac(secret, _CONTEXT, b" up", number), hmac(secret, _CONTEXT, b" down", number)


class Channel:
    """One topic: seals what goes out on it, or opens what comes in."""

    def __init__(self, key: Hmac, topic: str) -> None:
        self.topic = topic.encode()
        self._key = key

    def seal(self, body: bytearray) -> bytearray:
        """Append the tag."""
        body.extend(self._tag(body))
        return body

    def open(self, message: bytes, most: int) -> memoryview:
        """Return the body of a genuine message of at most so many bytes; raises ValueError."""
        if not _TAG < len(message) <= most:
            raise ValueError("a length that cannot be")
        view = memoryview(message)
        if not equal(self._tag(view[:-_TAG]), view[-_TAG:]):
            raise ValueError("not genuine")
        return view[:-_TAG]

    def _tag(self, body: bytes) -> bytes:
        return self._key.digest(_CONTEXT, b"\0", self.topic, b"\0", body)[:_TAG]


def channels(settings: dict) -> tuple:
    """Return the channels of samples, labels, acks and heads; `settings` as in Node."""
    up, down = keys(bytes.fromhex(settings["secret"]), settings["generation"])
    up, down = Hmac(up), Hmac(down)
    prefix = "fl/v1/%s/node/%s/" % (settings["federation"], settings["node"])
    return (
        Channel(up, prefix + "sample"),
        Channel(up, prefix + "label"),
        Channel(down, prefix + "ack"),
        Channel(down, prefix + "head"),
    )
