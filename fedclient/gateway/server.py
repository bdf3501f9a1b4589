"""The gateway's loop: messages in, one commit, receipts out, versions closed and published.

Driven by its owner like the agent: `start`, then wait on `interests()` until `deadline_s()` and call
`service`, then `stop`.  One call handles all messages that wait (up to a bound) in one transaction,
so that the cost of a durable commit is shared, and publishes their receipts after it.

On every connect: subscribe, wait until what the broker retains has come, and only then publish, so that
a manifest of our own that is above this database stops us first (PROTOCOL 4.6, 4.7).
"""

from __future__ import annotations

import logging
import random
import time
from collections import deque
from collections.abc import Callable
from collections.abc import Collection as Ready
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import numpy as np

from fedclient.config import GatewaySettings
from fedclient.crypto import keys
from fedclient.errors import DataError, FedClientError, StorageError, TransientError, Unreachable, WireError
from fedclient.gateway.collection import Collection, Head
from fedclient.gateway.desk import Desk
from fedclient.gateway.enrolment import Enrolment
from fedclient.gateway.intake import Intake, Mail
from fedclient.gateway.renewal import renew
from fedclient.gateway.shelf import Shelf
from fedclient.gateway.store import DATABASE_NAME, Store
from fedclient.limits import MAX_INBOX_BYTES, MAX_INBOX_MESSAGES, MAX_INBOX_SHARE_BYTES
from fedclient.storage import disk_errors, make_folder
from fedclient.transport.base import (
    Connected,
    Delivered,
    Disconnected,
    Received,
    Transport,
    publish_wire_bytes,
)
from fedclient.values import Broker, HeadVersion, MessageType
from fedclient.wire.topics import check_federation

if TYPE_CHECKING:
    from fedclient.gateway.holdout import Holdout

log = logging.getLogger(__name__)
SETTLE_S = 0.5  # between subscribing and publishing: what the broker retains has come by then
POLL_S = 1.0  # how soon another process's `publish`, `pause` or `revoke` is noticed
REPAIR_S = 5.0  # how long somebody else's manifest may stay in the place of ours
_MAIL_BYTES = 8192  # what a message takes of its sender's share beside its payload: to open it is work
BATCH = 128  # messages in one transaction: some 50 ms
_SIGNING_KEY, _SEALING_KEY = "signing.key", "sealing.key"
# What NumPy raises on a file that is not there, is no .npz, or is a damaged one.
_NO_ARRAYS = (OSError, ValueError, KeyError, TypeError, AttributeError, BadZipFile)
_PAUSE_S = 5.0  # after the disk or the database failed


class Gateway:
    """One federation's server; `desk` has its database, keys and settings."""

    def __init__(
        self,
        *,
        transport: Transport,
        desk: Desk,
        jitter: random.Random,
        retry_s: tuple[float, float] = (1.0, 60.0),
    ) -> None:
        self._transport = transport
        self._desk = desk
        self._jitter = jitter
        self._retry_s = retry_s
        self._shelf = Shelf(desk)
        self._inbox: deque[Mail] = deque()
        self._inbox_bytes = 0
        self._waiting: dict[str, int] = {}  # bytes in the inbox by device: one does not keep others out
        self._failures = 0
        self._connect_at: float | None = None
        self._settle_at: float | None = None  # subscribed; what is retained may still come until then
        self._online = False  # connected and settled
        self._foreign: tuple[HeadVersion, bytes] | None = None  # highest manifest of ours on the broker
        self._retained: bytes | None = None  # what was last published as our manifest, by whomever
        self._repair_at: float | None = None
        self._poll_at = 0.0
        self._paused_until = 0.0
        self._bytes_down = 0
        self._holdout: tuple[bytes, Holdout] | None = None

    def start(self, now_s: float) -> None:
        """Rebuild what the database says and begin to connect.  Raises StorageError, ConfigError."""
        renew(self._desk)
        self._intake = Intake(self._desk, now_s)
        self._enrolment = Enrolment(self._desk, self._intake.admission)
        self._collection = Collection(self._desk, now_s)
        self._stale = False
        self._connect_at = now_s
        self._connect(now_s)

    def interests(self) -> dict[int, int]:
        """Which descriptors to wait for, and for which `selectors` events."""
        return self._transport.interests()

    def deadline_s(self) -> float | None:
        """CLOCK_BOOTTIME instant by which to call `service`."""
        instants = [self._transport.deadline_s(), self._connect_at, self._settle_at, self._poll_at]
        if self._online:
            instants += [0.0 if self._inbox else None, self._collection.deadline_s()]
        return max(min(instant for instant in instants if instant is not None), self._paused_until)

    def service(self, ready: Ready[int], now_s: float) -> None:
        """Do what is due; failures of the disk are survived, and what they hit is offered again."""
        for event in self._transport.service(ready, now_s):
            match event:
                case Connected():
                    self._connected(now_s)
                case Disconnected(reason=reason):
                    self._disconnected(reason, now_s)
                case Received():
                    self._received(event)
                case Delivered(message_id=message_id):
                    self._shelf.delivered(message_id)
        self._connect(now_s)
        if now_s < self._paused_until:
            return
        try:
            self._work(now_s)
        except Unreachable as error:
            log.info("not sent: %s", error)
        except (StorageError, TransientError) as error:
            log.error("nothing was counted or answered, trying again in %g s: %s", _PAUSE_S, error)
            self._paused_until = now_s + _PAUSE_S
            self._stale = True

    def stop(self) -> None:
        """End the connection; everything that was answered is in the database."""
        self._transport.close()

    # --- the connection ----------------------------------------------------------------------------
    def _connect(self, now_s: float) -> None:
        if self._connect_at is not None and now_s >= self._connect_at:
            self._connect_at = None
            self._transport.connect(now_s)

    def _connected(self, now_s: float) -> None:
        self._failures = 0
        self._shelf.reset()
        try:
            self._transport.subscribe(self._desk.topics.manifest)
            for topic_filter in self._desk.topics.messages_up:
                self._transport.subscribe(topic_filter)
        except Unreachable:
            return  # its Disconnected is on the way
        self._settle_at = now_s + SETTLE_S
        log.info("connected")

    def _disconnected(self, reason: str, now_s: float) -> None:
        low, high = self._retry_s
        pause_s = min(high, low * 2**self._failures) * self._jitter.uniform(0.5, 1.0)
        self._failures = min(self._failures + 1, 30)
        self._settle_at, self._online = None, False
        self._retained = self._repair_at = None
        self._connect_at = now_s + pause_s
        log.warning("disconnected: %s; next attempt in %.1f s", reason, pause_s)

    def _received(self, event: Received) -> None:
        if event.topic == self._desk.topics.manifest:
            self._own_manifest(event.payload)
            return
        try:
            device_id, kind = self._desk.topics.parse_up(event.topic)
        except WireError:
            return
        share = self._waiting.get(device_id, 0) + len(event.payload) + _MAIL_BYTES
        too_much = self._inbox_bytes + len(event.payload) > MAX_INBOX_BYTES or share > MAX_INBOX_SHARE_BYTES
        if too_much or len(self._inbox) >= MAX_INBOX_MESSAGES:
            log.warning("device %s: dropped a message, %d wait already", device_id, len(self._inbox))
            return
        self._waiting[device_id] = share
        self._inbox_bytes += len(event.payload)
        self._inbox.append(
            Mail(device_id=device_id, kind=kind, payload=event.payload, wire_bytes=event.wire_bytes)
        )

    def _own_manifest(self, payload: bytes) -> None:
        """Remember the highest manifest on the broker that we signed, whenever that was."""
        self._retained = payload
        try:
            version = self._desk.open_manifest(payload).head_version
        except FedClientError as error:
            if payload:
                log.error("the broker has a manifest that we did not sign: %s", error)
            return
        if self._foreign is None or version >= self._foreign[0]:
            self._foreign = version, payload

    def _compare(self) -> None:
        """Stop if the broker has a manifest of ours that is above our database (PROTOCOL 4.6)."""
        if self._foreign is None:
            return
        version, payload = self._foreign
        store = self._desk.store
        newest = store.releases(1)
        if newest and version == newest[0].head_version and payload != newest[0].signed:
            # After a restore this version was made a second time: go beyond what was the first.
            version = HeadVersion(version.generation, version.version + 1)
        if version > max(store.current(), store.seen()):
            with store.transaction():
                self._desk.above(version, "the broker has our signed manifest of it")
            self._stale = True
        self._foreign = None

    # --- the work ----------------------------------------------------------------------------------
    def _work(self, now_s: float) -> None:
        self._compare()
        if now_s >= self._poll_at:
            self._poll_at = now_s + POLL_S
            self._stale = self._stale or self._desk.store.current() != self._collection.current
            self._repair(now_s)
        self._refresh(now_s)
        if self._settle_at is not None and now_s >= self._settle_at:
            self._settle_at, self._online = None, True
        if not self._online:
            return
        self._publish(now_s)
        self._answer(now_s)
        if self._collection.due(now_s):
            self._close(now_s)

    def _refresh(self, now_s: float) -> None:
        """Rebuild the cache where it may no longer be what the database says."""
        if self._stale:
            self._collection = Collection(self._desk, now_s, self._collection)
            self._stale = False

    def _repair(self, now_s: float) -> None:
        """Publish everything again where a stranger's manifest took the place of ours.

        Devices that connect then would wait for the next head, which may be waiting for them.
        """
        newest = self._desk.store.releases(1)
        if self._retained is None or not newest or self._retained == newest[0].signed:
            self._repair_at = None
        elif self._repair_at is None:
            self._repair_at = now_s + REPAIR_S  # ours may be on its way
        elif now_s >= self._repair_at:
            self._repair_at = None
            self._shelf.reset()

    def _publish(self, now_s: float) -> None:
        if not self._collection.stopped:
            self._bytes_down += self._shelf.publish(self._transport, now_s)

    def _answer(self, now_s: float) -> None:
        """Handle what waits in one transaction; then, and only then, publish the receipts."""
        if not self._inbox and not self._shelf.has_cleared:
            return
        receipts: list[tuple[str, bytes]] = []
        with self._desk.store.transaction():
            if self._desk.store.current() != self._collection.current:
                self._collection = Collection(self._desk, now_s, self._collection)
            for _ in range(BATCH):
                if not self._inbox or self._collection.full:
                    break  # the rest is judged against the next version
                mail = self._next_mail()
                if (receipt := self._handle(mail, now_s)) is not None:
                    receipts.append((mail.device_id, receipt))
            self._shelf.cross_out()
        for device_id, receipt in receipts:
            topic = self._desk.topics.receipt(device_id)
            self._transport.publish(topic, receipt)
            self._bytes_down += publish_wire_bytes(topic, len(receipt), qos=1)

    def _next_mail(self) -> Mail:
        mail = self._inbox.popleft()
        self._inbox_bytes -= len(mail.payload)
        self._waiting[mail.device_id] -= len(mail.payload) + _MAIL_BYTES
        if not self._waiting[mail.device_id]:
            del self._waiting[mail.device_id]
        return mail

    def _handle(self, mail: Mail, now_s: float) -> bytes | None:
        if mail.kind is MessageType.UPDATE:
            return self._intake.update(mail, self._collection, now_s)
        if mail.kind is MessageType.STATUS:
            return self._intake.status(mail, self._collection, now_s)
        return self._enrolment.request(mail, self._collection.current, now_s)

    def _close(self, now_s: float) -> None:
        self._stale = True
        closed = self._collection.close(self._measure, self._bytes_down, now_s)
        if closed:
            self._bytes_down = 0
        self._refresh(now_s)
        self._publish(now_s)

    def _measure(self, head: Head) -> float | None:
        """Return the accuracy of `head` on the held-out data, where there is some that fits."""
        path, model_hash = self._desk.settings.holdout, self._collection.model_hash
        if path is None:
            return None
        try:
            if self._holdout is None or self._holdout[0] != model_hash:
                self._holdout = model_hash, _load_holdout(path, self._desk.store.blob(model_hash))
            return self._holdout[1].accuracy(head)
        except (StorageError, TransientError):
            raise
        except FedClientError as error:
            log.error("no accuracy for this head: %s", error)
            return None


def _load_holdout(path: Path, model: bytes) -> Holdout:
    from fedclient.gateway.holdout import Holdout  # noqa: PLC0415 - the runtime only where it is used

    try:
        with np.load(path, allow_pickle=False) as data:
            return Holdout(model, data["x"], data["y"])
    except _NO_ARRAYS as error:
        raise DataError(f"{path}: [gateway] holdout is not an .npz file with x and y: {error}") from error


def found(folder: Path, federation: str, broker: Broker) -> None:
    """Make the keys and the database of a gateway in `folder`; nothing there is ever overwritten.

    Raises WireError for a name that is none, StorageError where there is a federation already.
    """
    check_federation(federation)
    make_folder(folder, 0o700)
    store = Store(folder)
    try:
        # Keys first: a federation in the database always has its keys beside it.
        keys.SigningKey.load_or_create(folder / _SIGNING_KEY)
        keys.SealingKey.load_or_create(folder / _SEALING_KEY)
        with store.transaction():
            store.found(federation, broker)
    finally:
        store.close()


def open_desk(folder: Path, settings: GatewaySettings, unix_s: Callable[[], float] = time.time) -> Desk:
    """Open the state folder of a gateway that `found` made.  Raises StorageError."""
    with disk_errors(folder):
        known = (folder / DATABASE_NAME).exists()
    if not known:
        raise StorageError(
            f"{folder}: there is no gateway here: "
            "run `fedclient gateway init` first, or name another --state DIR"
        )
    store = Store(folder)
    try:
        federation, _ = store.federation()
        signing = keys.SigningKey.load(folder / _SIGNING_KEY)
        sealing = keys.SealingKey.load(folder / _SEALING_KEY)
    except BaseException:
        store.close()
        raise
    return Desk(
        federation=federation, store=store, signing=signing, sealing=sealing, settings=settings, unix_s=unix_s
    )
