"""What a trainer does for its own device alone: the personal layer of a job, and a copy tuned for the app."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fedclient import codec
from fedclient.device.jobs import TrainerExit
from fedclient.device.personal import PersonalKey, PersonalLayer, extract
from fedclient.model.head import HeadOptions, write_head
from fedclient.values import HeadVersion, Manifest, parameters
from tests.trainer.setup import CLASSES, FEATURES, PLAN, Bench, bench, copy, result, run, samples, settle

V1, V2 = HeadVersion(1, 1), HeadVersion(1, 2)
MODEL = write_head(FEATURES, CLASSES, 4, options=HeadOptions(personal=True))
STEPS = PLAN.epochs * 4  # 60 samples in batches of 16
SIZE = 4 * (CLASSES + 4 * CLASSES)


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Bench]:
    made = bench(tmp_path / "device", model=MODEL)
    yield made
    made.close()


def trained(device: Bench, version: HeadVersion, head: bytes | None = None) -> Manifest:
    """Carry one job out, and have it counted."""
    manifest = device.publish(version, head=head)
    device.jobs.new(version, threads=1)
    device.database.execute("UPDATE job SET seed = 7")
    assert run(device) == TrainerExit.DONE
    return manifest


def layer(device: Bench, manifest: Manifest) -> bytes | None:
    return PersonalLayer(device.database).load(PersonalKey.of(manifest, device.store.epoch))


def test_a_job_trains_it_and_keeps_it_with_the_update(device) -> None:
    manifest = trained(device, V1)
    kept = layer(device, manifest)
    assert kept is not None
    assert len(kept) == SIZE
    assert np.frombuffer(kept, "<f4").any()
    row = device.outbox.unsettled()
    assert row is not None
    sent = np.zeros(parameters(manifest.tensors))
    codec.decode(row.body, manifest.tensors, PLAN.codec).add_to(sent, 1.0)
    residual = device.stored_residual(manifest)
    for vector in (sent, residual):
        assert vector.any()
        assert not any(extract(vector.astype("<f4").tobytes(), manifest.tensors))


def test_the_next_job_begins_with_it_over_the_next_head(device, tmp_path) -> None:
    """Bit by bit: as if the gateway's next head had had this layer."""
    first = trained(device, V1)
    kept = layer(device, first)
    settle(device)
    other = copy(device, tmp_path / "other")
    head = np.random.default_rng(1).normal(size=parameters(first.tensors)).astype("<f4")
    trained(device, V2, head.tobytes())
    PersonalLayer(other.database).reset()
    assert kept is not None
    head[-SIZE // 4 :] = np.frombuffer(kept, "<f4")  # personal/* are last by their names
    assert [tensor.is_personal for tensor in first.tensors][-2:] == [True, True]
    trained(other, V2, head.tobytes())
    # sealed with fresh keys, so the envelopes differ; all that was computed does not
    assert result(device) == result(other)
    assert layer(device, first) != kept
    other.close()


@pytest.mark.parametrize("begun", [False, True], ids=["first job", "with a layer"])
def test_rule_5_1_stopped_at_every_batch_the_result_is_the_same(device, tmp_path, begun) -> None:
    if begun:
        trained(device, V1)
        settle(device)
    device.publish(V2)
    device.jobs.new(V2, threads=1)
    whole = copy(device, tmp_path / "whole")
    assert run(whole) == TrainerExit.DONE
    for after in range(1, STEPS + 1, 3):
        other = copy(device, tmp_path / f"stopped-{after}")
        assert run(other, after) == TrainerExit.STOPPED
        assert run(other) == TrainerExit.DONE
        assert result(other) == result(whole), f"stopped after batch {after}"
        other.close()
    whole.close()


def test_rule_5_2_a_job_that_is_lost_at_the_end_leaves_it_as_it_was(device, monkeypatch) -> None:
    manifest = trained(device, V1)
    kept, tables = layer(device, manifest), device.tables()
    settle(device)
    device.publish(V2)
    device.jobs.new(V2, threads=1)

    def cut_off(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fedclient.device.jobs.Jobs.drop", cut_off)  # the last of the transaction
    with pytest.raises(KeyboardInterrupt):
        run(device)
    assert layer(device, manifest) == kept
    assert device.tables()["residual"] == tables["residual"]


@pytest.mark.parametrize("change", ["damage", "purge"])
def test_damaged_or_of_purged_samples_it_begins_anew(device, tmp_path, caplog, change) -> None:
    trained(device, V1)
    settle(device)
    fresh = copy(device, tmp_path / "fresh")
    if change == "damage":
        device.database.execute("UPDATE personal SET data = zeroblob(?)", (SIZE,))
        PersonalLayer(fresh.database).reset()
    else:
        for one in (device, fresh):
            one.store.purge()
            one.store.append_many(*samples(60))
        PersonalLayer(fresh.database).reset()
    for one in (device, fresh):
        trained(one, V2)
    assert result(device) == result(fresh)
    assert "personal layer begun anew" in caplog.text
    fresh.close()


def test_what_is_said_of_the_base_head_says_nothing_of_the_layer(device) -> None:
    """The accuracy that an owner may share is the published head's."""
    device.store.append_many(samples(60, seed=2)[0], [1] * 60)
    manifest = trained(device, V1)
    settle(device)
    overwhelming = np.array([1e3, 0, 0] + [0] * 12, "<f4").tobytes()  # its bias: class 0, whatever x says
    PersonalLayer(device.database).save(PersonalKey.of(manifest, device.store.epoch), overwhelming)
    head = np.zeros(parameters(manifest.tensors), "<f4")
    head[4 + 4 * FEATURES + 1] = 1  # output/bias: class 1, as 20 of 60 samples are and 60 of 60
    trained(device, V2, head.tobytes())
    assert device.journal.rounds()[0].report["base_accuracy"] == pytest.approx(80 / 120)
