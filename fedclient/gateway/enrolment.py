"""Joining a federation: a token that an operator gave away, and a key that proves itself (PROTOCOL 7).

Who shows an unknown token gets silence, like any stranger.  A token is good for one key: the same key
gets the same receipt however often it asks, another key is refused, and the operator hears of it.
"""

from __future__ import annotations

import hashlib
import logging

from fedclient.errors import CryptoError, WireError
from fedclient.gateway.admission import STRANGERS, Admission
from fedclient.gateway.desk import Desk
from fedclient.gateway.intake import Mail
from fedclient.gateway.roster import Standing
from fedclient.uplink import envelope_hash
from fedclient.values import EnrolmentRequest, HeadVersion, Invitation, Reason, Receipt, ReceiptStatus

log = logging.getLogger(__name__)


def token_hash(token: bytes) -> bytes:
    """Hash a token as it is stored."""
    return hashlib.sha256(token).digest()


def invite(desk: Desk, token: bytes, expires_unix_s: int) -> Invitation:
    """Make an invitation out of 16 random bytes; only their hash is stored."""
    store, current = desk.store, desk.store.current()
    _, broker = store.federation()
    with store.transaction():
        store.roster.add_invitation(token_hash(token), expires_unix_s)
    return Invitation(
        broker=broker,
        federation=desk.federation,
        signing_key=desk.signing.public,
        sealing_key=desk.sealing.public,
        token=token,
        expires_unix_s=expires_unix_s,
        # Devices take heads above their floor: the current one is the least that is fresh.
        floor=HeadVersion(current.generation, max(0, current.version - 1)),
    )


class Enrolment:
    """Answers enrolment requests."""

    def __init__(self, desk: Desk, admission: Admission) -> None:
        self._desk = desk
        self._roster = desk.store.roster
        self._admission = admission

    def request(self, mail: Mail, current: HeadVersion, now_s: float) -> bytes | None:
        """Return the receipt for a request, or None for silence."""
        digest = envelope_hash(mail.payload)
        device = self._roster.device(mail.device_id)
        bucket = device.id if device else STRANGERS
        if known := self._roster.receipt(mail.device_id, digest):
            if device is not None and device.standing is not Standing.ACTIVE:
                known = self._sign(mail.device_id, digest, current, Reason.REVOKED)
            return known if self._admission.admit(bucket, now_s, verified=False) else None
        try:
            request = self._desk.uplink.open_enrolment(mail.payload, mail.device_id)
        except (WireError, CryptoError) as error:
            log.info("device %s: enrolment request refused unopened: %s", mail.device_id, error)
            if device is None or not self._admission.admit(bucket, now_s, verified=False):
                return None
            return self._sign(mail.device_id, digest, current, Reason.UNOPENABLE)
        reason = self._judge(mail.device_id, request)
        if reason is None or not self._admission.admit(
            mail.device_id if reason is Reason.NONE else bucket, now_s, verified=reason is Reason.NONE
        ):
            return None
        return self._settle(
            mail.device_id, request, reason, self._sign(mail.device_id, digest, current, reason), digest
        )

    def _judge(self, device_id: str, request: EnrolmentRequest) -> Reason | None:
        """Say why a request is refused, NONE when it is granted; None for an unknown token."""
        invitation = self._roster.invitation(token_hash(request.token))
        if invitation is None:
            return None
        device = self._roster.device(device_id)
        if device is not None and device.standing is not Standing.ACTIVE:
            return Reason.REVOKED
        expires_unix_s, used_by = invitation
        if used_by is not None:
            return Reason.NONE if used_by == device_id else Reason.INVITATION_USED
        return Reason.NONE if self._desk.unix_s() < expires_unix_s else Reason.INVITATION_EXPIRED

    def _settle(
        self, device_id: str, request: EnrolmentRequest, reason: Reason, receipt: bytes, digest: bytes
    ) -> bytes:
        if reason is Reason.NONE:
            self._roster.enrol(device_id, request.public_key, self._desk.unix_s())
            self._roster.use_invitation(token_hash(request.token), device_id)
            log.info("device %s: enrolled", device_id)
        if reason is Reason.INVITATION_USED:
            self._desk.alarm(device_id, "asked to enrol with an invitation that another key has used")
        self._roster.add_receipt(device_id, digest, 0, receipt)
        return receipt

    def _sign(self, device_id: str, digest: bytes, current: HeadVersion, reason: Reason) -> bytes:
        status = ReceiptStatus.REFUSED if reason else ReceiptStatus.ENROLLED
        receipt = Receipt(counter=0, envelope_hash=digest, status=status, reason=reason, current=current)
        return self._desk.receipt(device_id, receipt)
