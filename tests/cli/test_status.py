"""`fedclient status`: the same facts for people and for programs."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from fedclient.cli.main import main
from fedclient.device import folder as folders
from fedclient.device.database import open_database
from fedclient.device.journal import Journal
from fedclient.samples.store import SampleStore
from fedclient.session import Enrolment, Outcome, State
from fedclient.transport.memory import MemoryBroker
from fedclient.values import HeadVersion, Phase, Reason, ReceiptStatus
from tests.client.harness import Device, MiniGateway

V1 = HeadVersion(1, 1)
PAGE = (Path(__file__).parent.parent.parent / "docs" / "operations.md").read_text()


@pytest.fixture(autouse=True)
def quiet(monkeypatch) -> None:
    """No handler that outlives a test's standard error."""
    monkeypatch.setattr("fedclient.cli.main.log.setup", lambda **_: None)


@pytest.fixture
def folder(tmp_path):
    return folders.create(tmp_path / "state")


def status(folder, capsys) -> dict:
    assert main(["--state", str(folder.path), "status", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_new_device_is_unenrolled(folder, capsys) -> None:
    report = status(folder, capsys)
    assert report["phase"] == "unenrolled"
    assert report["federation"] is report["head"] is report["unsettled_update"] is None
    assert (report["agent_running"], report["samples"], report["rounds"]) == (False, 0, [])


def test_what_was_done_and_what_waits(folder, capsys) -> None:
    database = open_database(folder)
    journal = Journal(database)
    journal.save_state(
        State(enrolment=Enrolment.DONE, floor=V1, current=V1, done=V1, unsettled=2, refusal=Reason.NONE)
    )
    journal.add("updates", 2)
    journal.add("bytes_up", 700)
    journal.record_round(1, V1, {"samples": 40})
    journal.record_receipt(1, "counted", "none")
    journal.record_round(2, V1, {"samples": 50})
    database.close()
    with SampleStore(folder.samples) as store:
        store.append([1.0], 0)
    report = status(folder, capsys)
    assert (report["phase"], report["head"], report["unsettled_update"]) == ("sending", "1.1", 2)
    assert (report["updates"], report["bytes_up"], report["samples"]) == (2, 700, 1)
    assert [(one["counter"], one["status"], one["samples"]) for one in report["rounds"]] == [
        (2, None, 50),
        (1, "counted", 40),
    ]
    assert main(["--state", str(folder.path), "status"]) == 0
    text = capsys.readouterr().out
    assert "sending" in text
    assert "no receipt yet" in text


def test_it_tells_whether_an_agent_runs_and_leaves_the_lock(folder, capsys) -> None:
    lock = folder.lock()
    assert status(folder, capsys)["agent_running"]
    os.close(lock)
    assert not status(folder, capsys)["agent_running"]
    os.close(folder.lock())


def test_without_a_device_it_says_what_to_do_first(tmp_path, capsys) -> None:
    assert main(["--state", str(tmp_path), "status"]) == 1
    assert "fedclient init" in capsys.readouterr().err


# --- what docs/operations.md says ---------------------------------------------------------------------
def documented() -> dict[str, str]:
    """Each field of the table with its row's text."""
    table = PAGE.split("**`fedclient status --json`**")[1].split("\n**")[0]
    rows = [line.strip("|").split("|", 1) for line in table.splitlines() if line.startswith("| `")]
    return {name: text for names, text in rows for name in re.findall(r"`(\w+)`", names)}


def quoted(text: str) -> set[str]:
    return set(re.findall(r"`(\w+)`", text))


@pytest.fixture
def trained(tmp_path):
    """A device with one finished job of a real trainer, its update counted."""
    broker = MemoryBroker()
    device, gateway = Device(tmp_path / "device", broker), MiniGateway(broker)
    device.samples(60)
    gateway.publish(V1)
    device.join(gateway)
    device.trainer_ends()
    (envelope,) = gateway.envelopes()
    gateway.answer(device.id, envelope, ReceiptStatus.COUNTED)
    device.turn()
    yield device, gateway
    device.stop()


def test_every_field_is_documented_and_every_documented_field_is_there(folder, trained, capsys) -> None:
    device, _ = trained
    for report in (status(folder, capsys), status(device.folder, capsys)):
        assert report.keys() == documented().keys()
    (one,) = report["rounds"]
    parts = re.sub(r"\(.*?\)", "", documented()["rounds"])  # the values of `status` stand in brackets
    assert one.keys() == quoted(parts)


def test_the_values_that_are_named_are_all_there_are() -> None:
    assert quoted(documented()["phase"]) == {phase.value for phase in Phase}
    statuses = re.search(r"`status` \((.*?)\)", documented()["rounds"])
    assert statuses is not None
    assert quoted(statuses[1]) == {outcome.value for outcome in Outcome}


def test_after_a_round_every_field_tells_what_happened(trained, capsys) -> None:
    device, gateway = trained
    report = status(device.folder, capsys)
    (one,) = report.pop("rounds")
    assert report == {
        "device_id": device.id,
        "federation": "farm",
        "agent_running": True,
        "phase": "idle",
        "refusal": None,
        "head": "1.1",
        "model": gateway.manifest.model.hash.hex(),
        "app_head": "1.1",
        "unsettled_update": None,
        "updates": 1,
        "bytes_up": device.agent._link.transport.sent_bytes,
        "bytes_down": device.agent._link.transport.received_bytes,
        "samples": 60,
        "samples_dropped": 0,
        "damaged_updates": 0,
    }
    assert report["bytes_up"] > 300
    assert (one["counter"], one["head"], one["status"], one["reason"]) == (1, "1.1", "counted", "none")
    assert (one["samples"], one["skipped"], one["newest_sample"]) == (60, 0, 60)
    assert list(one["bytes"]) == ["fp32", "sparsified", "quantized", "encoded", "sealed"]


@pytest.mark.parametrize("reason", [Reason.INVITATION_USED, Reason.REVOKED])
def test_a_refusal_is_named(folder, capsys, reason) -> None:
    database = open_database(folder)
    Journal(database).save_state(State(enrolment=Enrolment.REFUSED, refusal=reason))
    database.close()
    report = status(folder, capsys)
    assert (report["phase"], report["refusal"]) == ("refused", reason.name.lower())


def test_the_last_20_rounds_newest_first_and_five_for_people(folder, capsys) -> None:
    database = open_database(folder)
    journal = Journal(database)
    for counter in range(1, 26):
        journal.record_round(counter, V1, {})
    database.close()
    assert [one["counter"] for one in status(folder, capsys)["rounds"]] == list(range(25, 5, -1))
    main(["--state", str(folder.path), "status"])
    shown = re.findall(r"^  update (\d+) ", capsys.readouterr().out, re.MULTILINE)
    assert shown == ["25", "24", "23", "22", "21"]


def test_people_read_what_it_waits_for(folder, capsys) -> None:
    database = open_database(folder)
    Journal(database).save_state(State(enrolment=Enrolment.DONE, floor=V1, current=V1))
    database.close()
    assert status(folder, capsys)["phase"] == "waiting"
    main(["--state", str(folder.path), "status"])
    waits = re.search(r"^waiting for +(.*)$", capsys.readouterr().out, re.MULTILINE)
    assert waits is not None
    assert "the number of distinct samples is 0, but must be at least 32" in waits[1]


def test_people_get_every_field_too(trained, capsys) -> None:
    device, _ = trained
    main(["--state", str(device.folder.path), "status"])
    text = capsys.readouterr().out
    for name in documented().keys() - {"rounds"}:
        assert re.search(rf"^{name.replace('_', ' ')} +\S", text, re.MULTILINE), name
    assert re.search(r"^  update 1 +head 1\.1 +counted$", text, re.MULTILINE)


def test_dropped_and_damaged_are_counted(folder, capsys) -> None:
    with SampleStore(folder.samples, max_rows=2) as store:
        store.append_many([[1.0], [2.0], [3.0]], [0, 1, 0])
    database = open_database(folder)
    Journal(database).add("damaged_updates", 3)
    database.close()
    report = status(folder, capsys)
    assert (report["samples"], report["samples_dropped"], report["damaged_updates"]) == (2, 1, 3)
