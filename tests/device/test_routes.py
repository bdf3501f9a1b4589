"""The shortest way to a head, whatever is here."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedclient.device.routes import ASKING_BYTES, Route, cost, shortest, whole
from fedclient.limits import MAX_CHUNK_BYTES
from fedclient.values import BlobRef, HeadVersion, Manifest, TensorSpec
from tests.wire.golden import MANIFEST

FULL = 10_000


def blob(name: str, size: int) -> BlobRef:
    return BlobRef(hash=name.encode().ljust(32, b"."), size=size)


def manifest(version: int, *deltas: int, full: int = FULL) -> Manifest:
    """A head's manifest; its deltas have these sizes, and names that say from where they lead."""
    return replace(
        MANIFEST,
        head_version=HeadVersion(3, version),
        head=blob(f"head {version}", 40_000),
        full=blob(f"full {version}", full),
        deltas=tuple(blob(f"{version - 1 - at}", size) for at, size in enumerate(deltas)),
    )


def known(*versions: int) -> dict[HeadVersion, Manifest]:
    return {HeadVersion(3, version): manifest(version) for version in versions}


def here(*versions: int) -> frozenset[BlobRef]:
    return frozenset(blob(f"head {version}", 40_000) for version in versions)


def route(to: Manifest, versions: tuple[int, ...], *more: BlobRef) -> Route:
    """The way from heads that are here with their manifests."""
    return shortest(to, known(*versions).get, (here(*versions) | set(more)).__contains__)


def test_one_that_missed_nothing_takes_one_delta() -> None:
    assert route(manifest(9, 300, 300), (8, 7)) == Route(base=blob("head 8", 40_000), steps=(blob("8", 300),))


def test_deltas_are_taken_in_the_order_in_which_they_lead_here() -> None:
    found = route(manifest(9, 100, 200, 300), (6,))
    assert found == Route(base=blob("head 6", 40_000), steps=(blob("6", 300), blob("7", 200), blob("8", 100)))


@pytest.mark.parametrize(
    ("to", "versions"),
    [
        (manifest(9), (8,)),  # the manifest has none
        (manifest(9, 300), ()),  # nothing to begin from: it has just joined
        (manifest(9, 300), (7,)),  # it missed more than the manifest lists
        (manifest(9, 9_900), (8,)),  # hardly shorter, and it has to be asked for as well
        (manifest(9, *[1_200] * 8), (1,)),  # many small ones
    ],
)
def test_the_whole_head_where_deltas_are_no_help(to, versions) -> None:
    if versions == (8,) and to.deltas:
        to = replace(to, full=blob("full 9", 9_899))
    assert route(to, versions) == whole(to) == Route(base=None, steps=(to.full,))


def test_a_head_whose_manifest_or_bytes_are_gone_is_nothing_to_begin_from() -> None:
    to = manifest(9, 300, 300)
    assert shortest(to, {}.get, here(8, 7).__contains__) == whole(to)
    assert shortest(to, known(8, 7).get, here(7).__contains__).steps == (blob("7", 300), blob("8", 300))


def test_a_head_with_other_tensors_is_nothing_to_begin_from() -> None:
    other = replace(manifest(8), tensors=(TensorSpec(name="w", shape=(10_000,)),))
    to = manifest(9, 300)
    assert shortest(to, {other.head_version: other}.get, here(8).__contains__) == whole(to)


def test_a_head_of_another_generation_is_nothing_to_begin_from() -> None:
    to = manifest(9, 300)
    older = replace(manifest(8), head_version=HeadVersion(2, 8))
    assert shortest(to, {older.head_version: older}.get, here(8).__contains__) == whole(to)


def test_what_is_here_already_costs_nothing() -> None:
    to = manifest(9, *[2_000] * 8)
    assert route(to, (1,)) == whole(to)
    assert route(to, (1,), *to.deltas[1:]).base == blob("head 1", 40_000)
    assert route(to, (8,), to.full) == whole(to)


@pytest.mark.parametrize(
    ("size", "messages"),
    [(1, 1), (MAX_CHUNK_BYTES, 1), (MAX_CHUNK_BYTES + 1, 3), (4 * MAX_CHUNK_BYTES, 5)],
)
def test_each_chunk_costs_what_asking_for_it_does(size, messages) -> None:
    asked = Route(base=None, steps=(blob("x", size),))
    assert cost(asked, lambda _: False) == size + messages * ASKING_BYTES


@given(
    sizes=st.lists(st.integers(1, 4000), max_size=8),
    full=st.integers(1, 12_000),
    missed=st.sets(st.integers(0, 10)),
    fetched=st.sets(st.integers(0, 8)),
)
def test_never_longer_than_the_whole_head_and_never_broken(sizes, full, missed, fetched) -> None:
    to = manifest(20, *sizes, full=full)
    versions = tuple(19 - one for one in missed)
    is_here = (here(*versions) | {to.deltas[at] for at in fetched if at < len(sizes)}).__contains__
    found = shortest(to, known(*versions).get, is_here)
    assert cost(found, is_here) <= cost(whole(to), is_here)
    if found.base is None:
        assert found == whole(to)
        return
    assert is_here(found.base)
    begun = next(version for version in versions if blob(f"head {version}", 40_000) == found.base)
    assert [int(step.hash.rstrip(b".")) for step in found.steps] == list(range(begun, 20))
    assert begun == max(version for version in versions if version >= 20 - len(sizes))
