"""What becomes of a message from a device, in the order of PROTOCOL 3.

known hash? the stored receipt -> size cap -> format -> open -> strict CBOR -> verify with the roster key of
the id in the topic -> counter -> claims -> state.  Everything runs inside the caller's transaction; what
is returned is published after its commit, so a receipt never runs ahead of what it says.

Unknown ids get silence.  Whatever does not open or verify gets one answer, always the same but for the
envelope's hash, and leaves no trace in the database.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from fedclient.errors import CryptoError, UnknownHead, WireError
from fedclient.gateway import rounds
from fedclient.gateway.admission import Admission
from fedclient.gateway.collection import Collection, Offer
from fedclient.gateway.desk import Desk
from fedclient.gateway.roster import Device, Standing
from fedclient.limits import MAX_FLOOR_JUMP
from fedclient.uplink import envelope_hash
from fedclient.values import (
    NO_HEAD,
    Base,
    HeadVersion,
    Judgement,
    MessageType,
    Reason,
    Receipt,
    ReceiptStatus,
    Status,
    Update,
    Verdict,
)

log = logging.getLogger(__name__)
CONFLICTS_TO_SUSPEND = 3  # PROTOCOL 4.2
RETRY_WINDOW_S = (30, 300)  # with `defer`: the devices' offers come back spread out


@dataclass(frozen=True, kw_only=True, slots=True)
class Mail:
    """A message on a device's topic; only the broker says that it is the device's."""

    device_id: str
    kind: MessageType
    payload: bytes
    wire_bytes: int


class Intake:
    """Answers updates and statuses."""

    def __init__(self, desk: Desk, now_s: float) -> None:
        settings = desk.settings
        self._desk = desk
        self.admission = Admission(settings.answers_per_device_per_minute, settings.answers_per_second, now_s)

    def update(self, mail: Mail, collection: Collection, now_s: float) -> bytes | None:
        """Return the receipt for an update, or None for silence."""
        roster, store = self._desk.store.roster, self._desk.store
        device = roster.device(mail.device_id)
        if device is None:
            return None
        digest = envelope_hash(mail.payload)
        if known := roster.receipt(device.id, digest):
            return known if self.admission.admit(device.id, now_s, verified=False) else None
        claimed = NO_HEAD

        def base_of(version: HeadVersion) -> Base | None:
            nonlocal claimed
            claimed = version
            return store.base(version)

        answer = _Answer(self._desk, device, digest, collection.current)
        try:
            update = self._desk.uplink.open_update(mail.payload, (device.id, device.public_key), base_of)
        except UnknownHead:
            unknown = rounds.judge_unknown(collection.current, claimed)
            return self._unverified(answer, unknown, now_s)
        except (WireError, CryptoError) as error:
            log.info("device %s: refused unopened: %s", device.id, error)
            return self._unverified(answer, None, now_s)
        if not self.admission.admit(device.id, now_s, verified=True):
            return None
        return self._judge(
            answer, Offer(device=device.id, update=update, wire_bytes=mail.wire_bytes), collection, now_s
        )

    def _unverified(self, answer: _Answer, action: rounds.Action | None, now_s: float) -> bytes | None:
        """Answer without storing anything; None is the uniform answer to strangers and accidents."""
        if not self.admission.admit(answer.device.id, now_s, verified=False):
            return None
        if isinstance(action, rounds.Decline):
            return answer.sign(0, ReceiptStatus.NOT_COUNTED, action.reason)
        if isinstance(action, rounds.Defer):
            return answer.sign(0, ReceiptStatus.DEFER)
        return answer.sign(0, ReceiptStatus.REFUSED, Reason.UNOPENABLE)

    def _judge(self, answer: _Answer, offer: Offer, collection: Collection, now_s: float) -> bytes:
        """Judge an authentic update: standing, counter, claims, state."""
        device, update = answer.device, offer.update
        if device.standing is not Standing.ACTIVE:
            return answer.settle(update.counter, ReceiptStatus.REFUSED, Reason.REVOKED)
        if collection.stopped:
            return answer.sign(update.counter, ReceiptStatus.DEFER)
        if update.counter <= device.last_counter:
            return self._conflict(answer, update)
        decoded = None
        if collection.same_plan(update.head_version):
            found = collection.inspect(update)
            if isinstance(found, Reason):
                log.warning("device %s: update %d refused: %s", device.id, update.counter, found.name)
                return answer.settle(update.counter, ReceiptStatus.REFUSED, found)
            decoded = found
        match collection.offer(offer, decoded, now_s):
            case rounds.Count():
                return answer.settle(update.counter, ReceiptStatus.COUNTED)
            case rounds.Decline(reason):
                return answer.settle(update.counter, ReceiptStatus.NOT_COUNTED, reason)
        return answer.sign(update.counter, ReceiptStatus.DEFER)

    def _conflict(self, answer: _Answer, update: Update) -> bytes:
        """Two envelopes for one counter: an old SD image, or two devices with one key."""
        device, conflicts = answer.device, answer.device.conflicts + 1
        suspended = conflicts >= CONFLICTS_TO_SUSPEND
        standing = Standing.SUSPENDED if suspended else Standing.ACTIVE
        self._desk.store.roster.set_standing(device.id, standing, conflicts)
        sentence = (
            f"update with counter {update.counter} after {device.last_counter}: an old SD image, or two "
            f"devices with one key{'; suspended, see `gateway devices reinstate`' if suspended else ''}"
        )
        self._desk.alarm(device.id, sentence)
        return answer.settle(update.counter, ReceiptStatus.REFUSED, Reason.CONFLICT, device.last_counter)

    def status(self, mail: Mail, collection: Collection, now_s: float) -> bytes | None:
        """Keep a status; a floor above our database stops publishing.  Only garbage gets an answer."""
        device = self._desk.store.roster.device(mail.device_id)
        if device is None:
            return None
        try:
            status = self._desk.uplink.open_status(mail.payload, (device.id, device.public_key))
        except (WireError, CryptoError) as error:
            log.info("device %s: refused unopened: %s", device.id, error)
            answer = _Answer(self._desk, device, envelope_hash(mail.payload), collection.current)
            return self._unverified(answer, None, now_s)
        if device.standing is Standing.ACTIVE:
            newest = self._desk.store.roster.save_status(device.id, status, self._desk.unix_s())
            if newest and status.judgement is not None:
                self._verdict(device, status.judgement, collection.current)
            self._floor(device, status, collection, now_s)
        return None

    def _verdict(self, device: Device, judgement: Judgement, current: HeadVersion) -> None:
        """Keep what a device made of a head, and warn once where most do not want the current one."""
        verdicts = self._desk.store.verdicts
        verdicts.note(device.id, judgement)
        if judgement.head_version != current or judgement.verdict is not Verdict.KEPT_PREVIOUS:
            return
        if (tally := verdicts.doubts(current)) is None:
            return
        counts = tally.kept_previous, tally.adopted + tally.kept_previous
        if verdicts.any_in_use(before=current):
            log.warning(
                "head %s: %d of %d devices keep the head before, which is better on their own samples: "
                "look at it, `fedclient gateway rollback` goes back",
                current,
                *counts,
            )
        else:
            log.info(
                "head %s: %d of %d devices found it no better than chance, so their apps get no head yet: "
                "heads with a hidden layer begin like that; if it stays so, lower the plan's learning_rate",
                current,
                *counts,
            )

    def _floor(self, device: Device, status: Status, collection: Collection, now_s: float) -> None:
        current, floor = collection.current, status.floor
        if floor <= max(current, self._desk.store.seen()):
            return
        if max(floor.version - current.version, floor.generation - current.generation) > MAX_FLOOR_JUMP:
            if self.admission.admit(device.id, now_s, verified=False):
                self._desk.alarm(device.id, f"claims to have seen head {floor}, which cannot be: ignored")
            return
        self._desk.above(floor, f"device {device.id} has seen it")
        collection.stopped = True


@dataclass(frozen=True, slots=True)
class _Answer:
    """A receipt in the making."""

    desk: Desk
    device: Device
    digest: bytes
    current: HeadVersion

    def sign(
        self, counter: int, status: ReceiptStatus, reason: Reason = Reason.NONE, last_counter: int = 0
    ) -> bytes:
        """Sign an answer that settles nothing here."""
        settings = self.desk.settings
        pace = settings.pace_min_s, settings.pace_max_s  # the device is to rest before its next job
        window = RETRY_WINDOW_S if status is ReceiptStatus.DEFER else pace
        receipt = Receipt(
            counter=counter,
            envelope_hash=self.digest,
            status=status,
            reason=reason,
            current=self.current,
            retry_window_s=window,
            last_counter=last_counter,
        )
        return self.desk.receipt(self.device.id, receipt)

    def settle(
        self, counter: int, status: ReceiptStatus, reason: Reason = Reason.NONE, last_counter: int = 0
    ) -> bytes:
        """Sign an answer and store it as the envelope's first and only receipt."""
        receipt = self.sign(counter, status, reason, last_counter)
        self.desk.store.roster.add_receipt(self.device.id, self.digest, counter, receipt)
        return receipt
