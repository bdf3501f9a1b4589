"""The open head version: its buffer as a round state and a running sum, and how it closes.

A cache of the database, thrown away and rebuilt, in row order, whenever a transaction fails, a
device in the buffer is revoked, or another process makes another version current.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedclient import codec
from fedclient.config import GatewaySettings
from fedclient.gateway import aggregate, canonical, rounds
from fedclient.gateway.desk import Desk, manifest_of, under
from fedclient.gateway.store import CountedUpdate, Round
from fedclient.limits import MAX_DELTAS
from fedclient.values import NO_HEAD, BlobRef, HeadVersion, Manifest, Plan, Reason, Update, parameters
from fedclient.wire.blobs import Blob, split
from fedclient.wire.fields import DELTA_HASH_BYTES

log = logging.getLogger(__name__)
_DELTA_BODIES = 3  # a delta may be as long as so many bodies, where the operator says nothing
_LEAST_DELTA = 700  # bytes, ditto: what comes with a delta, a manifest and a receipt, is longer
Head = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Offer:
    """An authentic update of an active device."""

    device: str
    update: Update
    wire_bytes: int


class Collection:
    """What has come in for the next head so far."""

    def __init__(self, desk: Desk, now_s: float, previous: Collection | None = None) -> None:
        """Rebuild from the database; a version that was open in `previous` keeps its deadline.

        Before the first release the current version is (0, 0).
        """
        store = desk.store
        newest = store.releases(1)
        self._desk = desk
        self.model_hash = newest[0].model_hash if newest else b""
        self.manifest: Manifest | None = manifest_of(newest[0]) if newest else None
        current = newest[0].head_version if newest else NO_HEAD
        self.stopped = store.seen() > current  # restored from a backup: PROTOCOL 4.6
        self.state = rounds.opened(_rules(desk.settings, self.manifest), current, now_s)
        if previous is not None and previous.current == current:
            kept = previous.state
            self.state = replace(self.state, opened_s=kept.opened_s, deadline_s=kept.deadline_s)
        self.bytes_up = 0
        self._body_bytes = 0
        self._devices: set[str] = set()
        self._epochs = 0  # of all updates
        self._sum: aggregate.RunningSum | None = None
        if self.manifest is not None:
            self._rebuild(self.manifest)

    def _rebuild(self, manifest: Manifest) -> None:
        self._sum = aggregate.RunningSum(manifest)
        updates = 0
        for row in self._desk.store.buffered():
            decoded = codec.decode(row.body, manifest.tensors, manifest.plan.body_codec)
            self._add(row, decoded, manifest.plan)
            updates += 1
        self.state = replace(self.state, updates=updates, devices=len(self._devices))

    def _add(self, row: CountedUpdate, decoded: codec.Decoded, plan: Plan) -> None:
        epochs = row.epochs or plan.epochs
        if self._sum is not None:
            self._sum.add(decoded, row.weight, epochs)
        self._epochs += epochs
        self._devices.add(row.device)
        self.bytes_up += row.wire_bytes
        self._body_bytes += len(row.body)

    @property
    def current(self) -> HeadVersion:
        """The head version that is current."""
        return self.state.current

    @property
    def full(self) -> bool:
        """Whether the cohort is complete, so that what comes next is for the next version."""
        return self.state.full and not self.stopped

    def inspect(self, update: Update) -> codec.Decoded | Reason:
        """Check what an update under the current plan claims: samples, epochs, shape, values, norm."""
        if self.manifest is None or not aggregate.claims_are_possible(update, self.manifest.plan):
            return Reason.SAMPLES
        return aggregate.inspect(update.body, self.manifest, update.epochs)

    def same_plan(self, version: HeadVersion) -> bool:
        """Whether this head version is of the current generation, and has the plan that is current."""
        base, manifest = self._desk.store.base(version), self.manifest
        same_generation = version.generation == self.current.generation
        return same_generation and bool(base and manifest and base.plan_hash == manifest.plan_hash)

    def offer(self, offer: Offer, decoded: codec.Decoded | None, now_s: float) -> rounds.Action:
        """Count an update, or say why not; inside the caller's transaction.

        `decoded` is what `inspect` returned; None for an update that was made under another plan.
        """
        update, store = offer.update, self._desk.store
        event = rounds.Offered(
            base=update.head_version,
            counted_before=store.has_counted(offer.device, update.head_version),
            new_device=offer.device not in self._devices,
            same_plan=decoded is not None,
        )
        state, (action, *_) = rounds.step(self.state, event, now_s)
        if not isinstance(action, rounds.Count) or decoded is None or self.manifest is None:
            return action
        samples = aggregate.sample_weight(update.bucket, self._desk.settings.max_weight_bucket)
        row = CountedUpdate(
            device=offer.device,
            base=update.head_version,
            counter=update.counter,
            weight=samples * action.staleness_weight,
            wire_bytes=offer.wire_bytes,
            body=update.body,
            epochs=update.epochs,
        )
        store.add_counted(row)
        self._add(row, decoded, self.manifest.plan)
        self.state = state
        return action

    def due(self, now_s: float) -> bool:
        """Whether the version is to be closed now; a deadline without enough devices is extended."""
        if self.stopped or self.manifest is None:
            return False
        self.state, actions = rounds.step(self.state, rounds.Ticked(), now_s)
        if any(isinstance(action, rounds.Extended) for action in actions):
            log.info(
                "head %s: deadline extended, %d of %d devices have sent an update",
                self.current,
                self.state.devices,
                self.state.rules.min_devices,
            )
        return any(isinstance(action, rounds.Close) for action in actions)

    def deadline_s(self) -> float | None:
        """When `due` may become true by time alone."""
        return None if self.stopped or self.manifest is None else self.state.deadline_s

    def close(self, measure: Callable[[Head], float | None], bytes_down: int, now_s: float) -> bool:
        """Commit the next version: frozen set, head, hashes and signed manifest (PROTOCOL 4.4).

        Returns False, with nothing committed but the revocations found, when the buffer is no
        longer what this object thinks it is: rebuild, and ask `due` again.
        """
        manifest, running, store = self.manifest, self._sum, self._desk.store
        if manifest is None or running is None:
            return False
        with store.transaction():
            if store.leave_out_revoked():
                return False
        following, delta = self._following(manifest, running)
        accuracy = measure(following.head)
        head, full = split(following.head.astype("<f4").tobytes()), split(following.full)
        step = None if delta is None else split(delta)
        # Statistics are collected once: what follows is the same plan without them.
        training = under(manifest, replace(manifest.plan, statistics=False))
        version = HeadVersion(self.current.generation, self.current.version + 1)
        deltas = chain(step, manifest.deltas, full.ref.size)
        release = self._desk.release(
            replace(training, head_version=version, head=head.ref, full=full.ref, deltas=deltas)
        )
        made = replace(
            self._made(manifest.plan, accuracy, bytes_down, now_s),
            full_bytes=len(following.full),
            delta_bytes=None if delta is None else len(delta),
        )
        with store.transaction():
            if store.current() != self.current or store.leave_out_revoked():
                return False
            for blob in (head, full, step) if step else (head, full):
                store.add_blob(blob.ref.hash, b"".join(blob.chunks))
            store.remainder.put(version, following.remainder)
            store.add_release(release, made)
        measured = "" if accuracy is None else f", accuracy {accuracy:.3f}"
        what = "feature statistics" if manifest.plan.statistics else "updates"
        log.info("head %s: published from %d %s%s", version, made.counted, what, measured)
        return True

    def _following(
        self, manifest: Manifest, running: aggregate.RunningSum
    ) -> tuple[canonical.Canonical, bytes | None]:
        """Return the next head and the delta that leads there, if one does."""
        store, settings = self._desk.store, self._desk.settings
        before = canonical.Canonical(
            head=np.frombuffer(store.blob(manifest.head.hash), dtype="<f4").astype(np.float32),
            full=store.blob(manifest.full.hash),
            remainder=store.remainder.of(self.current, parameters(manifest.tensors)),
        )
        if manifest.plan.statistics:
            head = running.statistics(before.head)
            return canonical.with_statistics(before, head, manifest.tensors), None
        budget = settings.max_delta_bytes or usual_budget(self._body_bytes, self.state.updates)
        return canonical.advance(
            before, running.change(settings.server_learning_rate), manifest.tensors, budget
        )

    def _made(self, plan: Plan, accuracy: float | None, bytes_down: int, now_s: float) -> Round:
        mean_epochs = self._epochs / max(self.state.updates, 1)
        return Round(
            counted=self.state.updates,
            accuracy=accuracy,
            bytes_up=self.bytes_up,
            bytes_down=bytes_down,
            seconds=now_s - self.state.opened_s,
            closed_unix_s=int(self._desk.unix_s()),
            epochs=None if mean_epochs == plan.epochs else mean_epochs,
        )


def usual_budget(body_bytes: int, updates: int) -> int:
    """Return how long a delta may be where the operator says nothing; `body_bytes` of `updates` in all."""
    return max(_LEAST_DELTA, _DELTA_BODIES * body_bytes // max(updates, 1))


def chain(newest: Blob | None, before: tuple[BlobRef, ...], full_bytes: int) -> tuple[BlobRef, ...]:
    """Return the deltas that a manifest lists: as far back as they are shorter than the full head."""
    if newest is None:
        return ()
    listed = [replace(newest.ref, hash=newest.ref.hash[:DELTA_HASH_BYTES]), *before][:MAX_DELTAS]
    while sum(ref.size for ref in listed) >= full_bytes:
        listed.pop()
    return tuple(listed)


def _rules(settings: GatewaySettings, manifest: Manifest | None) -> rounds.Rules:
    plan = manifest.plan if manifest else Plan()
    return rounds.Rules(
        cohort=settings.cohort,
        min_devices=settings.min_devices,
        deadline_s=settings.deadline_s,
        max_staleness=plan.max_staleness,
        max_pending=settings.max_pending_updates,
    )
