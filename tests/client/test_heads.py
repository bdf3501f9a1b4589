"""Which heads a device takes and fetches (PROTOCOL 5.5, 6, 8)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fedclient.client.heads import Came, Heads
from fedclient.client.link import Chunk, Link
from fedclient.config import LimitSettings, PrivacySettings
from fedclient.device import enrolment
from fedclient.device.blobs import Blobs
from fedclient.device.database import open_database
from fedclient.device.jobs import TrainerExit
from fedclient.device.journal import Journal
from fedclient.errors import ConfigError, StorageDamaged
from fedclient.limits import MAX_DELTAS
from fedclient.trainer.assemble import put_together
from fedclient.transport.memory import MemoryTransport
from fedclient.values import BlobRef, Codec, CodecMode, HeadVersion, Manifest
from fedclient.wire.topics import blob_name
from tests.client.harness import PLAN, V1, V2, V3, MiniGateway, large, weights


@pytest.fixture
def gateway(broker) -> MiniGateway:
    return large(broker)


@pytest.fixture
def journal(device) -> Journal:
    return Journal(open_database(device.folder))


def heads_of(device, journal: Journal, **changed: object) -> Heads:
    return Heads(device.folder, replace(device.config, **changed), journal)


@pytest.fixture
def heads(device, journal) -> Heads:
    return heads_of(device, journal)


@pytest.fixture
def link(device, gateway, broker) -> Link:
    device.invite(gateway)
    stored = enrolment.load(device.folder.enrolment)
    assert stored is not None
    made = Link(stored.invitation, device.key, MemoryTransport(broker, device.id))
    made.transport.connect(0.0)
    made.service((), 0.0)
    return made


def fetch(heads: Heads, link: Link, version: HeadVersion, now_s: float = 0.0) -> bool:
    """Let the broker's chunks come, and what they lead to happen."""
    for _ in range(50):
        for incoming in link.service((), now_s):
            if isinstance(incoming, Chunk):
                heads.take(incoming.topic, incoming.payload)
        if heads.begin(version, link, now_s):
            return True
    return False


def take(
    heads: Heads,
    link: Link,
    journal: Journal,
    gateway: MiniGateway,
    version: HeadVersion,
    *,
    made: bool = True,
) -> Manifest:
    """Take a head; `made`: and have it put together, as a child does."""
    manifest = gateway.publish(version, weights=weights(version.version))
    journal.save_manifest(manifest, keep=())
    assert heads.begin(version, link, 0.0) or fetch(heads, link, version)
    if made:
        put_together(heads._blobs, manifest, journal.manifest)
    heads.check(version, keep=())
    return manifest


def here(heads: Heads, *refs: BlobRef) -> bool:
    """Whether these blobs are all that is kept."""
    names = {path.name for path in heads._folder.blobs.iterdir()}
    return names == {blob_name(ref.hash) for ref in refs}


# --- PROTOCOL 5.5 ------------------------------------------------------------------------------------
WIDE = replace(PLAN, max_staleness=2)
CASES = [
    (WIDE, HeadVersion(1, 11), {}, True),
    (WIDE, HeadVersion(1, 12), {}, True),  # exactly the plan's bound
    (WIDE, HeadVersion(1, 13), {}, False),
    (PLAN, HeadVersion(1, 11), {}, False),  # synchronous: no staleness at all
    (WIDE, HeadVersion(2, 11), {}, False),  # a new generation
    (WIDE, HeadVersion(1, 11), {"model": BlobRef(hash=b"n" * 32, size=9)}, False),
    (WIDE, HeadVersion(1, 11), {"codec": Codec(density=0.4)}, False),
    (WIDE, HeadVersion(1, 11), {"codec": Codec(mode=CodecMode.TOPK_SIGN, density=0.3)}, False),
    (replace(WIDE, statistics=True), HeadVersion(1, 11), {"statistics": False}, False),
    (WIDE, HeadVersion(1, 11), {"learning_rate": 0.01}, True),
    (WIDE, HeadVersion(1, 11), {"max_staleness": 0}, False),  # the gateway judges by the newer plan
]


@pytest.mark.parametrize(("plan", "version", "changed", "may_finish"), CASES)
def test_rule_5_5_whether_a_job_may_finish_under_a_new_manifest(
    heads, journal, gateway, plan, version, changed, may_finish
) -> None:
    base = gateway.publish(HeadVersion(1, 10), plan, blobs=False)
    journal.save_manifest(base, keep=())
    new = replace(base, head_version=version)
    if "model" in changed:
        new = replace(new, **changed)
    elif changed:
        new = replace(new, plan=replace(plan, **changed), plan_hash=b"another")
    assert heads.job_may_finish(base.head_version, new) == may_finish


def test_rule_5_5_no_job_or_a_base_that_is_gone_may_not_finish(heads, gateway) -> None:
    manifest = gateway.publish(V2, blobs=False)
    assert not heads.job_may_finish(None, manifest)
    assert not heads.job_may_finish(V1, manifest)


# --- PROTOCOL 6 and 8: the owner's bounds -------------------------------------------------------------
def test_rule_6_an_oversized_model_is_refused(device, journal, gateway) -> None:
    manifest = gateway.publish(V1, blobs=False)
    limited = heads_of(device, journal, limits=LimitSettings(max_model_mib=1))
    limited.admit(manifest)
    with pytest.raises(ConfigError, match="max_model_mib"):
        limited.admit(replace(manifest, model=BlobRef(hash=b"m" * 32, size=1 << 20)))


def test_rule_6_what_travels_and_what_it_becomes_count_both(device, journal, gateway) -> None:
    manifest = gateway.publish(V1, blobs=False)
    mib = 1 << 20
    sizes = {"model": mib, "head": mib // 2, "full": mib // 2}
    refs = {name: BlobRef(hash=name.encode().ljust(32), size=size) for name, size in sizes.items()}
    heads_of(device, journal, limits=LimitSettings(max_model_mib=2)).admit(replace(manifest, **refs))
    refs["full"] = replace(refs["full"], size=mib // 2 + 1)
    with pytest.raises(ConfigError, match="max_model_mib"):
        heads_of(device, journal, limits=LimitSettings(max_model_mib=2)).admit(replace(manifest, **refs))


def test_a_head_that_is_here_takes_no_room(heads, link, journal, gateway, monkeypatch) -> None:
    from fedclient.client import heads as module  # noqa: PLC0415

    manifest = take(heads, link, journal, gateway, V1)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 0}))
    heads.admit(replace(manifest, head_version=V2))


def test_rule_6_a_model_the_disk_has_no_room_for_is_refused(heads, gateway, monkeypatch) -> None:
    from fedclient.client import heads as module  # noqa: PLC0415

    full = type("Usage", (), {"free": 100})
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: full)
    with pytest.raises(ConfigError, match="disk"):
        heads.admit(gateway.publish(V1, blobs=False))


def test_rule_8_only_allowed_models_are_taken(device, journal, gateway) -> None:
    manifest = gateway.publish(V1, blobs=False)
    for allowed, taken in ((manifest.model.hash.hex(), True), ("00" * 32, False)):
        privacy = PrivacySettings(allowed_models=(allowed,))
        heads = heads_of(device, journal, privacy=privacy)
        if taken:
            heads.admit(manifest)
        else:
            with pytest.raises(ConfigError, match="allowed_models"):
                heads.admit(manifest)


# --- fetching ----------------------------------------------------------------------------
def test_a_head_is_fetched(heads, link, journal, gateway, device) -> None:
    manifest = take(heads, link, journal, gateway, V1)
    assert Blobs(device.folder.blobs).read(manifest.model) == gateway.model
    assert heads.begin(V1, link, 0.0)  # nothing is missing
    heads.check(V1, keep=())


def test_rule_6_a_second_begin_keeps_the_subscriptions(heads, link, journal, gateway) -> None:
    journal.save_manifest(gateway.publish(V1, blobs=False), keep=())
    assert not heads.begin(V1, link, 0.0)
    before = link.transport.sent_bytes
    assert not heads.begin(V1, link, 0.0)
    assert link.transport.sent_bytes == before


def test_blobs_of_heads_that_are_needed_stay(heads, link, journal, gateway) -> None:
    first = take(heads, link, journal, gateway, V1)
    assert here(heads, first.model, first.head)
    second = take(heads, link, journal, gateway, V2)
    assert here(heads, second.model, second.head)
    assert first.model == second.model


def test_of_heads_that_nobody_has_put_together_all_that_leads_to_the_newest_stays(
    heads, link, journal, gateway
) -> None:
    base = take(heads, link, journal, gateway, V1)
    for number in range(2, 2 + MAX_DELTAS):  # all of them on deltas from the first one
        last = take(heads, link, journal, gateway, HeadVersion(1, number), made=False)
        assert here(heads, last.model, base.head, *last.deltas[: number - 1])
    beyond = take(heads, link, journal, gateway, HeadVersion(1, 2 + MAX_DELTAS), made=False)
    assert here(heads, beyond.model, beyond.full, *beyond.deltas[1:])
    put_together(heads._blobs, beyond, journal.manifest)
    assert heads._blobs.read(beyond.head) == weights(2 + MAX_DELTAS)
    heads.check(beyond.head_version, keep=())
    assert here(heads, beyond.model, beyond.head)


def test_a_head_that_is_not_put_together_is_here_while_all_that_leads_to_it_is(
    heads, link, journal, gateway
) -> None:
    base = take(heads, link, journal, gateway, V1)
    manifest = take(heads, link, journal, gateway, V2, made=False)
    heads.check(V2, keep=())
    heads._blobs.remove((base.head,))
    with pytest.raises(StorageDamaged, match="fetched again"):
        heads.check(V2, keep=())
    assert fetch(heads, link, V2)
    assert heads._blobs.has(manifest.full)
    heads.check(V2, keep=())


def test_a_child_that_fails_on_a_head_says_nothing_of_the_next_one_that_is_fetched(
    heads, link, journal, gateway
) -> None:
    take(heads, link, journal, gateway, V1)
    take(heads, link, journal, gateway, V2, made=False)
    journal.save_manifest(gateway.publish(V3, weights=weights(3), blobs=False), keep=())
    assert not heads.begin(V3, link, 0.0)
    assert not heads.is_not_made(V2, TrainerExit.ASTRAY, 0.0)
    assert heads.trouble == ""
    before = link.transport.sent_bytes
    assert not heads.begin(V3, link, 0.0)
    assert link.transport.sent_bytes == before, "it is subscribed to already"
    gateway.publish_blobs(V3)
    assert fetch(heads, link, V3)
    assert heads.is_not_made(V3, TrainerExit.ASTRAY, 0.0)


def test_what_it_took_is_told_once(heads, link, journal, gateway) -> None:
    first = take(heads, link, journal, gateway, V1)
    assert heads.came == Came(bytes=first.full.size, saved=0)
    second = take(heads, link, journal, gateway, V2, made=False)
    delta = second.deltas[0].size
    assert heads.came == Came(bytes=delta, saved=second.full.size - delta)
    assert heads.begin(V2, link, 0.0)
    assert heads.came is None, "nothing came this time"
    third = take(heads, link, journal, gateway, V3)
    assert heads.came.bytes == third.deltas[0].size, "the delta before was told of"


def test_of_a_head_that_is_on_its_way_its_route_stays(heads, link, journal, gateway, device) -> None:
    take(heads, link, journal, gateway, V1)
    wanted = gateway.publish(V2)
    journal.save_manifest(wanted, keep=())
    for ref, data in zip((wanted.full, *wanted.deltas), gateway.encoded[V2], strict=True):
        Blobs(device.folder.blobs).put(ref, data)
    heads.check(V1, keep=(V2,))
    assert all(Blobs(device.folder.blobs).has(ref) for ref in (wanted.full, *wanted.deltas))
    heads.check(V1, keep=())
    assert not any(Blobs(device.folder.blobs).has(ref) for ref in (wanted.full, *wanted.deltas))


def test_a_job_keeps_the_blobs_of_its_base(heads, link, journal, gateway, device) -> None:
    first = take(heads, link, journal, gateway, V1)
    manifest = gateway.publish(V2)
    journal.save_manifest(manifest, keep=())
    assert heads.begin(V2, link, 0.0) or fetch(heads, link, V2)
    put_together(heads._blobs, manifest, journal.manifest)
    heads.check(V2, keep=(None, V1))
    assert (device.folder.blobs / first.head.hash[:16].hex()).exists()


@pytest.mark.parametrize("damage", ["manifest", "gone"])
def test_damage_is_reported_and_what_is_missing_fetched_again(
    heads, link, journal, gateway, device, damage
) -> None:
    manifest = gateway.publish(V1)
    journal.save_manifest(manifest, keep=())
    heads.begin(V1, link, 0.0)
    assert fetch(heads, link, V1)
    blob = device.folder.blobs / manifest.full.hash[:16].hex()
    if damage == "manifest":
        journal._database.execute("DELETE FROM manifest")
    else:
        blob.unlink()
    with pytest.raises(StorageDamaged, match="fetched again"):
        heads.check(V1, keep=())
    assert not heads.begin(V1, link, 0.0)
    if damage == "manifest":
        assert manifest in link.service((), 0.0)  # asked for, and the broker has it
    else:
        assert fetch(heads, link, V1)
        heads.check(V1, keep=())


def test_a_dense_plan_that_cannot_fit_is_refused(device, journal, gateway) -> None:
    dense = replace(PLAN, codec=Codec(mode=CodecMode.DENSE_INT8))
    manifest = gateway.publish(V1, plan=dense)
    heads_of(device, journal).admit(manifest)
    with pytest.raises(ConfigError, match="dense updates"):
        heads_of(device, journal, limits=LimitSettings(max_update_bytes=210)).admit(manifest)
