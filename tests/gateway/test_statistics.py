"""Federated feature statistics, seen from the gateway: collected once, whatever happens in between."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest

from fedclient import codec
from fedclient.errors import ModelError
from fedclient.gateway import releases
from fedclient.gateway.desk import manifest_of
from fedclient.storage import Database
from fedclient.transport.memory import MemoryTransport
from fedclient.values import HeadVersion, Reason, ReceiptStatus
from tests.gateway.harness import (
    COLLECTING,
    NORMALIZED,
    Farm,
    content,
    normalized,
    normalized_body,
    samples,
    statistics_body,
)


@pytest.fixture
def collecting(tmp_path) -> Farm:
    """A gateway whose first version collects statistics."""
    made = Farm(tmp_path / "gateway", publish=False)
    releases.publish(made.desk, normalized())
    return made


def newest(farm):
    return manifest_of(farm.store.releases(1)[0])


def collect(farm, devices):
    for seed, device in enumerate(devices):
        device.update(body=statistics_body(seed))
    farm.settle(*devices)


def scaled(farm) -> np.ndarray:
    """Standardise all devices' samples by what the head says."""
    mean, square = farm.head()[codec.statistics_of(NORMALIZED)].astype(float)
    return (np.concatenate([samples(seed) for seed in range(3)]) - mean) / np.sqrt(square - mean**2)


def test_the_next_version_has_the_statistics_of_all_samples_and_trains(collecting):
    devices = collecting.devices(3)
    collect(collecting, devices)
    manifest = newest(collecting)
    assert manifest.head_version == HeadVersion(1, 2)
    assert manifest.plan == replace(COLLECTING, statistics=False)
    assert collecting.store.base(HeadVersion(1, 2)) == manifest.base, "updates are bound to the new plan"
    assert manifest.deltas == (), "statistics travel with a full head"
    full = collecting.store.blob(manifest.full.hash)
    assert codec.head_from(full, manifest.tensors).tobytes() == collecting.head().tobytes()
    assert collecting.head()[:4].tolist() == [1, 2, 3, 4], "nothing was trained"
    assert np.allclose(scaled(collecting).mean(axis=0), 0, atol=1e-3)
    assert np.allclose(scaled(collecting).std(axis=0), 1, rtol=1e-3)
    for seed, device in enumerate(devices):
        device.update(body=normalized_body(seed))
    farm_head = collecting.head()
    collecting.settle(*devices)
    assert newest(collecting).plan == replace(COLLECTING, statistics=False)
    assert (collecting.head()[4:] == farm_head[4:]).all(), "no training moves the statistics"
    assert (collecting.head()[:4] != farm_head[:4]).any()


def test_weights_are_the_buckets_of_the_sample_counts(collecting):
    devices = collecting.devices(3)
    for seed, (device, bucket) in enumerate(zip(devices, (5, 6, 9), strict=True)):
        device.update(body=statistics_body(seed), bucket=bucket)
    collecting.settle(*devices)
    means = [samples(seed).mean(axis=0) for seed in range(3)]
    expected = np.average(means, axis=0, weights=[2**5, 2**6, 2**9])
    assert np.allclose(collecting.head()[4:7], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"body": normalized_body(1)}, Reason.SHAPE),
        ({"body": statistics_body(1)[:-1]}, Reason.SHAPE),
        ({"body": statistics_body(1), "epochs": 1}, Reason.SAMPLES),
    ],
)
def test_what_is_no_statistics_is_refused(collecting, fields, reason):
    (device,) = collecting.devices(1)
    envelope = device.update(**fields)
    collecting.settle(device)
    assert device.receipt_for(envelope).reason is reason


def test_statistics_that_come_after_the_others_are_late_and_not_refused(tmp_path):
    """A refusal would reset a residual; the plan allows staleness, but not of these."""
    farm = Farm(tmp_path / "gateway", publish=False)
    releases.publish(farm.desk, normalized(replace(COLLECTING, max_staleness=3)))
    devices = farm.devices(4)
    base = devices[3].base()
    collect(farm, devices[:3])
    late = devices[3].update(body=statistics_body(3), base=base)
    farm.settle(*devices)
    receipt = devices[3].receipt_for(late)
    assert (receipt.status, receipt.reason) == (ReceiptStatus.NOT_COUNTED, Reason.LATE)
    assert devices[3].manifest.head_version == HeadVersion(1, 2)


class Killed(BaseException):
    """The power is gone."""


class Steps:
    """Counts statements to the database and messages to the broker; one of them never comes to pass."""

    def __init__(self, monkeypatch) -> None:
        self.count, self.kill_at = 0, -1
        monkeypatch.setattr(Database, "execute", self._counted(Database.execute))
        monkeypatch.setattr(MemoryTransport, "publish", self._counted(MemoryTransport.publish))

    def _counted(self, original):
        def call(*args, **kwargs):
            self.count += 1
            if self.count == self.kill_at:
                raise Killed
            return original(*args, **kwargs)

        return call


def play(folder, steps, kill_at) -> tuple[bytes, bytes]:
    """Collect and close, with one kill; devices offer until the head is there.  Returns manifest and head."""
    farm = Farm(folder, publish=False)
    devices = farm.devices(3)
    envelopes = [device.pack(body=statistics_body(seed)) for seed, device in enumerate(devices)]
    steps.count, steps.kill_at = 0, kill_at
    while True:
        try:
            if farm.store.current() > HeadVersion(1, 1):
                break
            for device, envelope in zip(devices, envelopes, strict=True):
                device.send(envelope)
            farm.run(1.0)
        except Killed:
            farm.restart()
    steps.kill_at = -1
    result = farm.store.releases(1)[0].signed, farm.head().tobytes()
    farm.store.close()
    return result


def test_rule_4_4_a_kill_at_any_moment_of_the_collection_makes_identical_bytes(
    collecting, monkeypatch, thorough
):
    collecting.store.close()
    steps = Steps(monkeypatch)

    def outcome(kill_at: int) -> tuple[bytes, bytes]:
        folder = collecting.folder.with_name(f"killed-{kill_at}")
        shutil.copytree(collecting.folder, folder)
        return play(folder, steps, kill_at)

    expected = outcome(-1)
    moments = range(1, steps.count, 1 if thorough else 7)
    print(f"{len(moments)} of {steps.count} moments")
    assert steps.count > 30
    assert all(outcome(moment) == expected for moment in moments)


# --- generations -------------------------------------------------------------------------------------
def test_rollback_to_a_version_that_collected_collects_once_more_and_no_more(collecting):
    devices = collecting.devices(3)
    collect(collecting, devices)
    first = collecting.head().tobytes()
    assert releases.rollback(collecting.desk, 1) == HeadVersion(2, 3)
    assert newest(collecting).plan.statistics
    collecting.settle(*devices)
    collect(collecting, devices)
    assert newest(collecting).head_version == HeadVersion(2, 4)
    assert not newest(collecting).plan.statistics
    assert collecting.head().tobytes() == first
    for seed, device in enumerate(devices):
        device.update(body=normalized_body(seed))
    collecting.settle(*devices)
    assert (newest(collecting).head_version, newest(collecting).plan.statistics) == (HeadVersion(2, 5), False)


def test_rollback_to_a_later_version_keeps_its_statistics_and_collects_nothing(collecting):
    devices = collecting.devices(3)
    collect(collecting, devices)
    with_statistics = collecting.head()
    releases.publish(collecting.desk, content())
    assert releases.rollback(collecting.desk, 2) == HeadVersion(3, 4)
    assert not newest(collecting).plan.statistics
    assert (collecting.head() == with_statistics).all()


def test_recover_while_statistics_are_collected_collects_them_anew(collecting):
    devices = collecting.devices(3)
    devices[0].update(body=statistics_body(0))
    collecting.settle(*devices)
    releases.recover(collecting.desk, force=True)
    collecting.settle(*devices)
    assert newest(collecting).plan.statistics
    collect(collecting, devices)
    assert (newest(collecting).head_version, newest(collecting).plan.statistics) == (HeadVersion(2, 3), False)


def test_a_head_with_statistics_can_be_published_to_collect_newer_ones(collecting):
    devices = collecting.devices(3)
    collect(collecting, devices)
    found = collecting.head()
    older = found.copy()
    older[4:] *= np.float32(3)
    releases.publish(collecting.desk, replace(normalized(), head=older))
    collecting.settle(*devices)
    collect(collecting, devices)
    assert (collecting.head() == found).all(), "they replace the older ones"


def test_a_head_without_statistics_is_not_published_to_collect_them(collecting):
    with pytest.raises(ModelError, match="--normalize"):
        releases.publish(collecting.desk, content(COLLECTING))
