"""The end of a job: returned updates come back in, and one transaction hands over (PROTOCOL 5.2, 5.3)."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fedclient.crypto.keys import SigningKey
from fedclient.device import enrolment
from fedclient.device.folder import DeviceFolder
from fedclient.device.jobs import Job, TrainerExit
from fedclient.device.outbox import Outbox, Row
from fedclient.device.personal import PersonalKey, PersonalLayer
from fedclient.device.residual import Residual, ResidualKey
from fedclient.errors import ConfigError
from fedclient.samples.store import SampleStore
from fedclient.trainer.pack import fold
from fedclient.trainer.workplace import Workplace
from fedclient.uplink import DeviceUplink
from fedclient.values import CodecMode, Manifest, Update, parameters

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TakenBack:
    """The residual with what was not counted folded in, and the rows that are settled by that."""

    residual: NDArray[np.float32]
    counters: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a job came to, before it has a counter; `report` is what history keeps of it."""

    body: bytes
    examples: int
    epochs: int | None = None  # done, where time cut the plan's
    accuracy_percent: int | None = None  # of the base head, where the owner shares it
    left: TakenBack | None = None  # the new residual and what it settles; None: neither changes
    marks: dict[str, int] = field(default_factory=dict)  # counters, and what they become
    personal: bytes | None = None  # the layer that is never sent; None: it does not change
    sizes: dict[str, int] = field(default_factory=dict)  # bytes after each stage
    report: dict[str, object] = field(default_factory=dict)


def take_back(place: Workplace, job: Job, manifest: Manifest) -> TakenBack:
    """Read the residual and add the returned updates of this model, generation and samples to it."""
    epoch = job.epoch or 0
    stored = Residual(place.database).load(ResidualKey.of(manifest, epoch))
    residual = (
        np.zeros(parameters(manifest.tensors), np.float32)
        if stored is None
        else np.frombuffer(stored, "<f4").astype(np.float32)
    )
    returned, counters = Outbox(place.database).returned()
    ours = [row for row in returned if _belongs(row, manifest, epoch)]
    if len(ours) < len(counters):
        log.warning(
            "returned updates dropped (another model, purged samples or damaged) count=%d",
            len(counters) - len(ours),
        )
    deltas = [row.body for row in ours if row.body[:1] != bytes([CodecMode.EXACT])]  # statistics are none
    folded = fold(residual, deltas, manifest.plan, manifest.tensors)
    return TakenBack(residual=folded, counters=counters)


def body_room(place: Workplace, job: Job, manifest: Manifest, told: Result) -> int | None:
    """Return how many bytes the body of an update that says `told` may have; None: no bound.

    The counter is the next one: an update with another cannot come in between, as there is one job.
    """
    if job.max_update_bytes is None:
        return None
    update = _update(place.journal.counter("updates") + 1, manifest, told)
    return job.max_update_bytes - _uplink(place.folder).overhead_bytes(update, job.max_update_bytes)


def hand_over(place: Workplace, job: Job, manifest: Manifest, result: Result) -> TrainerExit:
    """Do PROTOCOL 5.2's one transaction: residual, personal layer, returned rows, outbox row, counter, job.

    Samples that were purged meanwhile must not leave: the job starts over then.  Raises Superseded.
    """
    epoch = job.epoch or 0
    if SampleStore(place.folder.samples).epoch != epoch:
        log.warning("samples were purged meanwhile: this job starts over")
        return TrainerExit.STOPPED
    outbox = Outbox(place.database)
    with place.owned(job):
        counter = place.journal.add("updates")
        row = _row(place.folder, _update(counter, manifest, result), manifest, epoch)
        if result.left is not None:
            Residual(place.database).save(ResidualKey.of(manifest, epoch), result.left.residual.tobytes())
            outbox.drop_returned(result.left.counters)
        if result.personal is not None:
            PersonalLayer(place.database).save(PersonalKey.of(manifest, epoch), result.personal)
        outbox.put(row)
        for name, value in result.marks.items():
            place.journal.clear(name)
            place.journal.raise_to(name, value)
        report = {**result.report, "bytes": {**result.sizes, "sealed": len(row.envelope)}}
        place.journal.record_round(counter, manifest.head_version, report)
        place.jobs.drop()
    return TrainerExit.DONE


def _update(counter: int, manifest: Manifest, result: Result) -> Update:
    return Update(
        counter=counter,
        head_version=manifest.head_version,
        bucket=result.examples.bit_length() - 1,
        accuracy_percent=result.accuracy_percent,
        body=result.body,
        epochs=result.epochs,
    )


def _row(folder: DeviceFolder, update: Update, manifest: Manifest, epoch: int) -> Row:
    """Sign and seal an update for the outbox."""
    return Row(
        counter=update.counter,
        head_version=manifest.head_version,
        model_hash=manifest.model.hash,
        samples_epoch=epoch,
        envelope=_uplink(folder).update(update, manifest.base),
        body=update.body,
    )


def _uplink(folder: DeviceFolder) -> DeviceUplink:
    stored = enrolment.load(folder.enrolment)
    if stored is None:
        raise ConfigError("this device is not enrolled: run `fedclient enroll INVITATION`")
    return DeviceUplink(
        federation=stored.invitation.federation,
        key=SigningKey.load(folder.key),
        gateway_sealing_key=stored.invitation.sealing_key,
    )


def _belongs(row: Row, manifest: Manifest, epoch: int) -> bool:
    same_generation = row.head_version.generation == manifest.head_version.generation
    return same_generation and (row.model_hash, row.samples_epoch) == (manifest.model.hash, epoch)
