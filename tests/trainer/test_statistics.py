"""A job that measures features and trains nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedclient import codec
from fedclient.device.jobs import TrainerExit
from fedclient.device.outbox import Row
from fedclient.device.residual import ResidualKey
from fedclient.errors import DataError, ModelError, PrivacyFloor
from fedclient.gateway import aggregate
from fedclient.model.head import HeadOptions, write_head
from fedclient.session import Outcome
from fedclient.trainer.job import JobRun
from fedclient.trainer.statistics import collect
from fedclient.training.loop import Examples
from fedclient.values import HeadVersion, Manifest, parameters
from tests.trainer.setup import CLASSES, FEATURES, PLAN, Bench, bench, samples, settle

V1, V2 = HeadVersion(1, 1), HeadVersion(1, 2)
COLLECTING = replace(PLAN, statistics=True)
MODEL = write_head(FEATURES, CLASSES, options=HeadOptions(normalize=True))


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Bench]:
    made = bench(tmp_path / "device", model=MODEL)
    yield made
    made.close()


def run(device: Bench, version: HeadVersion, plan=COLLECTING, **changed: object) -> Manifest:
    manifest = device.publish(version, plan)
    device.jobs.new(version, threads=1)
    device.database.execute("UPDATE job SET seed = 5")
    job = device.jobs.current()
    assert JobRun(device.arguments(job, **changed), lambda: False).run() == TrainerExit.DONE
    return manifest


def sent(row: Row, manifest: Manifest) -> np.ndarray:
    """Return mean and mean of squares as the gateway reads them, [2, D]."""
    found = aggregate.inspect(row.body, manifest)
    assert isinstance(found, codec.Decoded)
    return found.values.reshape(2, -1)


def test_what_is_sent_is_mean_and_mean_of_squares_of_this_devices_samples(device) -> None:
    manifest = run(device, V1)
    row = device.outbox.unsettled()
    x = np.array(samples(60)[0], dtype=np.float32).astype(float)
    assert np.allclose(sent(row, manifest), [x.mean(axis=0), (x**2).mean(axis=0)], rtol=1e-6)
    update = device.opened(row)
    assert (update.bucket, update.epochs, update.accuracy_percent) == (5, None, None)
    assert len(row.body) == 1 + 8 * FEATURES
    (round_,) = device.journal.rounds()
    assert (round_.report["samples"], round_.report["epochs"]) == (60, [])
    assert round_.report["bytes"]["encoded"] == len(row.body)
    assert device.jobs.current() is None


def test_statistics_leave_the_residual_as_it_was(device) -> None:
    manifest = device.publish(V1, COLLECTING)
    kept = np.full(parameters(manifest.tensors), 0.5, np.float32)
    device.residual.save(ResidualKey.of(manifest, device.store.epoch), kept.tobytes())
    run(device, V1)
    assert device.stored_residual(manifest).tobytes() == kept.tobytes()


def test_the_same_samples_give_the_same_body_whatever_happened_before(device, tmp_path) -> None:
    run(device, V1)
    other = bench(tmp_path / "other", model=MODEL)
    run(other, V1)
    assert other.outbox.unsettled().body == device.outbox.unsettled().body
    other.close()


def test_rule_5_3_statistics_that_came_too_late_are_not_taken_for_a_delta(device, tmp_path, caplog) -> None:
    run(device, V1)
    device.outbox.settle(1, Outcome.RETURNED)
    other = bench(tmp_path / "other", model=MODEL)
    for one in (device, other):
        run(one, V2, PLAN)
    assert device.outbox.returned() == ((), ()), "they are gone"
    assert "dropped" not in caplog.text
    assert device.outbox.unsettled().body == other.outbox.unsettled().body
    other.close()


def test_rule_8_statistics_need_as_many_samples_as_any_job(tmp_path) -> None:
    device = bench(tmp_path / "device", count=31, model=MODEL)
    device.publish(V1, COLLECTING)
    job = device.jobs.new(V1, threads=1)
    with pytest.raises(PrivacyFloor, match="31 distinct samples"):
        JobRun(device.arguments(job), lambda: False).run()
    assert device.outbox.unsettled() is None
    device.close()


def examples(x) -> Examples:
    return Examples(x=np.asarray(x, dtype=np.float32), y=np.zeros(len(x), dtype=np.int32))


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e38, 1e9])
def test_features_that_are_no_numbers_or_far_too_large_are_a_data_error(device, bad) -> None:
    manifest = device.publish(V1, COLLECTING)
    x = np.ones((40, FEATURES))
    x[:, 2] = bad
    with pytest.raises(DataError, match=r"look at the samples|scale the features"):
        collect(examples(x), manifest, {})


def test_a_head_without_statistics_is_a_model_error(tmp_path) -> None:
    plain = bench(tmp_path / "plain")
    manifest = plain.publish(V1, COLLECTING)
    with pytest.raises(ModelError, match="no feature statistics"):
        collect(examples(np.ones((40, FEATURES))), manifest, {})
    plain.close()


def again(device: Bench, version: HeadVersion, **plan: object) -> np.ndarray:
    """Measure once more, after the gateway has settled the last time."""
    if device.outbox.unsettled() is not None:
        settle(device)
    manifest = run(device, version, replace(COLLECTING, **plan))
    return sent(device.outbox.unsettled(), manifest)


def test_nobody_tells_a_sample_from_the_difference_of_two_means(device) -> None:
    """The newest 40, then the newest 41: 41 of these less 40 of those is one sample."""
    first = again(device, V1, max_examples=40)
    settle(device)
    with pytest.raises(PrivacyFloor, match="sent before, and 0 distinct samples are new since"):
        run(device, V2, replace(COLLECTING, max_examples=41))
    assert device.outbox.unsettled() is None
    device.jobs.drop()
    assert np.array_equal(again(device, V2, max_examples=40), first), "the same ones tell nothing new"
    device.store.append_many(*samples(31, seed=7))
    settle(device)
    with pytest.raises(PrivacyFloor, match="31 distinct"):
        run(device, HeadVersion(1, 3))
    device.jobs.drop()
    device.store.append([9.0] * FEATURES, 0)
    assert not np.array_equal(again(device, HeadVersion(1, 4)), first)
