"""`fedclient status`: the same facts for people and for programs."""

from __future__ import annotations

import argparse
import json
import os
import pty
import re
import signal
import subprocess
import time
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from fedclient.cli import status as module
from fedclient.cli.main import main
from fedclient.config import NodeSettings
from fedclient.device.database import open_database
from fedclient.device.journal import Journal
from fedclient.device.judgement import Judgements, Told
from fedclient.device.slots import Slots
from fedclient.device.tuned import Tuned, TunedHead
from fedclient.errors import StorageBusy
from fedclient.nodes import receiver
from fedclient.nodes.intake import Intake
from fedclient.nodes.receiver import Heard
from fedclient.nodes.registry import Registry
from fedclient.samples.store import SampleStore
from fedclient.scheduler.history import Cost, History
from fedclient.scheduler.profile import Profile
from fedclient.scheduler.readings import Reading
from fedclient.scheduler.schedule import Policy
from fedclient.session import Enrolment, Outcome, State
from fedclient.transport.memory import MemoryBroker
from fedclient.values import HeadVersion, Judgement, Phase, Reason, ReceiptStatus, Verdict
from tests.cli.running import FINE, Answers, running
from tests.client.harness import Device, MiniGateway
from tests.nodes import golden
from tests.system.commands import Setup, environment
from tests.wire.golden import MANIFEST

V1 = HeadVersion(1, 1)
PAGE = (Path(__file__).parent.parent.parent / "docs" / "operations.md").read_text()


pytestmark = pytest.mark.usefixtures("quiet")


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
    moment = {name: report.pop(name) for name in ("closed_gates", "next_chance_s", "spent_24h")}
    assert set(moment["closed_gates"]) <= {"load", "pressure", "memory", "disk", "spacing", "dwell"}
    assert report == {
        "device_id": device.id,
        "federation": "farm",
        "agent_running": True,
        "phase": "idle",
        "doing": "nothing to train: waiting for a new head after 1.1",
        "refusal": None,
        "paused": None,
        "head": "1.1",
        "model": gateway.manifest.model.hash.hex(),
        "app_head": "1.1",
        "judgement": {
            "head": "1.1",
            "verdict": "unjudged",
            "why": "60 labelled samples, 1000000 are needed to judge",
        },
        "personal": None,
        "unsettled_update": None,
        "updates": 1,
        "bytes_up": device.agent._link.transport.sent_bytes,
        "bytes_down": device.agent._link.transport.received_bytes,
        "head_bytes": gateway.manifest.full.size,
        "head_bytes_saved": 0,
        "samples": 60,
        "samples_dropped": 0,
        "damaged_updates": 0,
        "nodes": None,
    }
    assert report["bytes_up"] > 300
    assert (one["counter"], one["head"], one["status"], one["reason"]) == (1, "1.1", "counted", "none")
    assert (one["samples"], one["skipped"], one["newest_sample"]) == (60, 0, 60)
    assert list(one["bytes"]) == ["fp32", "sparsified", "quantized", "encoded", "sealed"]


def test_a_verdict_is_told_with_what_it_rests_on(folder, capsys) -> None:
    report = {"rows": 60, "held_out": 6, "accuracy": 0.2, "loss": 1.5, "error": 0.1}
    report |= {"against": "1.1", "its_accuracy": 0.9, "its_loss": 0.3}
    judgement = Judgement(head_version=HeadVersion(1, 2), verdict=Verdict.KEPT_PREVIOUS)
    with closing(open_database(folder)) as database:
        Judgements(database).save(Told(judgement=judgement, why="it is worse", report=report))
    found = status(folder, capsys)["judgement"]
    assert found == {"head": "1.2", "verdict": "kept_previous", "why": "it is worse", **report}
    assert found.keys() | {one.name.lower() for one in Verdict} == quoted(documented()["judgement"])
    assert main(["--state", str(folder.path), "status"]) == 0
    shown = "judgement         head 1.2 kept previous: it is worse (on 60 samples, 6 of them held out)\n"
    assert shown in capsys.readouterr().out


def test_a_copy_that_was_tuned_here_is_told_with_how_it_does(folder, capsys) -> None:
    Slots(folder.current).adopt(MANIFEST, b"model", b"head")
    slot = Slots(folder.current).active()
    assert slot is not None
    assert status(folder, capsys)["personal"] is None
    known = Tuned(
        generation=slot.version.generation, version=slot.version.version, adopted_sha256=slot.head_sha256,
        head_sha256="", samples_epoch=1, holdout=40, accuracy=0.925, adopted_accuracy=0.8,
    )  # fmt: skip
    TunedHead(folder.current).save(known, b"tuned")
    told = {"holdout": 40, "accuracy": 0.925, "adopted_accuracy": 0.8}
    assert status(folder, capsys)["personal"] == told
    assert told.keys() | {"app_head"} == quoted(documented()["personal"])
    main(["--state", str(folder.path), "status"])
    text = capsys.readouterr().out
    assert "right on 92.5% of 40 held-out samples, the adopted head on 80.0%" in text
    Slots(folder.current).adopt(MANIFEST, b"model", b"another")
    assert status(folder, capsys)["personal"] is None


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
        journal.record_round(counter, V1, {"skipped": max(0, counter - 24)})
    database.close()
    assert [one["counter"] for one in status(folder, capsys)["rounds"]] == list(range(25, 5, -1))
    main(["--state", str(folder.path), "status"])
    shown = re.findall(r"^  update (\d+) .* yet(.*)$", capsys.readouterr().out, re.MULTILINE)
    assert [number for number, _ in shown] == ["25", "24", "23", "22", "21"]
    assert shown[:2] == [("25", "   samples that do not fit the model: 1"), ("24", "")]


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
        assert re.search(rf"^{name.removesuffix('_s').replace('_', ' ')} +\S", text, re.MULTILINE), name
    assert re.search(r"^  update 1 +head 1\.1 +counted$", text, re.MULTILINE)


def test_dropped_and_damaged_are_counted(folder, capsys) -> None:
    with SampleStore(folder.samples, max_rows=2) as store:
        store.append_many([[1.0], [2.0], [3.0]], [0, 1, 0])
    database = open_database(folder)
    Journal(database).add("damaged_updates", 3)
    database.close()
    report = status(folder, capsys)
    assert (report["samples"], report["samples_dropped"], report["damaged_updates"]) == (2, 1, 3)


def test_nodes_are_told_of_where_they_are_listened_to(folder, capsys, tmp_path, monkeypatch) -> None:
    registry = Registry(folder.nodes)
    for name in ("shed", "barn", "loft"):
        registry.add(name)
    registry.revoke("loft")
    said = [golden.sample(at, "int8", b"1", 1.0) for at in (1, 2, 2)]
    heard = [Heard(node="shed", generation=1, said=one, size=50) for one in said]
    counts = {("shed", receiver.TAG): 2, ("barn", receiver.TAG): 1, ("", receiver.UNKNOWN): 4}
    with SampleStore(folder.samples) as store:
        taking = Intake(store, NodeSettings(enabled=True))
        taking.commit(heard, 0.0)
        taking.refused(Counter(counts))
        taking.flush()
    assert status(folder, capsys)["nodes"] is None
    (tmp_path / "nodes.toml").write_text("[nodes]\nenabled = true\n")
    monkeypatch.setenv("FEDCLIENT_CONFIG", str(tmp_path / "nodes.toml"))
    told = {"nodes": 2, "samples": 2, "refused": {"wrong tag": 3, "unknown node": 4}, "sent_again": 1}
    assert status(folder, capsys)["nodes"] == told
    assert told.keys() == quoted(documented()["nodes"])
    answers = Answers(READY)
    answers.notes = ["nodes: no room on the disk"]
    with running(folder, answers):
        main(["--state", str(folder.path), "status"])
    text = capsys.readouterr().out
    assert re.search(r"^doing .*; nodes: no room on the disk$", text, re.MULTILINE)
    line = "2, 2 samples of theirs; stored before and sent again: 1; "
    line += "refused: 3 wrong tag, 4 unknown node (`fedclient nodes list`)"
    assert re.search(rf"^nodes +{re.escape(line)}$", text, re.MULTILINE)


# --- what the agent that runs says -----------------------------------------------------------------------
READY = State(enrolment=Enrolment.DONE, floor=V1, current=V1)
HOT = replace(FINE, temp_c=Reading(82.0, "thermal_zone0/temp"))


def test_with_an_agent_its_own_word_counts(folder, capsys) -> None:
    answers = Answers(replace(READY, job=V1, running=True), HOT)
    answers.notes = ["no connection: refused"]
    answers.history = History(owner_hold_s=answers.now_s + 600).spend(
        Cost(training_s=90.0, traffic_bytes=2048, energy_j=1.5, flash_bytes=4096), answers.now_s
    )
    with running(folder, answers):
        report = status(folder, capsys)
        main(["--state", str(folder.path), "status"])
    assert (report["agent_running"], report["phase"]) == (True, "training")
    assert report["doing"] == "training on head 1.1; no connection: refused"
    assert report["paused"] == "the owner paused it for another 10 min"
    assert (report["closed_gates"], report["next_chance_s"]) == (["paused", "temperature"], None)
    spent = {"training_s": 90.0, "traffic_bytes": 2048.0, "energy_j": 1.5, "flash_bytes": 4096.0}
    spent["update_bytes"] = 0.0
    assert report["spent_24h"] == spent
    text = capsys.readouterr().out
    assert re.search(r"^closed gates +paused, temperature$", text, re.MULTILINE)
    assert re.search(
        r"^spent 24h +90 of 3600 s of training, 0.002 MiB of traffic, 1.5 J of ", text, re.MULTILINE
    )


def test_the_next_chance_is_there_where_it_is_known(folder, capsys) -> None:
    answers = Answers(READY)
    answers.history = History(owner_hold_s=answers.now_s + 600)
    with running(folder, answers):
        assert status(folder, capsys)["next_chance_s"] == 600
        main(["--state", str(folder.path), "status"])
    assert re.search(r"^next chance +in 10 min$", capsys.readouterr().out, re.MULTILINE)


def test_every_budget_that_is_set_is_shown() -> None:
    policy = Policy(
        daily_training_s=None, daily_traffic_mib=50.0, daily_energy_j=5000.0, daily_flash_mib=200.0,
        max_update_bytes_per_day=2000,
    )  # fmt: skip
    spent = {"training_s": 90.0, "traffic_bytes": 3.0 * 2**20, "energy_j": 12.0, "flash_bytes": 2.0**20}
    spent["update_bytes"] = 640.0
    assert list(module._spent(spent, policy)) == [
        "90 s of training", "3 of 50 MiB of traffic", "12 of 5000 J of energy", "1 of 200 MiB written",
        "640 of 2000 B of updates",
    ]  # fmt: skip
    few = list(module._spent({**spent, "traffic_bytes": 25_000.0, "flash_bytes": 0.0}, policy))
    assert few[1] == "0.024 of 50 MiB of traffic"
    assert few[3] == "0 of 200 MiB written"


def test_a_budget_that_the_board_brings_is_shown(folder, capsys, monkeypatch) -> None:
    board = Profile(name="small", title="Small", schedule={"daily_training_s": 600.0})
    monkeypatch.setattr("fedclient.boards.here", lambda *_: board)
    main(["--state", str(folder.path), "status"])
    assert "0 of 600 s of training" in capsys.readouterr().out


# --- watching --------------------------------------------------------------------------------------------
@pytest.fixture
def looks(monkeypatch):
    """Have each pause of `--watch` do what the test says next, and Ctrl-C at the end."""

    def plan(*steps) -> list[float]:
        waiting, slept = list(steps), []

        def sleep(seconds: float) -> None:
            slept.append(seconds)
            if not waiting:
                raise KeyboardInterrupt
            waiting.pop(0)()

        monkeypatch.setattr(module, "time", argparse.Namespace(sleep=sleep))
        return slept

    return plan


def test_a_pipe_gets_a_line_for_each_change_and_none_without(folder, capsys, looks) -> None:
    answers = Answers(READY)

    def change(**fields: object) -> None:
        for name, value in fields.items():
            setattr(answers, name, value)

    slept = looks(
        lambda: change(now_s=answers.now_s + 60),
        lambda: change(readings=HOT),
        lambda: change(readings=replace(HOT, temp_c=Reading(83.0, "thermal_zone0/temp"))),
        lambda: change(readings=HOT),
        lambda: change(state=replace(READY, done=V1)),
    )
    with running(folder, answers):
        assert main(["--state", str(folder.path), "status", "--watch"]) == 130
    assert capsys.readouterr().out.splitlines() == [
        "agent running  phase waiting  head -  closed -  update -",
        "agent running  phase waiting  head -  closed temperature  update -",
        "agent running  phase waiting  head -  closed temperature,dwell  update -",
        "agent running  phase idle  head -  closed temperature,dwell  update -",
    ]
    assert slept == [2.0] * 6


def test_an_agent_may_come_and_go_meanwhile(folder, capsys, looks) -> None:
    at_work = running(folder, Answers(READY))
    looks(at_work.__enter__, lambda: at_work.__exit__(None, None, None))
    assert main(["--state", str(folder.path), "status", "--watch", "--every", "0.5"]) == 130
    agents = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()]
    assert agents == ["agent none", "agent running", "agent none"]


def test_a_busy_database_is_said_and_looked_at_again(folder, capsys, looks, monkeypatch) -> None:
    collect, times = module.collect, []

    def busy(*arguments: object) -> dict:
        times.append(1)
        if len(times) == 1:
            raise StorageBusy("the database is busy")
        return collect(*arguments)

    monkeypatch.setattr(module, "collect", busy)
    looks(lambda: None)
    assert main(["--state", str(folder.path), "status", "--watch"]) == 130
    said = capsys.readouterr()
    assert said.err == "fedclient: the database is busy\n"
    assert len(said.out.splitlines()) == 1


@pytest.mark.parametrize(
    "words", ["--every 1", "--watch --every 0", "--watch --every nan", "--watch --every 1e9"]
)
def test_an_interval_that_means_nothing_is_refused(folder, capsys, words: str) -> None:
    assert main(["--state", str(folder.path), "status", *words.split()]) == 2
    assert capsys.readouterr().err.startswith("fedclient: --every")


def test_watching_is_for_people(folder, capsys) -> None:
    assert main(["--state", str(folder.path), "status", "--watch", "--json"]) == 2
    assert "not allowed with" in capsys.readouterr().err


def test_lines_are_drawn_over_those_of_before_and_cut_to_the_screen(capsys, monkeypatch) -> None:
    monkeypatch.setattr(module.shutil, "get_terminal_size", lambda: os.terminal_size((6, 4)))
    assert module._redraw(["one", "much too long"], 0) == 2
    assert capsys.readouterr().out == "\rone\x1b[K\nmuch \x1b[K\n\x1b[J"
    assert module._redraw(["1", "2", "3", "4", "5"], 2) == 3
    assert capsys.readouterr().out == "\x1b[2A\r1\x1b[K\n2\x1b[K\n3\x1b[K\n\x1b[J"


def test_on_a_terminal_it_redraws_until_ctrl_c(tmp_path) -> None:
    device = Setup(tmp_path / "device")
    device.ok("init")
    ours, theirs = pty.openpty()
    words = ("status", "--watch", "--every", "0.2")
    process = subprocess.Popen(
        device._argv(words), stdin=theirs, stdout=theirs, stderr=theirs, env=environment(TERM="xterm"),
        start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    shown, until_s = b"", time.monotonic() + 60
    while shown.count(b"\x1b[J") < 3 and time.monotonic() < until_s:
        shown += os.read(ours, 4096)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    os.close(ours)
    first, second = (part.count(b"\x1b[K") for part in shown.split(b"\x1b[J")[:2])
    assert first == second > 10
    assert f"\x1b[{first}A\r".encode() in shown
    assert b"in no federation" in shown
