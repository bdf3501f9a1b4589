from __future__ import annotations

import pytest

from fedclient.crypto import keys
from fedclient.downlink import GatewayDownlink
from fedclient.errors import CryptoError, WireError
from fedclient.gateway.desk import manifest_of
from fedclient.values import HeadVersion
from tests.gateway.harness import FEDERATION


def test_a_release_opens_with_our_key_and_no_other(farm):
    release = farm.store.releases(1)[0]
    manifest = farm.desk.open_manifest(release.signed)
    assert manifest == manifest_of(release)
    stranger = GatewayDownlink(federation=FEDERATION, key=keys.SigningKey.generate())
    with pytest.raises(CryptoError):
        farm.desk.open_manifest(stranger.manifest(manifest))
    with pytest.raises((CryptoError, WireError)):
        farm.desk.open_manifest(release.signed[:-1])


def test_the_same_manifest_is_signed_to_the_same_bytes(farm):
    release = farm.store.releases(1)[0]
    assert farm.desk.release(manifest_of(release)) == release


def test_alarms_are_kept_and_what_is_above_us_too(farm):
    with farm.store.transaction():
        farm.desk.alarm("x", "odd")
        farm.desk.above(HeadVersion(5, 6), "somebody said so")
    assert farm.store.alarms() == [(int(farm.unix_s), "x", "odd")]
    assert farm.store.seen() == HeadVersion(5, 6)
