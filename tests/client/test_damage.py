"""A card that flips bits and loses pages: the agent goes on, whichever it was."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from fedclient.session import Enrolment
from fedclient.values import ReceiptStatus
from tests.client.harness import V1, V2, Device, MiniGateway
from tests.client.test_agent import COUNTED, trained

PAGE = 4096
NOT_UTF8 = "CAST(x'e67b' AS TEXT)"


def pages(path: Path) -> int:
    """Count pages, all of them in the file itself."""
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path.stat().st_size // PAGE


def spoil(path: Path, page: int) -> None:
    with path.open("r+b") as file:
        file.seek(page * PAGE)
        file.write(b"\xff" * 16)


def change(path: Path, sql: str) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute(sql)
        database.commit()


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE session SET state = substr(state, 1, 40)",
        "UPDATE session SET state = replace(state, 'floor', 'flpor')",
        "UPDATE session SET state = replace(state, '\"floor\": [1', '\"floor\": [9')",
        "UPDATE session SET state = CAST(x'e67b' AS TEXT)",
        "UPDATE session SET state = '[]'",
    ],
)
def test_rule_6_a_damaged_session_asks_again_and_its_floor_stays(
    device: Device, gateway: MiniGateway, sql: str
) -> None:
    envelope = trained(device, gateway)
    device.stop()
    change(device.folder.database, sql)
    agent = device.start()
    device.turn()
    assert (agent.state.enrolment, agent.state.floor, agent.state.done) == (Enrolment.PENDING, V1, V1)
    gateway.answer(
        device.id, device.invite(gateway), ReceiptStatus.ENROLLED
    )  # an unknown one changes nothing
    gateway.answer(device.id, agent._enrolment.request, ReceiptStatus.ENROLLED)
    device.turn(400.0)
    assert gateway.envelopes().count(envelope) >= 2  # what was in the outbox is offered again, as it was
    gateway.answer(device.id, envelope, COUNTED)
    device.turn(1.0)
    assert agent.state.current == V1
    assert trained(device, gateway, V2) != envelope


@pytest.mark.parametrize("report", ["substr(report, 2)", NOT_UTF8, "'[1]'"])
def test_a_damaged_report_does_not_keep_an_update_from_being_settled(
    device: Device, gateway: MiniGateway, report: str
) -> None:
    envelope = trained(device, gateway)
    change(device.folder.database, f"UPDATE history SET report = {report}")  # noqa: S608 - a literal above
    gateway.answer(device.id, envelope, COUNTED)
    device.turn()
    assert device.agent.state.unsettled is None
    assert trained(device, gateway, V2)


def test_any_page_of_the_device_database_may_be_lost(device: Device, gateway: MiniGateway) -> None:
    trained(device, gateway)
    device.stop()
    whole = device.folder.database
    count = pages(whole)
    sound = whole.read_bytes()
    for page in range(count):
        for old in whole.parent.glob("device.db*"):
            old.unlink()
        whole.write_bytes(sound)
        spoil(whole, page)
        agent = device.start()
        device.turn(120.0)
        assert agent.disk_reason is None, f"page {page}: {agent.disk_reason}"
        assert agent._ledger.journal.counter("starts") >= 1
        device.stop()


def test_a_page_of_the_device_database_lost_under_a_running_agent(
    device: Device, gateway: MiniGateway
) -> None:
    envelope = trained(device, gateway)
    for page in range(1, pages(device.folder.database)):
        spoil(device.folder.database, page)
    gateway.answer(device.id, envelope, COUNTED)
    for _ in range(3):
        device.turn(120.0)
    gateway.answer(device.id, device.agent._enrolment.request, ReceiptStatus.ENROLLED)
    for _ in range(3):
        device.turn(120.0)
    assert device.agent.disk_reason is None
    assert device.agent.state.enrolment is Enrolment.DONE


@pytest.mark.parametrize("page", range(1, 6))
def test_a_page_of_the_sample_store_lost_is_no_loop_of_trainers(
    device: Device, gateway: MiniGateway, page: int
) -> None:
    device.samples()
    agent = device.join(gateway)
    assert page < pages(device.folder.samples)
    spoil(device.folder.samples, page)
    gateway.publish(V1)
    device.turn()
    starts = 0
    for _ in range(4):
        if agent.work.child is not None:
            starts += 1
            device.trainer_ends()
        device.turn(1.0)
    assert starts <= 1
    if agent.state.unsettled is None:  # set aside: what apps record from now on is trained on
        device.samples()
        for _ in range(3):  # it is judged first: the trainer that was to do that has failed
            device.turn(120.0)
        device.trainer_ends()
    assert agent.state.unsettled == 1


@pytest.mark.parametrize("column", ["shape = '('", f"dtype = {NOT_UTF8}", f"label = {NOT_UTF8}"])
def test_a_damaged_sample_costs_one_sample(device: Device, gateway: MiniGateway, column: str) -> None:
    device.samples()
    agent = device.join(gateway)
    change(device.folder.samples, f"UPDATE samples SET {column} WHERE id = 7")  # noqa: S608 - a literal above
    gateway.publish(V1)
    device.turn()
    device.trainer_ends()
    assert agent.state.unsettled == 1
