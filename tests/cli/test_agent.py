"""One way to learn where a device stands: from its agent, or in its place."""

from __future__ import annotations

import os
import threading
from dataclasses import replace

import pytest

from fedclient.cli import agent as module
from fedclient.client.console import Console
from fedclient.config import Config
from fedclient.crypto.keys import SealingKey, SigningKey
from fedclient.device import enrolment, schedule
from fedclient.device import folder as folders
from fedclient.device.database import open_database
from fedclient.device.journal import Journal
from fedclient.errors import FinalError, Unreachable
from fedclient.samples.store import SampleStore
from fedclient.scheduler.history import Cost, History
from fedclient.session import Enrolment, State
from fedclient.testing import setup
from fedclient.values import Broker, HeadVersion, Invitation
from fedclient.wire.invitation import encode_invitation
from tests.cli.running import Answers, running

V1 = HeadVersion(1, 1)
TRAINING = State(enrolment=Enrolment.DONE, floor=V1, current=V1, job=V1, running=True)


@pytest.fixture
def device(tmp_path):
    return folders.create(tmp_path / "state"), Config(state=tmp_path / "state", schedule=setup.EAGER)


def save(device, state: State) -> None:
    database = open_database(device[0])
    Journal(database).save_state(state)
    database.close()


def stored_hold_s(device) -> float | None:
    database = open_database(device[0])
    history, _ = schedule.load(database)
    database.close()
    return history.owner_hold_s


def invite(folder, host: str) -> None:
    invitation = Invitation(
        broker=Broker(host=host, port=1883),
        federation="farm",
        signing_key=SigningKey(b"g" * 32).public,
        sealing_key=SealingKey(b"g" * 32).public,
        token=b"t" * 16,
        expires_unix_s=0,
        floor=HeadVersion(0, 0),
    )
    enrolment.save(folder.enrolment, encode_invitation(invitation), b"request")


# --- where it stands -----------------------------------------------------------------------------------
def test_the_agents_own_answer_is_taken_and_it_decides_for_it(device) -> None:
    answers = Answers(TRAINING)
    answers.notes = ["no connection: refused"]
    answers.history = History().spend(Cost(training_s=90.0), answers.now_s)
    with running(device[0], answers):
        found = module.stand(device)
    assert answers.asked == [{"ask": "why"}]
    assert (found.agent_running, found.phase) == (True, "training")
    assert (found.sentence, found.notes) == ("training on head 1.1", ("no connection: refused",))
    assert (found.decision["at_s"], found.decision["eligible"], found.closed) == (answers.now_s, True, [])
    assert found.spent == Cost(training_s=90.0)


def test_without_an_agent_it_is_decided_here_on_what_is_stored(device) -> None:
    save(device, State(enrolment=Enrolment.DONE, floor=V1, current=V1))
    found = module.stand(device)
    assert (found.agent_running, found.phase, found.notes) == (False, "waiting", ())
    assert found.sentence == "waiting for a good moment to train on head 1.1"
    assert "distinct_samples" in {gate["name"] for gate in found.closed}
    with SampleStore(device[0].samples) as store:
        store.append_many([[float(number)] for number in range(40)], [0] * 40)
    assert "distinct_samples" not in {gate["name"] for gate in module.stand(device).closed}


def test_a_killed_agent_trains_no_more(device) -> None:
    save(device, TRAINING)
    assert module.stand(device).phase == "waiting"
    lock = device[0].lock()  # an agent without a socket: its own word counts
    assert module.stand(device).phase == "training"
    os.close(lock)


def test_nothing_is_logged_that_the_answer_says(device, caplog) -> None:
    caplog.set_level("INFO")
    module.stand(device)
    assert not caplog.records


def test_a_root_is_looked_at_here_whoever_runs(device, tmp_path) -> None:
    zone = tmp_path / "root/sys/class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "type").write_text("cpu-thermal\n")
    (zone / "temp").write_text("91000\n")
    answers = Answers()
    config = replace(device[1], schedule=replace(setup.EAGER, pause_temp_c=75.0))
    with running(device[0], answers):
        found = module.stand((device[0], config), root=tmp_path / "root")
        assert found.agent_running
    assert not answers.asked
    (gate,) = (gate for gate in found.decision["gates"] if gate["name"] == "temperature")
    assert (gate["ok"], gate["value"]) == (False, 91.0)


def test_an_agent_that_hangs_is_said_and_the_rest_is_found_out_here(device, monkeypatch) -> None:
    monkeypatch.setattr(module, "ANSWER_S", 0.05)
    console = Console(device[0].path, Answers())  # and nobody serves it
    found = module.stand(device)
    console.close()
    assert found.notes == ("the agent does not answer: timed out; try again",)
    assert found.phase == "unenrolled"


def test_who_has_an_invitation_is_not_sent_for_one(device) -> None:
    assert module.stand(device).sentence == "in no federation: run `fedclient enroll INVITATION`"
    folder, _ = device
    invite(folder, "localhost")
    assert module.stand(device).sentence == "invited to farm: `fedclient run` asks its gateway"
    with running(folder, Answers(State())):
        assert module.stand(device).sentence == "invited to farm: the agent sees it within 15 s"
    save(device, TRAINING)
    assert "invited" not in module.stand(device).sentence


@pytest.mark.parametrize("lacks", ["phase", "sentence", "notes", "decision", "history"])
def test_an_agent_of_another_version_is_one_line(device, lacks: str) -> None:
    def answer(request: dict) -> dict:
        return {name: value for name, value in Answers()(request).items() if name != lacks}

    with (
        running(device[0], answer),
        pytest.raises(FinalError, match="another version of fedclient: restart it"),
    ):
        module.stand(device)


@pytest.mark.parametrize(
    ("host", "local"), [("127.0.0.1", True), ("localhost", True), ("broker.example", False)]
)
def test_a_broker_on_this_machine_needs_no_network(device, tmp_path, host: str, local: bool) -> None:
    folder, config = device
    (tmp_path / "root").mkdir()  # a machine that tells of no network
    config = replace(config, schedule=replace(setup.EAGER, networks=("wifi",)))

    def word() -> str:
        gates = module.stand((folder, config), root=tmp_path / "root").decision["gates"]
        return next(gate["sentence"] for gate in gates if gate["name"] == "network")

    without = word()
    invite(folder, host)
    here = "the broker is on this machine: no network is needed"
    assert without != here
    assert word() == (here if local else without)


def test_a_job_that_was_begun_is_judged_as_one(device) -> None:
    save(device, replace(TRAINING, running=False))
    (spacing,) = (gate for gate in module.stand(device).decision["gates"] if gate["name"] == "spacing")
    assert spacing["sentence"] == "the job has begun: spacing is not asked for again"


def test_the_next_chance_is_a_length_of_time(device) -> None:
    answers = Answers()
    answers.history = History(owner_hold_s=answers.now_s + 600)
    with running(device[0], answers):
        found = module.stand(device)
        assert found.next_chance_s == 600
        assert found.paused == "the owner paused it for another 10 min"
        answers.history = History(owner_hold_s=float("inf"))
        assert module.stand(device).next_chance_s is None
        answers.history = History()
        assert module.stand(device).paused is None


# --- changing it --------------------------------------------------------------------------------------------
def test_a_running_agent_is_told_and_stores_it_itself(device) -> None:
    answers = Answers()
    with running(device[0], answers):
        assert module.pause(device, 90)
        assert module.resume(device)
    assert answers.asked == [{"ask": "pause", "seconds": 90}, {"ask": "resume"}]
    assert stored_hold_s(device) is None


def test_without_one_it_is_stored_for_the_next(device) -> None:
    assert not module.pause(device, 0)
    assert stored_hold_s(device) == float("inf")
    assert module.stand(device).paused == "the owner paused it until resumed"
    assert not module.pause(device, 120)
    assert module.stand(device).paused.startswith("the owner paused it for another")
    assert not module.resume(device)
    assert module.stand(device).paused is None


def test_the_gateways_pause_is_not_the_owners_to_end(device) -> None:
    database = open_database(device[0])
    conditions = module.Conditions(*device, database)
    conditions.pause("gateway", 0, 100.0)
    with database.transaction():
        conditions.save()
    database.close()
    module.resume(device)
    assert module.stand(device).paused == "the gateway paused it until resumed"


def test_an_agent_that_starts_meanwhile_is_told_as_well(device, monkeypatch) -> None:
    """It may have read what was stored before: so it is asked once it listens."""
    folder, _ = device
    answers, store = Answers(), module._store
    started, done = threading.Event(), threading.Event()

    def agent() -> None:
        started.wait(10)
        with running(folder, answers):
            done.wait(10)

    def slow_store(*arguments: object) -> None:
        store(*arguments)
        started.set()
        while not folder.in_use():
            pass

    monkeypatch.setattr(module, "_store", slow_store)
    thread = threading.Thread(target=agent)
    thread.start()
    try:
        assert module.pause(device, 90)
    finally:
        done.set()
        thread.join()
    assert answers.asked == [{"ask": "pause", "seconds": 90}]


def test_an_agent_without_a_socket_cannot_be_told_and_that_is_said(device, monkeypatch) -> None:
    monkeypatch.setattr(module, "START_S", 0.1)
    lock = device[0].lock()
    with pytest.raises(Unreachable, match="no socket to be told on"):
        module.pause(device, 90)
    os.close(lock)
    assert stored_hold_s(device) is None


def test_whether_it_trains_is_asked_of_agents_only(device) -> None:
    save(device, TRAINING)
    assert not module.trains(device[0])
    for state, expected in ((TRAINING, True), (State(), False)):
        with running(device[0], Answers(state)):
            assert module.trains(device[0]) is expected
