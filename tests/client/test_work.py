"""When jobs run, and what their ends mean."""

from __future__ import annotations

import logging
import signal
import sys
import time
from dataclasses import replace
from math import inf
from types import SimpleNamespace

import pytest

from fedclient.client.work import FIRST_BACKOFF_S, MAX_BACKOFF_S, SAVE_S, Work
from fedclient.config import LimitSettings
from fedclient.device import schedule
from fedclient.device.database import open_database
from fedclient.device.jobs import TrainerExit
from fedclient.device.journal import Journal
from fedclient.errors import StorageFull
from fedclient.scheduler.readings import Activity, Readings
from fedclient.session import (
    Cause,
    Crashed,
    Enrolment,
    Finished,
    HeadLost,
    State,
    Stopped,
    Train,
)
from fedclient.values import Command, CommandKind
from tests.client.harness import V1, V2
from tests.client.test_link import MiniGateway

WAITING = State(enrolment=Enrolment.DONE, floor=V1, current=V1)


@pytest.fixture
def work(device):
    database = open_database(device.folder)
    yield Work(device.folder, device.config, database)
    database.close()


def ended(
    work, code: int, *, asked=False, cut_off=False, only_judges=False, unsettled: object = None
) -> list[object]:
    work.child = SimpleNamespace(
        finish=lambda: code, asked=asked, was_cut_off=cut_off, only_judges=only_judges
    )
    return work.ended(unsettled, 0.0)


@pytest.mark.parametrize(
    ("code", "asked", "events"),
    [
        (TrainerExit.STOPPED, True, [Stopped()]),
        (TrainerExit.STOPPED, False, [Stopped()]),
        (-signal.SIGTERM, True, [Stopped()]),  # asked before it could listen: no failure of its own
        (-signal.SIGTERM, False, [Crashed(Cause.CRASH)]),
        (-signal.SIGKILL, True, [Crashed(Cause.CRASH)]),
        (TrainerExit.CRASHED, False, [Crashed(Cause.CRASH)]),
        (137, False, [Crashed(Cause.CRASH)]),
        (TrainerExit.DATA, False, [Crashed(Cause.DATA)]),
        (TrainerExit.DISK, False, [Crashed(Cause.DATA)]),
        (TrainerExit.MODEL, False, [Crashed(Cause.MODEL)]),
        (TrainerExit.LOST, False, [Crashed(Cause.CRASH), HeadLost(V1)]),
    ],
)
def test_rule_5_6_what_an_end_means(work, code, asked, events) -> None:
    work.prepare(V1)
    assert ended(work, code, asked=asked) == events
    assert work.child is None
    assert bool(work.failure) == (not isinstance(events[0], Stopped))
    assert work.ended(None, 0.0) == []


@pytest.mark.parametrize("code", [0, 1, -9, TrainerExit.STOPPED])
def test_rule_5_2_what_is_in_the_outbox_counts_whatever_the_exit_code(work, code) -> None:
    assert ended(work, code, unsettled=SimpleNamespace(counter=7)) == [Finished(7)]


def test_rule_5_1_a_job_is_resumed_on_its_head_and_replaced_on_another(work) -> None:
    work.prepare(V1)
    job = work.job()
    work.prepare(V1)
    assert work.job() == job
    work.prepare(V2)
    assert work.job().head_version == V2
    work.drop_job()
    assert work.job() is None


def test_a_trainer_that_cannot_be_started_is_a_failure_and_the_agent_lives(work, device, monkeypatch) -> None:
    monkeypatch.setattr(sys, "executable", str(device.folder.path / "nothing"))
    work.prepare(V1)
    assert work.start(Train(V1), 0.0) == [Crashed(Cause.CRASH)]
    assert work.child is None
    assert "cannot be started" in work.failure


def test_starting_needs_the_job_it_is_about(work) -> None:
    assert work.start(Train(V1), 0.0) == []
    work.prepare(V1)
    assert work.start(Train(V2), 0.0) == []
    assert work.child is None


def test_something_new_is_asked_about_at_once_and_then_at_its_pace(work, device) -> None:
    assert work.is_news(WAITING)
    assert work.next_decision_s(WAITING, 100.0) == 100.0
    assert not work.is_news(WAITING)
    assert work.next_decision_s(WAITING, 100.0) == 100.0 + device.config.schedule.poll_s
    newer = replace(WAITING, current=V2)
    assert work.is_news(newer)
    assert work.next_decision_s(newer, 200.0) == 200.0
    training = replace(newer, running=True)
    assert 200.0 < work.next_decision_s(training, 200.0) <= 205.0


@pytest.mark.parametrize(
    ("failures", "pause_s"), [(1, 30.0), (2, 60.0), (3, 120.0), (9, 3600.0), (5000, 3600.0)]
)
def test_after_failures_pauses_double_for_ever_so_many_of_them(work, failures, pause_s) -> None:
    assert FIRST_BACKOFF_S <= pause_s <= MAX_BACKOFF_S
    work.next_decision_s(WAITING, 0.0)
    assert work.next_decision_s(replace(WAITING, failures=failures), 50.0) == 50.0 + pause_s


def test_a_trainer_is_watched_closely_also_after_failures(work) -> None:
    work.next_decision_s(WAITING, 0.0)
    assert work.next_decision_s(replace(WAITING, failures=3, running=True), 0.0) <= 5.0


def test_gates_are_named_and_explained(work, device, caplog) -> None:
    caplog.set_level(logging.INFO)
    decision = work.decide(WAITING, 0.0)
    assert not decision.eligible
    assert work.closed_gates == decision.closed
    assert work.why_not
    assert work.why_not.split(";")[0] in caplog.text
    device.samples()
    for now_s in (10.0, 20.0):
        decision = work.decide(WAITING, now_s)
    assert decision.eligible
    assert work.closed_gates == ()


def test_only_samples_the_head_has_labels_for_open_the_gate(work, device, broker) -> None:
    device.samples()
    manifest = replace(MiniGateway(broker).publish(V1, blobs=False), labels=("walk", "sit"))
    Journal(work._database).save_manifest(manifest, keep=())
    counts = work.conditions.count(V1)
    assert counts.distinct == 40  # two of three classes
    assert work.conditions.count(None).distinct == 60


def test_a_sample_store_that_cannot_be_read_closes_the_gates(work, device) -> None:
    device.folder.samples.write_bytes(b"no database" * 500)
    assert work.conditions.count(None).distinct in {0, None}
    assert not work.decide(State(), 0.0).eligible


def test_the_owners_bounds_are_the_stores(device) -> None:
    limits = LimitSettings(samples_max_rows=10)
    database = open_database(device.folder)
    device.samples()
    work = Work(device.folder, replace(device.config, limits=limits), database)
    assert work.conditions.count(None).distinct == 10
    database.close()


def test_the_newest_sample_of_an_update_comes_from_its_report(work) -> None:
    journal = Journal(work._database)
    journal.record_round(3, V1, {"newest_sample": 42})
    journal.record_round(4, V1, {})
    assert [work.newest_sample(counter) for counter in (3, 4, 5)] == [42, 0, 0]


class Trainer:
    """Notes what is done to it."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.pid = 1

    def kill(self) -> None:
        self.done.append("kill")

    def cut_off(self) -> None:
        self.done.append("cut off")

    def ask_to_stop(self, *_: float) -> None:
        self.done.append("ask")


def using(work, mib: float) -> None:
    work.conditions.readings = Readings(activity=Activity(trainer_memory_mib=mib))


def test_a_trainer_beyond_its_memory_is_ended_whatever_the_kernel_bounds(work, device, caplog) -> None:
    bounded = replace(device.config, trainer=replace(device.config.trainer, memory_mib=64))
    work = Work(device.folder, bounded, work._database)
    work.child = Trainer()
    using(work, 64.0)
    work.guard_memory()
    assert work.child.done == []
    using(work, 65.0)
    work.guard_memory()
    assert work.child.done == ["kill"]
    assert "memory_mib is 64" in caplog.text


def test_a_sagging_supply_cuts_the_trainer_off_and_anything_else_asks(work, device, monkeypatch) -> None:
    work.child = Trainer()
    for gates, done in ((("temperature",), "ask"), (("temperature", "supply"), "cut off")):
        monkeypatch.setattr(type(work), "closed_gates", gates)
        work.ask_to_stop(0.0)
        assert work.child.done[-1] == done
    work.prepare(V1)
    assert ended(work, -signal.SIGKILL, cut_off=True) == [Stopped()], "no failure of its own"


def test_while_the_supply_sags_nothing_is_saved_that_can_wait(work, device, monkeypatch) -> None:
    saved = []
    monkeypatch.setattr(work, "save", lambda: saved.append(True))
    device.samples()
    work.child = Trainer()
    work.decide(WAITING, 10 * SAVE_S)
    assert saved == [True]
    work.decide(WAITING, 10 * SAVE_S + 1.0)
    assert saved == [True], "once a minute is enough"
    decide = work.conditions.decide
    monkeypatch.setattr(work.conditions, "decide", lambda *a: replace(decide(*a), gates=(SAGGING,)))
    work.decide(WAITING, 20 * SAVE_S)
    assert saved == [True]


SAGGING = SimpleNamespace(name="supply", ok=False)


def test_a_command_is_obeyed_once_also_after_a_restart(work, device) -> None:
    pause = Command(sequence=3, kind=CommandKind.PAUSE, seconds=60)
    assert work.obey(pause, 0.0)
    assert "paused" in work.decide(WAITING, 1.0).closed
    assert not work.obey(pause, 30.0)
    again = Work(device.folder, device.config, work._database)
    assert not again.obey(pause, 30.0)
    assert "paused" in again.decide(WAITING, 31.0).closed
    assert not again.obey(Command(sequence=2, kind=CommandKind.RESUME), 31.0), "an older one"
    assert again.obey(Command(sequence=4, kind=CommandKind.RESUME), 31.0)
    assert "paused" not in again.decide(WAITING, 32.0).closed


def test_a_pause_that_the_disk_did_not_take_is_stored_the_next_time(work, device, monkeypatch) -> None:
    """In WAL mode a full disk is noticed at the commit: after everything was said to be saved."""
    execute, full = work._database.execute, [True]

    def once_full(sql: str, *parameters):
        if sql == "COMMIT" and full and full.pop():
            raise StorageFull("the disk is full")
        return execute(sql, *parameters)

    monkeypatch.setattr(work._database, "execute", once_full)
    command = Command(sequence=3, kind=CommandKind.PAUSE, seconds=0)
    with pytest.raises(StorageFull):
        work.obey(command, 0.0)
    assert work.obey(command, 0.0), "it comes again with the next connection"
    again = Work(device.folder, device.config, work._database)
    assert "paused" in again.decide(WAITING, 1.0).closed

    full.append(True)
    work.conditions.pause("owner", 0, 2.0)
    with pytest.raises(StorageFull):
        work.save()
    work.conditions.pause("owner", 0, 2.0)
    work.save()
    assert schedule.load(work._database)[0].owner_hold_s == inf


def test_what_is_remembered_goes_into_a_database_that_was_begun_anew(work) -> None:
    work.end_orphan()
    work.conditions.pause("owner", 0, 0.0)
    work.save()
    work._database.execute("DELETE FROM schedule")  # as after a quarantine
    work.end_orphan()
    work.save()
    assert schedule.load(work._database)[0].owner_hold_s == inf


def test_a_trainer_that_ends_with_its_agent_is_paid_for(work) -> None:
    """Else an agent that is reloaded again and again trains for nothing."""
    work.conditions.recall()
    work.child = SimpleNamespace(only_judges=False, stop=lambda _: time.sleep(0.05), pid=None)
    work.conditions.trainer_starts(100.0)
    work.stop_and_wait(130.0)
    assert 30.05 <= work.conditions.spent()["training_s"] < 60.0
