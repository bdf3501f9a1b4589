from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from fedclient import codec
from fedclient.errors import ModelError, UsageError, WireError
from fedclient.gateway import releases
from fedclient.gateway.desk import manifest_of
from fedclient.limits import UPDATE_OVERHEAD_BYTES
from fedclient.values import Codec, CodecMode, HeadVersion, Schedule, TensorSpec
from fedclient.wire import messages
from tests.gateway.harness import PLAN, START, Farm, P, content


@pytest.fixture
def empty(tmp_path):
    return Farm(tmp_path / "gateway", publish=False)


def newest(farm):
    return manifest_of(farm.store.releases(1)[0])


def test_rule_1_publish_raises_generation_and_version(empty):
    assert releases.publish(empty.desk, content()) == HeadVersion(1, 1)
    assert releases.publish(empty.desk, content(model=b"another")) == HeadVersion(2, 2)


def test_a_manifest_says_what_was_published(empty):
    releases.publish(empty.desk, content())
    manifest = newest(empty)
    assert (manifest.tensors, manifest.labels, manifest.plan) == (content().tensors, ("a", "b"), PLAN)
    assert empty.store.blob(manifest.model.hash) == b"a model"
    head = empty.head()
    assert (head == START).all(), "on a grid"
    assert np.allclose(head, content().head, atol=0.01)


def test_what_updates_are_bound_to_is_what_devices_read_in_the_manifest(empty):
    """An int in a plan file is a float in a manifest: its hash must be of what is on the wire."""
    version = releases.publish(empty.desk, content(replace(PLAN, learning_rate=1)))
    assert empty.store.base(version).plan_hash == newest(empty).plan_hash
    plan = messages.encode_plan(newest(empty).plan)
    assert hashlib.sha256(plan).digest() == newest(empty).plan_hash


def test_a_plan_that_no_device_would_follow_is_not_published(empty):
    with pytest.raises(WireError, match="epochs is 1000"):
        releases.publish(empty.desk, content(replace(PLAN, epochs=1000)))
    assert empty.store.current() == HeadVersion(0, 0)


@pytest.mark.parametrize(
    "option", [{"l2": 0.1}, {"mu": 0.1}, {"momentum": 0.5}, {"schedule": Schedule.LINEAR}]
)
def test_a_plan_that_the_model_cannot_follow_is_not_published(empty, option):
    """Every device would fail on it; where the model's inputs are known, it is refused here."""
    wanted = replace(content(), plan=replace(PLAN, **option))
    with pytest.raises(ModelError, match=next(iter(option))):
        releases.publish(empty.desk, replace(wanted, takes=frozenset()))
    assert empty.store.current() == HeadVersion(0, 0)
    able = frozenset({"learning_rate", "momentum", "l2", "mu"})
    assert releases.publish(empty.desk, replace(wanted, takes=able)) == HeadVersion(1, 1)


@pytest.mark.parametrize("key", ["max_update_bytes", "max_bytes_per_day"])
def test_a_plan_whose_bytes_cannot_hold_an_update_is_not_published(empty, key):
    """Every device would refuse the manifest: the operator hears it here, once."""
    dense = replace(PLAN, codec=Codec(mode=CodecMode.DENSE_INT8))
    wide = (TensorSpec(name="w", shape=(1000,)),)
    wanted = replace(content(), head=np.zeros(1000, np.float32), tensors=wide)
    least = 1 + 1000 + 4 + UPDATE_OVERHEAD_BYTES
    with pytest.raises(ModelError, match=rf"{key} is {least - 1}, but with mode = 'dense_int8' .* {least} "):
        releases.publish(empty.desk, replace(wanted, plan=replace(dense, **{key: least - 1})))
    assert empty.store.current() == HeadVersion(0, 0)
    assert releases.publish(empty.desk, replace(wanted, plan=replace(dense, **{key: least}))) == HeadVersion(
        1, 1
    )


def test_rule_6_rollback_is_a_higher_version_with_older_content(farm):
    old = newest(farm)
    releases.publish(farm.desk, content(replace(PLAN, epochs=9), model=b"worse"))
    assert releases.rollback(farm.desk, 1) == HeadVersion(3, 3)
    assert newest(farm) == replace(old, head_version=HeadVersion(3, 3))


def test_rule_6_rollback_keeps_the_heads_bytes_and_lists_no_delta_across_generations(farm):
    devices = farm.devices(3)
    heads = [farm.head()]
    for _ in range(3):
        for device in devices:
            device.update()
        farm.settle(*devices)
        heads.append(farm.head())
    assert newest(farm).deltas
    assert farm.wanted().tolist() != farm.head().tolist()
    releases.rollback(farm.desk, 3)
    manifest = newest(farm)
    assert (manifest.head_version, manifest.deltas) == (HeadVersion(2, 5), ())
    assert farm.head().tobytes() == heads[2].tobytes()
    full = farm.store.blob(manifest.full.hash)
    assert codec.head_from(full, manifest.tensors).tobytes() == heads[2].tobytes()
    assert farm.wanted().tolist() == farm.head().tolist(), "what waited is of the generation that ended"
    farm.settle(*devices)
    for device in devices:
        device.update()
    farm.settle(*devices)
    assert len(newest(farm).deltas) == 1
    releases.recover(farm.desk, force=True)
    assert (newest(farm).head_version, newest(farm).deltas) == (HeadVersion(3, 7), ())


def test_a_head_that_is_none_is_not_published(empty):
    wrong = replace(content(), head=np.full(P, np.nan, dtype=np.float32))
    with pytest.raises(WireError, match="normal number"):
        releases.publish(empty.desk, wrong)
    assert empty.store.current() == HeadVersion(0, 0)


def test_rollback_to_nothing(farm):
    with pytest.raises(UsageError, match="there is no version 7"):
        releases.rollback(farm.desk, 7)


def test_rule_4_6_recover_jumps_beyond_what_was_seen_and_raises_the_generation(farm):
    with farm.store.transaction():
        farm.store.note_seen(HeadVersion(4, 90))
    for refused in (lambda: releases.publish(farm.desk, content()), lambda: releases.rollback(farm.desk, 1)):
        with pytest.raises(UsageError, match="gateway recover"):
            refused()
    assert releases.recover(farm.desk) == HeadVersion(5, 91)
    assert releases.publish(farm.desk, content()) == HeadVersion(6, 92)


def test_rule_4_6_a_database_that_was_lost_whole_begins_beyond_what_was_seen(empty):
    with empty.store.transaction():
        empty.store.note_seen(HeadVersion(4, 90))
    with pytest.raises(UsageError, match="publish"):
        releases.recover(empty.desk)
    assert releases.publish(empty.desk, content()) == HeadVersion(5, 91)


def test_rule_1_a_new_generation_ends_the_old_one_with_its_buffer(farm):
    devices = farm.devices(2)
    for device in devices:
        device.update()
    farm.settle(*devices)
    releases.rollback(farm.desk, 1)
    assert {went_into for *_, went_into in farm.store.ledger()} == {0}
    farm.run()
    assert list(farm.store.buffered()) == []
