"""What is handed over at the end of a job, and what stays as it is."""

from __future__ import annotations

import numpy as np
import pytest

from fedclient.device.jobs import TrainerExit
from fedclient.device.residual import ResidualKey
from fedclient.trainer.handover import Result, TakenBack, body_room, hand_over, take_back
from fedclient.trainer.workplace import Superseded, Workplace
from fedclient.transport.base import publish_wire_bytes
from fedclient.values import HeadVersion, MessageType, Update
from fedclient.wire.topics import Topics
from tests.trainer.setup import CLASSES, FEATURES, FEDERATION, Bench

V1 = HeadVersion(1, 1)
SIZE = (FEATURES + 1) * CLASSES


def begin(device: Bench):
    manifest = device.publish(V1)
    device.jobs.fix_samples(device.jobs.new(V1, threads=1), (1, 2, 3), device.store.epoch)
    place = Workplace(device.arguments(device.jobs.current()))
    return place, place.take_job(), manifest


def test_without_a_residual_it_begins_with_zeros(device) -> None:
    back = take_back(*begin(device))
    assert back.residual.tolist() == [0.0] * SIZE
    assert back.residual.dtype == np.float32
    assert back.counters == ()


def test_what_is_not_replaced_stays(device) -> None:
    place, job, manifest = begin(device)
    kept = np.ones(SIZE, np.float32)
    device.residual.save(ResidualKey.of(manifest, device.store.epoch), kept.tobytes())
    assert take_back(place, job, manifest).residual.tobytes() == kept.tobytes()
    result = Result(body=b"body", examples=9, report={"samples": 9}, sizes={"encoded": 4})
    assert hand_over(place, job, manifest, result) == TrainerExit.DONE
    assert device.stored_residual(manifest).tobytes() == kept.tobytes()
    row = device.outbox.unsettled()
    update = device.opened(row)
    assert (update.counter, update.bucket, update.accuracy_percent, update.body) == (1, 3, None, b"body")
    (round_,) = device.journal.rounds()
    assert round_.report == {"samples": 9, "bytes": {"encoded": 4, "sealed": len(row.envelope)}}
    assert device.jobs.current() is None


def test_rule_5_2_a_job_that_is_gone_hands_nothing_over(device) -> None:
    place, job, manifest = begin(device)
    device.jobs.drop()
    before = device.tables()
    left = TakenBack(residual=np.ones(SIZE, np.float32))
    with pytest.raises(Superseded):
        hand_over(place, job, manifest, Result(body=b"body", examples=9, left=left))
    assert device.tables() == before


def test_rule_8_purged_samples_hand_nothing_over(device) -> None:
    place, job, manifest = begin(device)
    before = device.tables()
    device.store.purge()
    assert hand_over(place, job, manifest, Result(body=b"body", examples=9)) == TrainerExit.STOPPED
    assert device.tables() == before


@pytest.mark.parametrize("bound", [256, 300, 2000, 16_600, 20_000])
@pytest.mark.parametrize("told", [{}, {"epochs": 1, "accuracy_percent": 91}])
def test_the_body_has_what_the_envelope_leaves(device, bound, told) -> None:
    manifest = device.publish(V1)
    device.jobs.new(V1, threads=1, max_update_bytes=bound)
    place = Workplace(device.arguments(device.jobs.current()))
    result = Result(body=b"", examples=60, **told)
    room = body_room(place, device.jobs.current(), manifest, result)
    update = Update(
        counter=1, head_version=V1, bucket=5, accuracy_percent=told.get("accuracy_percent"),
        body=bytes(room), epochs=told.get("epochs"),
    )  # fmt: skip
    envelope = device.uplink().update(update, manifest.base)
    topic = Topics(FEDERATION).up(device.key.device_id, MessageType.UPDATE)
    assert bound - 1 <= publish_wire_bytes(topic, len(envelope), qos=1) <= bound


def test_without_a_bound_a_body_has_none(device) -> None:
    place, job, manifest = begin(device)
    assert body_room(place, job, manifest, Result(body=b"", examples=60)) is None
