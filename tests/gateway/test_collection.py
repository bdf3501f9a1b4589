from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fedclient import codec
from fedclient.errors import StorageFull
from fedclient.gateway import collection, releases
from fedclient.gateway.collection import Collection
from fedclient.gateway.desk import manifest_of
from fedclient.gateway.roster import Standing
from fedclient.values import Codec, HeadVersion, ReceiptStatus, TensorSpec, parameters
from tests.gateway.harness import PLAN, SETTINGS, START, TENSORS, Farm, P, body, content

WIDE = (TensorSpec(name="bias", shape=(10,)), TensorSpec(name="kernel", shape=(300, 10)))
FEW = replace(PLAN, codec=Codec(density=0.02))


def wide() -> releases.Content:
    head = np.random.default_rng(1).normal(size=parameters(WIDE)).astype(np.float32)
    return replace(content(FEW), head=head, tensors=WIDE)


def wide_body(seed: int, scale: float = 1.0) -> bytes:
    vector = scale * np.random.default_rng(seed).laplace(size=parameters(WIDE)) / 100
    return codec.encode(vector.astype(np.float32), WIDE, FEW.codec).body


def expected_head(farm, rows):
    """Independent arithmetic: the weighted mean of what the bodies say, added to the first head."""
    weights = [weight for _, weight in rows]
    dense = []
    for seed, _ in rows:
        total = np.zeros(P)
        codec.decode(body(seed), TENSORS, PLAN.codec).add_to(total, 1.0)
        dense.append(total)
    return START + np.average(dense, axis=0, weights=weights)


def test_the_next_head_is_the_weighted_mean(farm):
    devices = farm.devices(3)
    for device, bucket in zip(devices, (5, 7, 13), strict=True):
        device.update(bucket=bucket, body=body(bucket))
    farm.settle(*devices)
    expected = expected_head(farm, [(5, 2**5), (7, 2**7), (13, 2**10)])  # max_weight_bucket is 10
    assert np.allclose(farm.wanted(), expected, rtol=0, atol=1e-12)


def test_stale_updates_weigh_less(tmp_path):
    farm = Farm(tmp_path / "gateway", publish=False)
    releases.publish(farm.desk, content(replace(PLAN, max_staleness=2)))
    devices = farm.devices(4)
    old = devices[3].base()
    for device in devices[:3]:
        device.update()
    farm.settle(*devices)
    late = devices[3].update(base=old)
    farm.settle(*devices)
    assert devices[3].receipt_for(late).status is ReceiptStatus.COUNTED
    (row,) = farm.store.buffered()
    assert row.weight == pytest.approx(2**5 / np.sqrt(2))


def test_a_device_that_did_fewer_epochs_counts_as_much_as_another(tmp_path):
    farm = Farm(tmp_path / "gateway", publish=False)
    releases.publish(farm.desk, content(replace(PLAN, epochs=5, norm_bound=50.0)))
    devices = farm.devices(3)
    for seed, (device, epochs) in enumerate(zip(devices, (None, 1, 2), strict=True)):
        device.update(body=body(seed), epochs=epochs)
    farm.settle(*devices)
    made = enumerate((5, 1, 2))
    each = [(expected_head(farm, [(seed, 1)]) - START) / epochs for seed, epochs in made]
    expected = START + 8 / 3 * np.mean(each, axis=0)
    assert np.allclose(farm.wanted(), expected, rtol=0, atol=1e-12)
    assert [made.epochs for _, made in farm.store.rounds()] == [8 / 3]
    for device in devices:
        device.update(epochs=5 if device is devices[0] else None)
    farm.settle(*devices)
    assert [made.epochs for _, made in farm.store.rounds()] == [8 / 3, None], "the last one did the plan's"


def test_rule_4_4_a_rebuilt_collection_makes_the_bit_identical_head(farm):
    releases.publish(farm.desk, content(replace(PLAN, epochs=7)))
    devices = farm.devices(3)
    for device, epochs in zip(devices[:2], (3, 7), strict=True):
        device.update(bucket=7, epochs=epochs)
    farm.settle(*devices)
    for _ in range(3):
        farm.restart()
        fresh = Collection(farm.desk, farm.now_s)
        assert fresh.state.updates == 2
        assert fresh.bytes_up == farm.gateway._collection.bytes_up
        assert (fresh._sum._total == farm.gateway._collection._sum._total).all()
        assert fresh._epochs == 10
    change = farm.gateway._collection._sum.change(1.0)
    farm.restart()
    assert farm.gateway._collection._sum.change(1.0).tobytes() == change.tobytes()


def test_rule_7_revocation_is_checked_again_at_aggregation(farm):
    devices = farm.devices(4)
    for number, device in enumerate(devices[:2]):
        device.update(body=body(number))
    farm.settle(*devices)
    with farm.store.transaction():
        farm.store.roster.set_standing(devices[0].id, Standing.REVOKED)
    devices[2].update(body=body(2))
    farm.settle(*devices)
    assert farm.store.current() == HeadVersion(1, 1), "two are left: below the minimum"
    devices[3].update(body=body(3))
    farm.settle(*devices)
    assert farm.store.current() == HeadVersion(1, 2)
    assert np.allclose(farm.wanted(), expected_head(farm, [(1, 1), (2, 1), (3, 1)]), rtol=0, atol=1e-12)
    assert [row[3] for row in farm.store.ledger()] == [0, 2, 2, 2]


def test_a_revocation_between_aggregation_and_commit_is_not_missed(farm, monkeypatch):
    devices = farm.devices(3)

    def revoke_meanwhile(_head):
        with farm.store.transaction():
            farm.store.roster.set_standing(devices[1].id, Standing.REVOKED)

    monkeypatch.setattr(farm.gateway, "_measure", revoke_meanwhile)
    for device in devices:
        device.update()
    farm.settle(*devices)
    assert farm.store.current() == HeadVersion(1, 1)
    assert len(list(farm.store.buffered())) == 2


def test_a_publish_between_aggregation_and_commit_wins(farm, monkeypatch):
    devices = farm.devices(3)
    meanwhile = iter([lambda: releases.rollback(farm.desk, 1)])
    monkeypatch.setattr(farm.gateway, "_measure", lambda _head: next(meanwhile, lambda: None)() and None)
    for device in devices:
        device.update()
    farm.settle(*devices)
    assert farm.store.current() == HeadVersion(2, 2)
    assert farm.store.rounds() == []


def test_a_close_that_fails_is_done_again_with_the_same_result(farm, monkeypatch):
    devices = farm.devices(3)
    original = type(farm.store).add_release
    failures = iter([True, True])

    def add_release(store, *args):
        original(store, *args)
        if next(failures, False):
            raise StorageFull("no room: make some")

    monkeypatch.setattr(type(farm.store), "add_release", add_release)
    for number, device in enumerate(devices):
        device.update(body=body(number))
    farm.settle(*devices)
    assert farm.store.current() == HeadVersion(1, 1)
    farm.run(30)
    assert farm.store.current() == HeadVersion(1, 2)
    assert np.allclose(farm.wanted(), expected_head(farm, [(0, 1), (1, 1), (2, 1)]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("max_delta_bytes", [None, 64, 100])
def test_a_delta_is_as_long_as_the_operator_says_and_what_does_not_fit_comes_later(tmp_path, max_delta_bytes):
    farm = Farm(tmp_path / "gateway", replace(SETTINGS, max_delta_bytes=max_delta_bytes), publish=False)
    releases.publish(farm.desk, wide())
    devices = farm.devices(3)
    for seed, device in enumerate(devices):
        device.update(body=wide_body(seed))
    farm.settle(*devices)
    most = max_delta_bytes or collection.usual_budget(len(wide_body(0)), 1)
    ((version, made),) = farm.store.rounds()
    manifest = manifest_of(farm.store.releases(1)[0])
    assert version == manifest.head_version
    assert made.delta_bytes == manifest.deltas[0].size <= most
    assert made.delta_bytes >= 0.8 * (max_delta_bytes or 0)
    assert made.full_bytes == manifest.full.size
    waits = np.linalg.norm(farm.wanted() - farm.head())
    for device in devices:
        device.update(body=wide_body(0, scale=0.0))
    farm.settle(*devices)
    assert farm.store.rounds()[-1][1].delta_bytes
    waits_now = np.linalg.norm(farm.wanted() - farm.head())
    assert waits_now < waits or (max_delta_bytes is None and waits_now == waits), (
        "or it is on the finest grid"
    )


def test_the_usual_budget_is_three_bodies_and_at_least_700_bytes():
    assert [collection.usual_budget(*of) for of in ((0, 0), (2330, 10), (2340, 10), (90_000, 3))] == [
        700,
        700,
        702,
        90_000,
    ]


def test_the_held_out_samples_judge_the_head_that_devices_get(farm, monkeypatch):
    measured = []
    monkeypatch.setattr(farm.gateway, "_measure", lambda head: measured.append(head.tobytes()))
    devices = farm.devices(3)
    for device in devices:
        device.update()
    farm.settle(*devices)
    assert measured == [farm.head().tobytes()]
    assert farm.head().tobytes() != farm.wanted().astype(np.float32).tobytes()


def test_a_remainder_that_is_damaged_costs_no_round(farm, caplog):
    devices = farm.devices(3)
    for number in range(2):
        for device in devices:
            device.update(body=body(number))
        farm.settle(*devices)
        with farm.store.transaction():
            farm.store._db.execute("UPDATE remainder SET data = zeroblob(8)")
    assert farm.store.current() == HeadVersion(1, 3)
    assert "left over" in caplog.text


def test_a_rebuilt_version_keeps_its_deadline(farm):
    first = Collection(farm.desk, 100.0)
    assert Collection(farm.desk, 150.0, first).deadline_s() == 100.0 + farm.settings.deadline_s
    releases.rollback(farm.desk, 1)
    assert Collection(farm.desk, 150.0, first).deadline_s() == 150.0 + farm.settings.deadline_s


def test_before_the_first_release_there_is_nothing_to_count(tmp_path):
    farm = Farm(tmp_path / "gateway", publish=False)
    empty = Collection(farm.desk, 0.0)
    assert (empty.current, empty.deadline_s(), empty.due(1e9)) == (HeadVersion(0, 0), None, False)
    assert not empty.close(lambda _: None, 0, 1e9)


def test_the_module_has_no_clock():
    assert not {"time", "datetime"} & set(vars(collection))
