"""`fedclient pause` and `resume`: what they did, in a line."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fedclient.cli.main import main
from fedclient.scheduler.history import History
from fedclient.session import Enrolment, State
from fedclient.values import HeadVersion
from tests.cli.running import Answers, running

V1 = HeadVersion(1, 1)
TRAINING = State(enrolment=Enrolment.DONE, floor=V1, current=V1, job=V1, running=True)


pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture
def say(folder, capsys):
    def call(*words: str, code: int = 0) -> str:
        assert main(["--state", str(folder.path), *words]) == code
        said = capsys.readouterr()
        return said.err if code else said.out

    return call


def test_an_agent_obeys_at_once(folder, say) -> None:
    answers = Answers()
    with running(folder, answers):
        assert say("pause", "--for", "30m") == "paused for 30m: the agent obeys from now on\n"
        assert answers.history.owner_hold_s == answers.now_s + 1800
        assert say("resume") == "resumed: it trains at the next good moment\n"
        assert answers.history.owner_hold_s is None


def test_a_training_that_runs_is_stopped_and_that_is_said(folder, say) -> None:
    with running(folder, Answers(TRAINING)):
        said = say("pause")
    assert said == (
        "paused until `fedclient resume`: the training that ran is asked to stop, "
        "and goes on later from its checkpoint\n"
    )


def test_without_an_agent_the_next_one_obeys(say) -> None:
    assert say("pause", "--for", "1d") == "paused for 1d: no agent is running; the next one obeys\n"
    assert "the owner paused it for another 24 h" in say("status")
    assert say("resume") == "resumed: it trains at the next good moment\n"
    assert say("resume") == "nobody had paused it: nothing changed\n"


def test_the_last_word_counts_also_when_it_is_shorter(folder, say) -> None:
    answers = Answers()
    with running(folder, answers):
        say("pause")
        say("pause", "--for", "90s")
    assert answers.history.owner_hold_s == answers.now_s + 90


def test_the_gateways_pause_stays_and_that_is_said(folder, say) -> None:
    answers = Answers()
    answers.history = replace(History(), owner_hold_s=float("inf"), gateway_hold_s=float("inf"))
    with running(folder, answers):
        said = say("resume")
    assert said == "this device's own pause is over, but the gateway paused it until resumed\n"


@pytest.mark.parametrize("length", ["", "30", "1.5h", "0s", "31d"])
def test_a_length_that_is_none_changes_nothing(folder, say, length: str) -> None:
    answers = Answers()
    with running(folder, answers):
        said = say("pause", "--for", length, code=2)
    assert said.startswith("fedclient: --for")
    assert said.count("\n") == 1
    assert not answers.asked


def test_without_a_device_it_is_one_line(tmp_path, capsys) -> None:
    for verb in ("pause", "resume", "why"):
        assert main(["--state", str(tmp_path / "absent"), verb]) == 1
        assert "run `fedclient init` first" in capsys.readouterr().err
