"""The outbox: one unsettled row, settled once, never silently replaced (PROTOCOL 4.1, 5.3)."""

from __future__ import annotations

import sqlite3

import pytest

from fedclient.device.outbox import Outbox, Row
from fedclient.errors import StorageDamaged
from fedclient.session import Outcome
from fedclient.uplink import envelope_hash
from fedclient.values import HeadVersion


def row(counter: int) -> Row:
    return Row(
        counter=counter,
        head_version=HeadVersion(1, counter),
        model_hash=b"m" * 32,
        samples_epoch=5,
        envelope=b"sealed %d" % counter,
        body=b"body %d" % counter,
    )


@pytest.fixture
def outbox(database) -> Outbox:
    return Outbox(database)


def states(database) -> list[tuple[int, str]]:
    return database.execute("SELECT counter, state FROM outbox ORDER BY counter")


def test_rule_4_1_retries_read_identical_bytes(outbox) -> None:
    outbox.put(row(1))
    assert outbox.unsettled() == outbox.unsettled() == row(1)
    assert outbox.hash_of(1) == envelope_hash(row(1).envelope)
    assert outbox.hash_of(2) is None


def test_rule_4_1_a_second_unsettled_row_is_impossible(outbox, database) -> None:
    outbox.put(row(1))
    with pytest.raises(sqlite3.IntegrityError):
        outbox.put(row(2))
    assert states(database) == [(1, "unsettled")]


def test_rule_4_1_published_is_a_flag_of_its_own(outbox) -> None:
    outbox.put(row(1))
    assert not outbox.was_published(1)
    outbox.mark_published(1)
    outbox.mark_published(1)
    assert outbox.was_published(1)
    assert outbox.unsettled() == row(1)


@pytest.mark.parametrize("outcome", Outcome)
@pytest.mark.parametrize("second", Outcome)
def test_rule_5_3_a_row_is_settled_once(outbox, database, outcome, second) -> None:
    outbox.put(row(1))
    outbox.settle(1, outcome)
    outbox.settle(1, second)
    assert states(database) == [(1, outcome.value)]
    assert outbox.unsettled() is None
    assert outbox.hash_of(1) is None
    back = outbox.returned()
    assert back == (((row(1),), (1,)) if outcome is Outcome.RETURNED else ((), ()))


def test_rule_5_2_exactly_the_folded_rows_go(outbox, database) -> None:
    for counter, outcome in enumerate([Outcome.RETURNED, Outcome.COUNTED, Outcome.RETURNED], 1):
        outbox.put(row(counter))
        outbox.settle(counter, outcome)
    outbox.put(row(4))
    assert outbox.returned() == ((row(1), row(3)), (1, 3))
    outbox.drop_returned((1, 2, 4))  # the others are not returned rows
    assert states(database) == [(2, "counted"), (3, "returned"), (4, "unsettled")]


def test_rule_8_a_purge_forgets_returned_rows_only(outbox, database) -> None:
    outbox.put(row(1))
    outbox.settle(1, Outcome.RETURNED)
    outbox.put(row(2))
    outbox.forget_returned()
    assert states(database) == [(2, "unsettled")]


def test_rule_5_3_old_settled_rows_go_and_returned_ones_stay(outbox, database) -> None:
    for counter in range(1, 51):
        outbox.put(row(counter))
        outbox.settle(counter, Outcome.RETURNED if counter == 1 else Outcome.COUNTED)
    assert [counter for counter, _ in states(database)] == [1, *range(19, 51)]


@pytest.mark.parametrize("column", ["envelope", "body"])
def test_a_damaged_row_is_never_sent_and_never_given_back(outbox, database, column) -> None:
    outbox.put(row(1))
    database.execute(f"UPDATE outbox SET {column} = CAST('other' AS BLOB)")  # noqa: S608
    with pytest.raises(StorageDamaged, match="row 1"):
        outbox.unsettled()
    database.execute("UPDATE outbox SET state = 'returned'")
    outbox.put(row(2))
    outbox.settle(2, Outcome.RETURNED)
    assert outbox.returned() == ((row(2),), (1, 2))  # it is dropped with the others
    outbox.drop_returned((1, 2))
    assert states(database) == []


def test_a_damaged_unsettled_row_is_given_up(outbox, database) -> None:
    outbox.put(row(1))
    outbox.drop_damaged()
    assert states(database) == [(1, "refused")]
    assert outbox.returned() == ((), ())
