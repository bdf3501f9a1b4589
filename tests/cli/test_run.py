"""`fedclient run --once`: one round at most, and an exit code that says why not."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

from fedclient.cli import run as module
from fedclient.cli.main import main
from fedclient.device import folder as folders
from fedclient.device.database import open_database
from fedclient.device.journal import Journal
from fedclient.errors import ConditionsNotMet, ConfigError, EnrolmentError, FinalError
from fedclient.session import Enrolment, State
from fedclient.transport.memory import MemoryBroker, MemoryTransport
from fedclient.values import MessageType, Reason, ReceiptStatus
from tests.client.harness import V1, Device, MiniGateway

pytestmark = pytest.mark.usefixtures("quiet")


class Round:
    """`--once` over the memory transport, turned by hand."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.once = module._Once(device.start())

    def turn(self, advance_s: float = 0.0) -> bool:
        self.device.turn(advance_s)
        self.once.service((), self.device.now_s)
        return self.once.is_over()


@pytest.fixture
def device(tmp_path):
    made = Device(tmp_path / "device", MemoryBroker())
    yield made
    made.stop()


@pytest.fixture
def gateway(device) -> MiniGateway:
    return MiniGateway(device.broker)


def enrolled(device, gateway) -> Round:
    request = device.invite(gateway)
    once = Round(device)
    assert not once.turn()
    gateway.answer(device.id, request, ReceiptStatus.ENROLLED)
    return once


def test_a_round_is_done_when_its_receipt_is_there(device, gateway) -> None:
    device.samples()
    gateway.publish(V1)
    once = enrolled(device, gateway)
    assert not once.turn()
    device.trainer_ends()
    assert not once.turn()
    (envelope,) = gateway.envelopes()
    gateway.answer(device.id, envelope, ReceiptStatus.COUNTED)
    assert once.turn()
    assert once.once.result() == 0


def test_rule_7_the_manifest_that_comes_before_the_enrolment_ends_nothing(device, gateway) -> None:
    gateway.publish(V1)
    request = device.invite(gateway)
    once = Round(device)
    for _ in range(3):
        assert not once.turn(1.0)  # "nothing to do" would be wrong: nobody was asked yet
    gateway.answer(device.id, request, ReceiptStatus.ENROLLED)
    once.turn()
    assert device.agent.state.current == V1


def test_a_head_that_was_trained_on_is_nothing_to_do(device, gateway, capsys) -> None:
    device.samples()
    gateway.publish(V1)
    once = enrolled(device, gateway)
    once.turn()
    device.trainer_ends()
    (envelope,) = gateway.envelopes()
    gateway.answer(device.id, envelope, ReceiptStatus.COUNTED)
    assert once.turn()
    device.stop()
    again = Round(device)
    assert again.turn()
    assert again.once.result() == 0
    assert "nothing to do" in capsys.readouterr().err


def test_rule_8_closed_gates_are_try_later(device, gateway) -> None:
    device.samples(10)
    gateway.publish(V1)
    once = enrolled(device, gateway)
    assert once.turn()
    with pytest.raises(ConditionsNotMet, match="32"):
        once.once.result()


def test_a_silent_gateway_is_waited_for_a_minute(device, gateway) -> None:
    device.invite(gateway)
    once = Round(device)
    assert not once.turn()
    assert not once.turn(module.PATIENCE_S - 1)
    assert once.turn(2.0)
    with pytest.raises(ConditionsNotMet, match="has not answered"):
        once.once.result()


def test_no_broker_is_try_later(device, gateway) -> None:
    device.invite(gateway)
    device.broker.stop()
    once = Round(device)
    assert once.turn()
    with pytest.raises(ConditionsNotMet, match="no connection"):
        once.once.result()


def test_rule_7_a_refusal_is_final(device, gateway) -> None:
    request = device.invite(gateway)
    once = Round(device)
    once.turn()
    gateway.answer(device.id, request, ReceiptStatus.REFUSED, reason=Reason.INVITATION_USED)
    assert once.turn()
    with pytest.raises(EnrolmentError, match="invitation used"):
        once.once.result()


def test_rule_7_without_an_enrolment_it_says_what_to_do(tmp_path, capsys) -> None:
    folder = folders.create(tmp_path / "state")
    assert main(["--state", str(folder.path), "run", "--once"]) == 1
    assert "fedclient enroll" in capsys.readouterr().err


def test_rule_5_6_a_second_agent_is_one_line(tmp_path, capsys) -> None:
    folder = folders.create(tmp_path / "state")
    lock = folder.lock()
    assert main(["--state", str(folder.path), "run"]) == 1
    os.close(lock)
    assert "another agent" in capsys.readouterr().err


def test_once_through_the_command_line(device, gateway, monkeypatch, capsys) -> None:
    device.invite(gateway)
    device.broker.stop()
    monkeypatch.setattr(
        module, "opener", lambda *_: lambda _broker, client_id: MemoryTransport(device.broker, client_id)
    )
    assert main(["--state", str(device.folder.path), "run", "--once"]) == 75
    assert "no connection" in capsys.readouterr().err


def test_a_device_that_was_revoked_asks_whether_it_was_reinstated(device, gateway) -> None:
    device.samples()
    gateway.publish(V1)
    device.join(gateway)
    device.trainer_ends()
    (envelope,) = gateway.envelopes()
    gateway.answer(device.id, envelope, ReceiptStatus.REFUSED, reason=Reason.REVOKED)
    device.turn()
    device.stop()
    again = Round(device)
    assert not again.turn()  # a job of cron's would otherwise never learn of it
    gateway.answer(device.id, gateway.envelopes(MessageType.ENROL)[-1], ReceiptStatus.ENROLLED)
    assert again.turn()  # it is back, and its samples were trained on
    assert device.agent.state.enrolment is Enrolment.DONE
    with pytest.raises(ConditionsNotMet, match="new samples"):
        again.once.result()


# --- each way to end, with an agent that is only what `_Once` looks at ---------------------------------
@dataclass(frozen=True)
class FakeWork:
    failure: str = ""
    closed_gates: tuple[str, ...] = ()
    why_not: str = ""


@dataclass(frozen=True)
class FakeHeads:
    trouble: str = ""


@dataclass
class FakeAgent:
    """Does nothing; a signal comes when it starts, if `signalled`."""

    state: State = field(default_factory=State)
    settled: int = 0
    saw_manifest: bool = False
    down_reason: str | None = None
    disk_reason: str | None = None
    work: FakeWork = FakeWork()
    heads: FakeHeads = FakeHeads()
    device_id: str = "fake"
    signalled: int = 0
    stopped: bool = False

    def start(self, now_s: float) -> None:  # noqa: ARG002
        if self.signalled:
            os.kill(os.getpid(), self.signalled)

    def interests(self) -> dict[int, int]:
        return {}

    def deadline_s(self) -> float | None:
        return 0.0

    def service(self, ready: object, now_s: float) -> None:
        pass

    def stop(self) -> None:
        self.stopped = True


JOINED = State(enrolment=Enrolment.DONE, floor=V1, current=V1)
TRAINED = State(enrolment=Enrolment.DONE, floor=V1, current=V1, done=V1)
RUNNING = State(enrolment=Enrolment.DONE, floor=V1, current=V1, job=V1, running=True)
SENDING = State(enrolment=Enrolment.DONE, floor=V1, current=V1, done=V1, unsettled=1)
REFUSED = State(enrolment=Enrolment.REFUSED, refusal=Reason.INVITATION_USED)
REVOKED = State(enrolment=Enrolment.REFUSED, refusal=Reason.REVOKED)
EMPTY = State(enrolment=Enrolment.DONE, floor=V1)

ENDS = {
    "not enrolled": (FakeAgent(), 1, "this device is not enrolled: run `fedclient enroll INVITATION`"),
    "refused": (FakeAgent(REFUSED), 1, "the gateway refused this device: invitation used"),
    "failed": (FakeAgent(JOINED, work=FakeWork(failure="out of memory")), 1, "training failed: out"),
    "no connection": (FakeAgent(JOINED, down_reason="no route"), 75, "no connection: no route"),
    "lost while sending": (FakeAgent(SENDING, down_reason="gone"), 75, "no connection: gone"),
    "disk": (FakeAgent(JOINED, disk_reason="full", down_reason="x"), 75, "not now: full"),
    "head": (FakeAgent(JOINED, heads=FakeHeads("head 1.2 is odd")), 75, "not now: head 1.2 is odd"),
    "gates": (FakeAgent(JOINED, work=FakeWork(closed_gates=("power",), why_not="12 %")), 75, "not now: 12 %"),
    "trained on": (FakeAgent(TRAINED, saw_manifest=True), 0, "nothing to do: the current head was"),
    "not taken": (FakeAgent(EMPTY, saw_manifest=True), 1, "no head was taken: "),
    "settled": (FakeAgent(TRAINED, settled=1), 0, ""),
    # an answer that came counts, whatever else is wrong by then
    "settled and refused": (FakeAgent(REVOKED, settled=1), 0, ""),
    "settled and down": (FakeAgent(TRAINED, settled=1, down_reason="gone"), 0, ""),
}


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Run the command line on a fake agent; returns exit code and standard error."""
    folder = folders.create(tmp_path / "state")

    def call(agent: FakeAgent) -> tuple[int, str]:
        monkeypatch.setattr(module, "Agent", lambda *_, **__: agent)
        code = main(["--state", str(folder.path), "run", "--once"])
        said = capsys.readouterr()
        assert said.out == ""
        assert agent.stopped
        return code, said.err.removesuffix("\n")

    return call


@pytest.mark.parametrize("end", ENDS)
def test_each_end_has_its_code_and_its_sentence(command, end: str) -> None:
    agent, code, sentence = ENDS[end]
    found, said = command(agent)
    assert found == code
    assert said.removeprefix("fedclient: ").startswith(sentence)
    assert said.count("\n") == 0
    assert bool(said) == bool(sentence)


@pytest.mark.parametrize("state", [JOINED, RUNNING, SENDING, REVOKED, State(enrolment=Enrolment.PENDING)])
def test_what_may_still_come_is_waited_for(state: State) -> None:
    once = module._Once(FakeAgent(state))
    once.start(0.0)
    for now_s in (0.0, module.PATIENCE_S):
        once.service((), now_s)
        assert not once.is_over()
    once.service((), module.PATIENCE_S + 1)
    assert once.is_over() == (state is not RUNNING)  # a trainer may take its time
    assert once.deadline_s() == 0.0


def test_patience_begins_anew_with_every_step_and_wakes_the_loop() -> None:
    agent = FakeAgent(JOINED)
    agent.deadline_s = lambda: None
    once = module._Once(agent)
    once.start(0.0)
    once.service((), 50.0)
    assert once.deadline_s() == 50.0 + module.PATIENCE_S
    agent.state = SENDING
    once.service((), 100.0)
    once.service((), 155.0)
    assert not once.is_over()
    once.service((), 161.0)
    assert once.is_over()
    with pytest.raises(ConditionsNotMet, match="the gateway has not answered for 60 s: nothing is lost"):
        once.result()


def test_a_revoked_device_that_nobody_answers_is_refused() -> None:
    once = module._Once(FakeAgent(REVOKED))
    once.start(0.0)
    once.service((), 0.0)
    once.service((), module.PATIENCE_S + 1)
    assert once.is_over()
    with pytest.raises(EnrolmentError, match="the gateway refused this device: revoked"):
        once.result()


def test_a_closed_gate_does_not_end_a_round_that_has_begun() -> None:
    for state in (RUNNING, SENDING):
        agent = FakeAgent(state, work=FakeWork(closed_gates=("load",)), saw_manifest=True)
        assert not module._Once(agent).is_over()


@pytest.mark.parametrize("state", [JOINED, RUNNING, SENDING])
def test_sigterm_in_the_middle_is_not_nothing_to_do(command, state: State) -> None:
    code, said = command(FakeAgent(state, saw_manifest=True, signalled=signal.SIGTERM))
    assert (code, said) == (75, "fedclient: stopped before the round was done: nothing is lost, try later")


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (State(), "not enrolled: waiting for `fedclient enroll INVITATION`"),
        (REFUSED, "the gateway refused this device: invitation used; waiting for another `fedclient enroll`"),
        (JOINED, "not enrolled: waiting for `fedclient enroll INVITATION`"),  # its invitation is gone
    ],
)
def test_an_agent_that_is_in_no_federation_says_so(tmp_path, caplog, state: State, said: str) -> None:
    folder = folders.create(tmp_path / "state")
    database = open_database(folder)
    Journal(database).save_state(state)
    database.close()
    module._say_if_out(folder)
    assert [record.message for record in caplog.records] == [said]


def test_settings_that_the_board_contradicts_are_refused_before_the_old_agent_ends(tmp_path) -> None:
    folder = folders.create(tmp_path / "state")
    config = tmp_path / "config.toml"
    args = SimpleNamespace(config=config, state=folder.path, root=Path("/"))
    config.write_text("[schedule]\nmin_spacing_s = 60\n")
    assert callable(module._renewed(args, folder))
    config.write_text("[schedule]\nresume_temp_c = 109\n")  # above what board or default pause at
    with pytest.raises(ConfigError, match=r"config.toml:2: .*resume_temp_c"):
        module._renewed(args, folder)


@pytest.mark.parametrize(
    ("nodes", "sentence"),
    [
        ("host = 'broker.farm'\ntls = true", "is the federation's broker"),
        ("host = '192.0.2.1'", "set tls, or allow_plaintext"),
    ],
)
def test_a_nodes_broker_that_cannot_be_is_refused_before_the_old_agent_ends(
    tmp_path, nodes, sentence
) -> None:
    folder = folders.create(tmp_path / "state")
    config = tmp_path / "config.toml"
    args = SimpleNamespace(config=config, state=folder.path, root=Path("/"))
    broker = "[broker]\nhost = 'broker.farm'\n"
    config.write_text(f"{broker}[nodes]\n{nodes}\n")
    assert callable(module._renewed(args, folder))
    config.write_text(f"{broker}[nodes]\nenabled = true\n{nodes}\n")
    with pytest.raises(ConfigError, match=sentence):
        module._renewed(args, folder)


def test_ctrl_c_is_no_error_line(command) -> None:
    assert command(FakeAgent(RUNNING, signalled=signal.SIGINT)) == (130, "")


def test_a_failed_trainer_is_no_refusal_to_try(command) -> None:
    with pytest.raises(FinalError):
        module._Once(FakeAgent(JOINED, work=FakeWork(failure="crash"))).result()
