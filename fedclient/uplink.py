"""Messages from a device to its gateway: pack and open, both ends in one file.

A message is signed, then sealed (PROTOCOL 3).  What both ends know already is bound by the
signature as `external_aad` and does not travel.  `body` stays bytes here: what a delta
means is the codec's business.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

from fedclient import limits
from fedclient.crypto import cose, keys, sodium
from fedclient.errors import CryptoError, UnknownHead
from fedclient.transport.base import publish_wire_bytes
from fedclient.values import Base, EnrolmentRequest, HeadVersion, MessageType, Status, Update
from fedclient.wire import messages
from fedclient.wire.envelope import FORMAT, decode_envelope, encode_envelope, up_aad
from fedclient.wire.topics import Topics

MAX_BYTES = {
    MessageType.ENROL: limits.MAX_ENROL_BYTES,
    MessageType.UPDATE: limits.MAX_UPDATE_BYTES,
    MessageType.STATUS: limits.MAX_STATUS_BYTES,
}


def envelope_hash(envelope: bytes) -> bytes:
    """SHA-256 of the bytes as they travel: the name a receipt uses."""
    return hashlib.sha256(envelope).digest()


@dataclass(frozen=True, kw_only=True)
class DeviceUplink:
    """The sending end."""

    federation: str
    key: keys.SigningKey
    gateway_sealing_key: bytes

    def update(self, update: Update, base: Base) -> bytes:
        return self._pack(MessageType.UPDATE, messages.encode_update(update), base)

    def overhead_bytes(self, update: Update, body_bytes: int) -> int:
        """Return what the MQTT 3.1.1 PUBLISH of `update` has beyond a body of `body_bytes`."""
        fields = messages.encode_update(replace(update, body=b""))
        around = len(FORMAT) + sodium.SEAL_BYTES + sodium.SIGNATURE_BYTES + len(fields)
        topic = Topics(self.federation).up(self.key.device_id, MessageType.UPDATE)
        return publish_wire_bytes(topic, around + body_bytes, qos=1) - body_bytes

    def status(self, status: Status) -> bytes:
        return self._pack(MessageType.STATUS, messages.encode_status(status))

    def enrolment(self, token: bytes) -> bytes:
        request = EnrolmentRequest(public_key=self.key.public, token=token)
        return self._pack(MessageType.ENROL, messages.encode_enrolment(request))

    def _pack(self, kind: MessageType, payload: bytes, base: Base | None = None) -> bytes:
        kid = keys.kid(self.gateway_sealing_key)
        aad = up_aad(kind, (self.federation, self.key.device_id), kid, base)
        signed = cose.sign_compact(self.key, payload, aad)
        return encode_envelope(sodium.seal(self.gateway_sealing_key, signed))


@dataclass(frozen=True, kw_only=True)
class GatewayUplink:
    """The receiving end.  Each method returns the verified value or raises.

    Raises WireError for malformed bytes and CryptoError for what does not open or verify.
    The caller answers both the same way, so that a sender learns nothing from the difference.
    """

    federation: str
    key: keys.SealingKey

    def open_update(
        self,
        data: bytes,
        sender: tuple[str, bytes],
        base_of: Callable[[HeadVersion], Base | None],
    ) -> Update:
        """Open an update of `sender` (device id, public key).

        `base_of` gives what this gateway published as a head version, or None: then
        UnknownHead is raised, because the signature cannot be checked without it.
        """
        unverified, aad = self._open(data, MessageType.UPDATE, sender[0])
        claimed = messages.decode_update(unverified.payload)
        base = base_of(claimed.head_version)
        if base is None:
            raise UnknownHead(f"update on head {claimed.head_version}, which this gateway never published")
        unverified.verified_by(sender[1], aad(base))
        return claimed

    def open_status(self, data: bytes, sender: tuple[str, bytes]) -> Status:
        """Open a status of `sender` (device id, public key)."""
        unverified, aad = self._open(data, MessageType.STATUS, sender[0])
        return messages.decode_status(unverified.verified_by(sender[1], aad(None)))

    def open_enrolment(self, data: bytes, device_id: str) -> EnrolmentRequest:
        """Open a request that is signed by the very key it asks to enrol (proof of possession)."""
        unverified, aad = self._open(data, MessageType.ENROL, device_id)
        request = messages.decode_enrolment(unverified.payload)
        if keys.device_id(request.public_key) != device_id:
            raise CryptoError("enrolment request for another device id than its topic's")
        unverified.verified_by(request.public_key, aad(None))
        return request

    def _open(
        self, data: bytes, kind: MessageType, device_id: str
    ) -> tuple[cose.Unverified, Callable[[Base | None], bytes]]:
        sealed = decode_envelope(data, max_bytes=MAX_BYTES[kind])

        def aad(base: Base | None) -> bytes:
            return up_aad(kind, (self.federation, device_id), self.key.kid, base)

        return cose.peek_compact(self.key.open(sealed)), aad
