"""Messages from the gateway to devices, signed with its key: pack and open, both ends in one file.

Blobs are not signed: their hashes stand in the signed manifest (`wire/blobs.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from fedclient.crypto import cose, keys
from fedclient.errors import CryptoError, WireError
from fedclient.limits import MAX_COMMAND_BYTES, MAX_MANIFEST_BYTES, MAX_RECEIPT_BYTES
from fedclient.values import Command, Manifest, MessageType, Receipt
from fedclient.wire import messages
from fedclient.wire.envelope import down_aad


@dataclass(frozen=True, kw_only=True)
class GatewayDownlink:
    """The sending end."""

    federation: str
    key: keys.SigningKey

    def receipt(self, device_id: str, receipt: Receipt) -> bytes:
        aad = down_aad(MessageType.RECEIPT, self.federation, device_id)
        return cose.sign(self.key, messages.encode_receipt(receipt), aad, with_kid=True)

    def command(self, device_id: str, command: Command) -> bytes:
        aad = down_aad(MessageType.COMMAND, self.federation, device_id)
        return cose.sign(self.key, messages.encode_command(command), aad, with_kid=True)

    def manifest(self, manifest: Manifest) -> bytes:
        aad = down_aad(MessageType.MANIFEST, self.federation, None)
        return cose.sign(self.key, messages.encode_manifest(manifest), aad, with_kid=True)


@dataclass(frozen=True, kw_only=True)
class DeviceDownlink:
    """The receiving end.  Each method returns the verified value, or raises WireError or CryptoError."""

    federation: str
    gateway_key: bytes

    def open_receipt(self, data: bytes, device_id: str) -> Receipt:
        aad = down_aad(MessageType.RECEIPT, self.federation, device_id)
        return messages.decode_receipt(self._verify(data, aad, MAX_RECEIPT_BYTES))

    def open_command(self, data: bytes, device_id: str) -> Command:
        """Open a command; whether its sequence is news is the caller's to say."""
        aad = down_aad(MessageType.COMMAND, self.federation, device_id)
        return messages.decode_command(self._verify(data, aad, MAX_COMMAND_BYTES))

    def open_manifest(self, data: bytes) -> Manifest:
        aad = down_aad(MessageType.MANIFEST, self.federation, None)
        return messages.decode_manifest(self._verify(data, aad, MAX_MANIFEST_BYTES))

    def _verify(self, data: bytes, aad: bytes, max_bytes: int) -> bytes:
        if len(data) > max_bytes:
            raise WireError(f"message has {len(data)} bytes, at most {max_bytes} are allowed")
        unverified = cose.peek(data, max_bytes)
        if unverified.kid != keys.kid(self.gateway_key):
            raise CryptoError("message is signed with another key than this gateway's")
        return unverified.verified_by(self.gateway_key, aad)
