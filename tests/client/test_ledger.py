"""One step, one commit."""

from __future__ import annotations

import pytest

from fedclient import session
from fedclient.client.ledger import Ledger
from fedclient.client.reports import Reports
from fedclient.client.work import Work
from fedclient.device.database import open_database
from fedclient.device.journal import Journal
from fedclient.device.outbox import Row
from fedclient.device.residual import Residual, ResidualKey
from fedclient.session import Enrolment, Outcome, State
from fedclient.values import Reason, Receipt, ReceiptStatus
from tests.client.harness import V1, V2

SENDING = State(enrolment=Enrolment.DONE, floor=V1, current=V1, done=V1, unsettled=7)
KEY = ResidualKey(model_hash=b"m" * 32, generation=1, samples_epoch=5, shape="w[2]")


@pytest.fixture
def ledger(device):
    database = open_database(device.folder)
    work = Work(device.folder, device.config, database)
    yield Ledger(database, work, Reports(Journal(database)))
    database.close()


def put(ledger: Ledger, counter: int = 7) -> None:
    row = Row(
        counter=counter, head_version=V1, model_hash=b"m" * 32, samples_epoch=5,
        envelope=b"sealed", body=b"body",
    )  # fmt: skip
    ledger.outbox.put(row)
    ledger.journal.record_round(counter, V1, {"newest_sample": 42})
    Residual(ledger._database).save(KEY, b"residual")


def feed(ledger: Ledger, state: State, event: session.Event, evidence=None) -> State:
    after, actions = session.step(state, event)
    ledger.commit((state, after), actions, evidence, None)
    return after


@pytest.mark.parametrize(
    ("status", "outcome", "kept"),
    [
        (ReceiptStatus.COUNTED, Outcome.COUNTED, True),
        (ReceiptStatus.NOT_COUNTED, Outcome.RETURNED, True),
        (ReceiptStatus.REFUSED, Outcome.REFUSED, False),
    ],
)
def test_rule_5_3_a_receipt_settles_row_residual_and_history_at_once(ledger, status, outcome, kept) -> None:
    put(ledger)
    after = feed(ledger, SENDING, session.Receipted(7, status, Reason.LATE))
    assert ledger.journal.load_state() == after
    assert ledger.outbox.unsettled() is None
    assert (Residual(ledger._database).load(KEY) == b"residual") == kept
    (done,) = ledger.journal.rounds()
    assert (done.status, done.reason) == (outcome.value, "late")
    assert ledger.journal.counter("settled_sample") == 42
    returned, _ = ledger.outbox.returned()
    assert bool(returned) == (outcome is Outcome.RETURNED)


def test_rule_4_2_after_a_conflict_the_counter_goes_on_behind_the_gateways(ledger) -> None:
    put(ledger)
    receipt = Receipt(
        counter=7,
        envelope_hash=b"e" * 32,
        status=ReceiptStatus.REFUSED,
        reason=Reason.CONFLICT,
        last_counter=99,
    )
    feed(ledger, SENDING, session.Receipted(7, receipt.status, receipt.reason), receipt)
    assert ledger.journal.add("updates") == 100


def test_rule_4_1_published_is_committed_with_the_step_that_publishes(ledger) -> None:
    training = State(enrolment=Enrolment.DONE, floor=V1, current=V1, job=V1, running=True)
    put(ledger)
    assert not ledger.outbox.was_published(7)
    feed(ledger, training, session.Finished(7))
    assert ledger.outbox.was_published(7)


def test_a_step_that_fails_leaves_nothing(ledger, monkeypatch) -> None:
    put(ledger)
    before = ledger.journal.load_state()

    class Cut(Exception):
        pass

    def cut(_: State) -> None:
        raise Cut

    monkeypatch.setattr(ledger.journal, "save_state", cut)
    with pytest.raises(Cut):
        feed(ledger, SENDING, session.Receipted(7, ReceiptStatus.REFUSED, Reason.NORM))
    assert ledger.outbox.unsettled() is not None
    assert Residual(ledger._database).load(KEY) == b"residual"
    assert ledger.journal.load_state() == before


def test_the_database_says_what_became_of_outbox_and_job(ledger) -> None:
    state, restarted = ledger.take_up()
    assert (state, restarted) == (State(), session.Restarted(None, None, None))
    put(ledger)
    ledger._work.prepare(V2)
    assert ledger.take_up()[1] == session.Restarted(7, V1, V2)


def test_a_damaged_update_is_given_up_counted_and_said(ledger, caplog) -> None:
    put(ledger)
    ledger._database.execute("UPDATE outbox SET envelope = CAST('x' AS BLOB)")
    assert ledger.take_up()[1] == session.Restarted(None, None, None)
    assert ledger.journal.counter("damaged_updates") == 1
    assert "row 7" in caplog.text


class Connected:
    """As much of a link as the ledger asks."""

    def __init__(self, *, connected: bool) -> None:
        self.connected = connected

    def update_bytes(self, envelope: bytes) -> int:
        return len(envelope) + 100


def test_an_update_is_counted_each_time_it_is_offered_and_before_it_goes(ledger) -> None:
    put(ledger)
    conditions = ledger._work.conditions
    conditions.take_up()
    for connected, spent in ((False, 0), (True, 106), (True, 212), (False, 212)):
        step = (SENDING, session.Publish(7))
        ledger.commit((SENDING, SENDING), step[1:], None, Connected(connected=connected))
        assert conditions.spent()["update_bytes"] == spent
        saved = Journal(ledger._database)._database.one("SELECT record FROM schedule")
        assert spent == 0 or str(float(spent)) in saved[0]
