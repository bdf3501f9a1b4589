"""An invitation as the one string that people paste (PROTOCOL 7)."""

from __future__ import annotations

import base64
import binascii
import hashlib

from fedclient import limits
from fedclient.errors import WireError
from fedclient.values import Broker, Invitation
from fedclient.wire import cbor
from fedclient.wire.fields import KEY_BYTES, TOKEN_BYTES, array, head_version, integer, octets, text, typed
from fedclient.wire.topics import check_federation

_PREFIX = "fedclient1-"
_CHECKSUM_BYTES = 4


def encode_invitation(invitation: Invitation) -> str:
    broker = invitation.broker
    data = cbor.encode(
        [
            broker.host,
            broker.port,
            broker.tls,
            invitation.federation,
            invitation.signing_key,
            invitation.sealing_key,
            invitation.token,
            invitation.expires_unix_s,
            invitation.floor.generation,
            invitation.floor.version,
        ]
    )
    checked = data + hashlib.sha256(data).digest()[:_CHECKSUM_BYTES]
    return _PREFIX + base64.urlsafe_b64encode(checked).decode().rstrip("=")


def decode_invitation(pasted: str) -> Invitation:
    """Read an invitation as a person pasted it; raises WireError in their words."""
    pasted = pasted.strip()
    if not pasted.startswith(_PREFIX) or len(pasted) > limits.MAX_INVITATION_CHARS:
        raise WireError(f"this is no invitation: one starts with {_PREFIX!r}")
    try:
        encoded = pasted.removeprefix(_PREFIX)
        checked = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise WireError("the invitation is damaged: copy it again, whole and on one line") from None
    data, checksum = checked[:-_CHECKSUM_BYTES], checked[-_CHECKSUM_BYTES:]
    if hashlib.sha256(data).digest()[:_CHECKSUM_BYTES] != checksum:
        raise WireError("the invitation is damaged: copy it again, whole and on one line")
    fields = array(cbor.decode(data, max_bytes=limits.MAX_INVITATION_CHARS), "invitation", 10)
    host, port, tls, federation, signing, sealing, token, expires, generation, version = fields
    return Invitation(
        broker=Broker(
            host=text(host, "host", limits.MAX_HOST_BYTES),
            port=integer(port, "port", 1, 65535),
            tls=typed(tls, bool, "tls"),
        ),
        federation=check_federation(text(federation, "federation", limits.MAX_FEDERATION_CHARS)),
        signing_key=octets(signing, "signing key", KEY_BYTES),
        sealing_key=octets(sealing, "sealing key", KEY_BYTES),
        token=octets(token, "token", TOKEN_BYTES),
        expires_unix_s=integer(expires, "expiry", 0, limits.COUNTER_MAX),
        floor=head_version(generation, version),
    )
