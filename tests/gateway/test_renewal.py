"""A gateway's state folder of an earlier fedclient, after the upgrade."""

from __future__ import annotations

import hashlib

import pytest

from fedclient import codec
from fedclient.crypto import cose
from fedclient.errors import WireError
from fedclient.gateway import releases
from fedclient.gateway.desk import is_read, manifest_of
from fedclient.gateway.renewal import renew
from fedclient.gateway.store import Release
from fedclient.values import Base, HeadVersion, MessageType
from fedclient.wire import cbor, messages
from fedclient.wire.blobs import split
from fedclient.wire.envelope import down_aad
from tests.gateway.harness import FEDERATION, PLAN, START, TENSORS, Farm, content

V1, V2 = HeadVersion(1, 1), HeadVersion(2, 2)


def earlier(farm: Farm) -> Release:
    """Put a release into the database as it was made before heads were encoded."""
    model, head, plan = split(content().model), split(content().head.tobytes()), messages.encode_plan(PLAN)
    shapes = [[tensor.name, list(tensor.shape)] for tensor in TENSORS]
    refs = {3: [model.ref.hash, model.ref.size], 4: [head.ref.hash, head.ref.size]}
    payload = cbor.encode({1: 1, 2: 1, **refs, 5: shapes, 6: ["a", "b"], 7: plan})
    aad = down_aad(MessageType.MANIFEST, FEDERATION, None)
    release = Release(
        head_version=V1,
        model_hash=model.ref.hash,
        base=Base(head_version=V1, head_hash=head.ref.hash, plan_hash=hashlib.sha256(plan).digest()),
        signed=cose.sign(farm.desk.signing, payload, aad, with_kid=True),
    )
    with farm.store.transaction():
        for blob in (model, head):
            farm.store.add_blob(blob.ref.hash, b"".join(blob.chunks))
        farm.store.add_release(release)
    return release


def test_a_head_of_before_is_published_again_and_trained_on(tmp_path):
    farm = Farm(tmp_path / "gateway", publish=False)
    release = earlier(farm)
    assert not is_read(release)
    farm.restart()
    assert farm.store.current() == V2
    newest = farm.store.releases(1)[0]
    assert is_read(newest)
    assert farm.head().tobytes() == START.tobytes()
    assert manifest_of(newest).plan == PLAN
    devices = farm.devices(3)
    assert all(device.manifest.head_version == V2 for device in devices)
    for device in devices:
        device.update()
    farm.settle(*devices)
    assert farm.store.current() == HeadVersion(2, 3)
    farm.restart()
    assert farm.store.current() == HeadVersion(2, 3), "once"


def test_a_rollback_to_a_head_of_before_encodes_it(tmp_path):
    farm = Farm(tmp_path / "gateway", publish=False)
    earlier(farm)
    farm.restart()
    assert releases.rollback(farm.desk, 1) == HeadVersion(3, 3)
    manifest = manifest_of(farm.store.releases(1)[0])
    assert codec.head_from(farm.store.blob(manifest.full.hash), TENSORS).tobytes() == START.tobytes()
    assert farm.head().tobytes() == START.tobytes()


def test_nothing_is_renewed_without_need_or_before_recover(tmp_path):
    farm = Farm(tmp_path / "gateway", publish=False)
    assert renew(farm.desk) is None
    earlier(farm)
    with farm.store.transaction():
        farm.store.note_seen(HeadVersion(4, 90))
    assert renew(farm.desk) is None
    assert farm.store.current() == V1


def test_what_is_no_manifest_of_any_fedclient_stays_an_error(tmp_path):
    farm = Farm(tmp_path / "gateway", publish=False)
    release = earlier(farm)
    assert manifest_of(release).full == manifest_of(release).head
    fields = cbor.decode(cose.peek(release.signed).payload, max_bytes=10_000)
    for wrong in (fields | {4: [b"h" * 32]}, fields | {4: 5}, {1: 1}):
        with pytest.raises(WireError):
            messages.decode_earlier_manifest(cbor.encode(wrong))
