"""What the agent remembers: state, counters, manifests, history."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedclient.device.journal import Journal
from fedclient.limits import MAX_DELTAS
from fedclient.session import Enrolment, State
from fedclient.values import HeadVersion, Reason
from tests.wire.golden import MANIFEST

versions = st.builds(HeadVersion, st.integers(0, 2**62), st.integers(0, 2**62))
maybe = st.none() | versions


@pytest.fixture
def journal(database) -> Journal:
    return Journal(database)


@given(
    state=st.builds(
        State,
        enrolment=st.sampled_from(Enrolment),
        request=st.text("0123456789abcdef", max_size=64),
        refusal=st.sampled_from(Reason),
        floor=versions,
        current=maybe,
        wanted=maybe,
        job=maybe,
        running=st.booleans(),
        dropping=st.booleans(),
        unsettled=st.none() | st.integers(1, 2**62),
        done=maybe,
        unfit=maybe,
        failures=st.integers(0, 9),
    )
)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_state_comes_back_as_it_was(journal, state) -> None:
    journal.save_state(state)
    assert journal.load_state() == state


def test_before_the_first_event_there_is_the_empty_state(journal) -> None:
    assert journal.load_state() == State()


def test_counters_only_rise(journal) -> None:
    assert journal.counter("updates") == 0
    assert [journal.add("updates"), journal.add("updates", 4)] == [1, 5]
    journal.raise_to("updates", 3)
    assert journal.counter("updates") == 5
    journal.raise_to("updates", 9)
    assert journal.counters() == {"updates": 9}


def numbered(version: int):
    return replace(MANIFEST, head_version=HeadVersion(1, version))


def test_rule_6_manifests_come_back_and_the_needed_ones_stay(journal) -> None:
    job, newest = HeadVersion(1, 1), 5 + MAX_DELTAS
    for version in range(1, newest + 1):
        journal.save_manifest(numbered(version), keep=(job, None))
    kept = {version: journal.manifest(HeadVersion(1, version)) for version in range(1, newest + 1)}
    # also the oldest that a delta of the newest may lead on from
    needed = {1, *range(newest - MAX_DELTAS, newest + 1)}
    assert kept == {version: numbered(version) if version in needed else None for version in kept}


def test_a_damaged_manifest_is_as_good_as_none(journal, database) -> None:
    journal.save_manifest(numbered(1), keep=())
    database.execute("UPDATE manifest SET payload = CAST(payload || 'x' AS BLOB)")
    assert journal.manifest(HeadVersion(1, 1)) is None


def test_a_manifest_in_the_form_of_an_older_fedclient_is_as_good_as_none(journal, database) -> None:
    journal.save_manifest(numbered(1), keep=())
    payload = b"\xa1\x01\x01"
    database.execute("UPDATE manifest SET payload = ?, hash = ?", (payload, sha256(payload).digest()))
    assert journal.manifest(HeadVersion(1, 1)) is None


def test_history_is_bounded_and_newest_first(journal, database) -> None:
    with database.transaction():
        for counter in range(1, 1005):
            journal.record_round(counter, HeadVersion(1, counter), {"samples": counter})
    journal.record_receipt(1004, "counted", "none")
    rounds = journal.rounds(2)
    assert [(one.counter, one.status, one.report) for one in rounds] == [
        (1004, "counted", {"samples": 1004}),
        (1003, None, {"samples": 1003}),
    ]
    assert database.one("SELECT count(*), min(counter) FROM history") == (1000, 5)
