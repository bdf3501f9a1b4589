"""The personal layer: kept for one model and one set of samples, and put over any head of that shape."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedclient.device.personal import PersonalKey, PersonalLayer, extract, overlay
from fedclient.values import BlobRef, HeadVersion, TensorSpec
from tests.wire.golden import MANIFEST


def tensors(*shapes: tuple[str, tuple[int, ...]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name=name, shape=shape) for name, shape in shapes)


LAYERED = tensors(("output/bias", (2,)), ("personal/bias", (2,)), ("personal/kernel", (2, 3)), ("z", (1,)))
OURS = replace(MANIFEST, tensors=LAYERED)
KEY = PersonalKey.of(OURS, 5)
DATA = bytes(range(32))


@pytest.fixture
def layer(database) -> PersonalLayer:
    return PersonalLayer(database)


def test_it_comes_back_bit_by_bit_and_the_last_one_counts(layer) -> None:
    assert layer.load(KEY) is None
    layer.save(KEY, b"earlier")
    layer.save(KEY, DATA)
    assert layer.load(KEY) == DATA


def test_the_next_head_of_any_generation_goes_on_with_it(layer) -> None:
    """The gateway begins anew with the same model: what this device learnt of its own user still holds."""
    layer.save(KEY, DATA)
    for version in (HeadVersion(3, 43), HeadVersion(9, 1)):
        assert layer.load(PersonalKey.of(replace(OURS, head_version=version), 5)) == DATA


OTHERS = [
    PersonalKey.of(replace(OURS, model=BlobRef(hash=b"n" * 32, size=5)), 5),
    PersonalKey.of(OURS, 6),
    PersonalKey.of(replace(OURS, tensors=tensors(("personal/bias", (8,)))), 5),
]


@pytest.mark.parametrize("other", OTHERS, ids=["another model", "purged samples", "another shape"])
def test_another_model_or_purged_samples_begin_it_anew_and_say_so(layer, caplog, other) -> None:
    layer.save(KEY, DATA)
    assert layer.load(other) is None
    assert "personal layer begun anew" in caplog.text
    assert "purged" in caplog.text


def test_a_damaged_one_is_begun_anew(layer, database, caplog) -> None:
    layer.save(KEY, DATA)
    database.execute("UPDATE personal SET data = zeroblob(32)")
    assert layer.load(KEY) is None
    assert "damaged" in caplog.text


def test_a_head_without_one_keeps_nothing_and_says_nothing(layer, database, caplog) -> None:
    layer.save(KEY, DATA)
    plain = PersonalKey.of(MANIFEST, 5)
    layer.save(plain, b"")
    assert layer.load(plain) is None
    assert layer.load(KEY) == DATA
    assert not caplog.text


def test_a_reset_forgets_it(layer) -> None:
    layer.save(KEY, DATA)
    layer.reset()
    layer.reset()
    assert layer.load(KEY) is None


SPECS = st.lists(
    st.tuples(st.sampled_from(["personal/", "output/", "a"]), st.lists(st.integers(1, 3), max_size=2)),
    min_size=1,
    max_size=6,
).map(lambda found: tensors(*((f"{name}{at}", tuple(shape)) for at, (name, shape) in enumerate(found))))


@given(specs=SPECS, seed=st.integers(0, 255))
def test_laid_over_a_head_it_changes_the_personal_tensors_alone(specs, seed) -> None:
    size = 4 * sum(tensor.size for tensor in specs)
    ours, theirs = bytes([seed]) * size, bytes(index % 251 for index in range(size))
    personal = extract(ours, specs)
    mixed = overlay(theirs, specs, personal)
    assert len(mixed) == size
    assert extract(mixed, specs) == personal
    assert overlay(mixed, specs, extract(theirs, specs)) == theirs
    at = 0
    for tensor in specs:
        part = slice(at, at + 4 * tensor.size)
        assert mixed[part] == (ours if tensor.is_personal else theirs)[part]
        at += 4 * tensor.size


@pytest.mark.parametrize(("head", "personal"), [(43, 32), (45, 32), (44, 31), (44, 36), (44, 0)])
def test_what_does_not_fit_is_a_mistake_of_the_caller(head, personal) -> None:
    overlay(bytes(44), LAYERED, bytes(32))
    with pytest.raises(ValueError, match="bytes, not 4 for each"):
        overlay(bytes(head), LAYERED, bytes(personal))


def test_a_head_of_another_size_has_no_personal_tensors() -> None:
    with pytest.raises(ValueError, match="the head has 40 bytes"):
        extract(bytes(40), LAYERED)
