from __future__ import annotations

from fedclient.gateway import admission
from fedclient.gateway.admission import Admission


def take(buckets: Admission, device: str, now_s: float, *, verified: bool) -> int:
    count = 0
    while buckets.admit(device, now_s, verified=verified):
        count += 1
    return count


def test_rule_3_each_device_has_its_own_bucket():
    buckets = Admission(per_device_per_minute=6, per_s=1000, now_s=0)
    assert take(buckets, "a", 0, verified=True) == 6
    assert take(buckets, "b", 0, verified=True) == 6
    assert take(buckets, "a", 9.9, verified=True) == 0
    assert take(buckets, "a", 30, verified=True) == 3


def test_rule_3_all_devices_share_one_bucket():
    buckets = Admission(per_device_per_minute=60, per_s=10, now_s=0)
    assert sum(take(buckets, name, 0, verified=False) for name in "abcdef") == 50
    assert sum(take(buckets, name, 1, verified=False) for name in "abcdef") == 10


def test_garbage_in_a_devices_name_does_not_keep_its_updates_out():
    buckets = Admission(per_device_per_minute=60, per_s=10, now_s=0)
    for name in "abcdef":
        take(buckets, name, 0, verified=False)
    assert buckets.admit("a", 0, verified=True)


def test_a_clock_that_goes_back_gives_nothing():
    buckets = Admission(per_device_per_minute=6, per_s=1000, now_s=100)
    take(buckets, "a", 100, verified=True)
    assert not buckets.admit("a", 50, verified=True)


def test_full_buckets_are_forgotten(monkeypatch):
    monkeypatch.setattr(admission, "_SWEEP_AT", 10)
    buckets = Admission(per_device_per_minute=60, per_s=1000, now_s=0)
    for number in range(10):
        buckets.admit(str(number), 0, verified=True)
    take(buckets, "busy", 5, verified=True)
    assert len(buckets._each) == 1
    assert not buckets.admit("busy", 5, verified=True)
