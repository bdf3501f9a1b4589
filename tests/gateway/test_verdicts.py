from __future__ import annotations

import pytest

from fedclient.gateway.roster import Standing
from fedclient.gateway.store import Release, Store
from fedclient.gateway.verdicts import Tally
from fedclient.values import Base, HeadVersion, Judgement, Verdict

V1, V2 = HeadVersion(1, 1), HeadVersion(1, 2)
ADOPTED, KEPT, UNJUDGED = Verdict.ADOPTED, Verdict.KEPT_PREVIOUS, Verdict.UNJUDGED


@pytest.fixture
def store(tmp_path) -> Store:
    """Two heads and five devices."""
    made = Store(tmp_path)
    with made.transaction():
        for blob in (b"m", b"h"):
            made.add_blob(blob, b"")
        for version in (V1, V2):
            base = Base(head_version=version, head_hash=b"h", plan_hash=b"p")
            made.add_release(Release(head_version=version, model_hash=b"m", base=base, signed=b""))
        for name in "abcde":
            made.roster.enrol(name, name.encode(), 1.0)
    return made


def say(store, version, *said):
    with store.transaction():
        for device, verdict in zip("abcde", said, strict=False):
            if verdict is not None:
                store.verdicts.note(device, Judgement(head_version=version, verdict=verdict))


def test_verdicts_are_counted_by_version(store):
    assert store.verdicts.tallies() == {}
    say(store, V1, ADOPTED, ADOPTED, KEPT, UNJUDGED)
    say(store, V2, KEPT)
    say(store, V1, UNJUDGED)  # it changed its mind
    assert store.verdicts.tallies() == {
        V1: Tally(adopted=1, kept_previous=1, unjudged=2),
        V2: Tally(kept_previous=1),
    }
    assert store.verdicts.tallies(V2) == {V2: Tally(kept_previous=1)}


def test_the_last_verdict_of_a_device_is_that_on_the_newest_version(store):
    say(store, V2, KEPT, None)
    say(store, V1, ADOPTED, UNJUDGED)
    last = store.verdicts.last()
    assert last == {
        "a": Judgement(head_version=V2, verdict=KEPT),
        "b": Judgement(head_version=V1, verdict=UNJUDGED),
    }


def test_a_head_that_never_was_has_no_verdicts(store):
    say(store, HeadVersion(1, 9), KEPT)
    say(store, HeadVersion(2, 2), KEPT)
    assert store.verdicts.tallies() == store.verdicts.last() == {}


def test_who_is_not_active_is_not_counted(store):
    say(store, V1, KEPT, KEPT, KEPT)
    store.roster.set_standing("b", Standing.REVOKED)
    assert store.verdicts.tallies() == {V1: Tally(kept_previous=2)}
    assert store.verdicts.doubts(V1) is None


@pytest.mark.parametrize(
    ("said", "doubtful"),
    [
        ([KEPT, KEPT], False),  # too few to judge
        ([KEPT, KEPT, UNJUDGED, UNJUDGED], False),
        ([KEPT, KEPT, ADOPTED], True),
        ([KEPT, ADOPTED, ADOPTED], False),
        ([KEPT, KEPT, ADOPTED, ADOPTED], False),  # half is not more than half
        ([KEPT, KEPT, KEPT, ADOPTED, UNJUDGED], True),
    ],
)
def test_more_than_half_of_three_judges_are_a_doubt(store, said, doubtful):
    say(store, V1, *said)
    assert (store.verdicts.doubts(V1) is not None) == doubtful


def test_a_version_is_doubtful_once(store):
    say(store, V1, KEPT, KEPT, KEPT)
    say(store, V2, KEPT, KEPT, KEPT, ADOPTED)
    assert store.verdicts.doubts(V1) == Tally(kept_previous=3)
    assert store.verdicts.doubts(V1) is None
    assert store.verdicts.doubts(V2) == Tally(kept_previous=3, adopted=1)
    assert store.verdicts.doubts(HeadVersion(9, 9)) is None
