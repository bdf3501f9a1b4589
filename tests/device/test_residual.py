"""The residual belongs to one model, generation, set of samples and shape (PROTOCOL 5.4)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fedclient.device.residual import Residual, ResidualKey
from fedclient.values import BlobRef, HeadVersion, TensorSpec
from tests.wire.golden import MANIFEST

KEY = ResidualKey.of(MANIFEST, 5)
DATA = bytes(range(36))


@pytest.fixture
def residual(database) -> Residual:
    return Residual(database)


def test_rule_5_4_it_comes_back_bit_by_bit(residual) -> None:
    assert residual.load(KEY) is None
    residual.save(KEY, b"earlier")
    residual.save(KEY, DATA)
    assert residual.load(KEY) == DATA


OTHERS = [
    ResidualKey.of(replace(MANIFEST, model=BlobRef(hash=b"n" * 32, size=5)), 5),
    ResidualKey.of(replace(MANIFEST, head_version=HeadVersion(4, 1)), 5),
    ResidualKey.of(MANIFEST, 6),
    ResidualKey.of(replace(MANIFEST, tensors=(TensorSpec(name="w", shape=(9,)),)), 5),
]


@pytest.mark.parametrize("other", OTHERS)
def test_rule_5_4_another_head_or_purged_samples_reset_it_and_say_so(residual, caplog, other) -> None:
    residual.save(KEY, DATA)
    assert residual.load(other) is None
    assert "residual reset" in caplog.text


def test_rule_5_4_the_next_version_of_the_same_generation_goes_on_with_it(residual) -> None:
    residual.save(KEY, DATA)
    following = replace(MANIFEST, head_version=HeadVersion(3, 43), head=BlobRef(hash=b"i" * 32, size=36))
    assert residual.load(ResidualKey.of(following, 5)) == DATA


def test_a_damaged_one_counts_as_none(residual, database, caplog) -> None:
    residual.save(KEY, DATA)
    database.execute("UPDATE residual SET data = CAST('x' AS BLOB)")
    assert residual.load(KEY) is None
    assert "damaged" in caplog.text


def test_rule_5_3_a_reset_forgets_it(residual) -> None:
    residual.save(KEY, DATA)
    residual.reset()
    residual.reset()
    assert residual.load(KEY) is None
