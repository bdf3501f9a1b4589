"""Keys of nodes: each direction and generation has its own."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from fedclient.errors import CryptoError, WireError
from fedclient.nodes.keys import derive

SECRET = bytes(range(32))


def test_a_key_and_a_tag_are_what_the_page_says() -> None:
    key = hmac.new(SECRET, b"fedclient node 1 up\x00\x00\x00\x02", hashlib.sha256).digest()
    said = b"fedclient node 1\x00fl/v1/local/node/shed/sample\x00body"
    tag = hmac.new(key, said, hashlib.sha256).digest()[:16]
    assert derive(SECRET, 2).up.seal("fl/v1/local/node/shed/sample", b"body") == b"body" + tag


def test_what_is_sealed_opens_with_the_same_key_only() -> None:
    keys, topic = derive(SECRET, 1), "fl/v1/local/node/shed/ack"
    message = keys.down.seal(topic, b"body")
    assert keys.down.open(topic, message, 100) == b"body"
    for other in (keys.up, derive(SECRET, 2).down, derive(SECRET[::-1], 1).down):
        with pytest.raises(CryptoError):
            other.open(topic, message, 100)
    with pytest.raises(CryptoError):
        keys.down.open("fl/v1/local/node/she/dack", message, 100)


@pytest.mark.parametrize(("size", "most"), [(0, 100), (16, 100), (101, 100)])
def test_a_length_that_cannot_be_is_refused_first(size: int, most: int) -> None:
    with pytest.raises(WireError, match=f"{size} bytes, allowed are 17 to {most}"):
        derive(SECRET, 1).up.open("topic", bytes(size), most)


def test_a_key_does_not_show_itself() -> None:
    assert derive(SECRET, 1).up._key.hex()[:8] not in repr(derive(SECRET, 1))
    assert repr(derive(SECRET, 1).up._key) not in repr(derive(SECRET, 1))
