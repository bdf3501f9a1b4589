"""`fedclient why`: every gate, the closed ones first, for people and for programs."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from fedclient.cli import why as module
from fedclient.cli.main import main
from fedclient.device.database import open_database
from fedclient.device.journal import Journal
from fedclient.scheduler.gates import GATES
from fedclient.scheduler.history import Cost, History
from fedclient.scheduler.readings import Reading, unknown
from fedclient.session import Enrolment, State
from fedclient.values import HeadVersion, Reason
from tests.cli.running import FINE, Answers, running

V1 = HeadVersion(1, 1)
READY = State(enrolment=Enrolment.DONE, floor=V1, current=V1)
HOT = replace(FINE, temp_c=Reading(82.14, "thermal_zone0/temp"))


pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture
def why(folder, capsys):
    """Run the verb beside an agent with these answers, or alone; returns exit code and output."""

    def call(answers: Answers | None, *options: str) -> tuple[int, str]:
        argv = ["--state", str(folder.path), "why", *options]
        if answers is None:
            code = main(argv)
        else:
            with running(folder, answers):
                code = main(argv)
        said = capsys.readouterr()
        assert said.err == ""
        return code, said.out

    return call


def rows(text: str) -> dict[str, list[str]]:
    """The lines of each gate."""
    found: dict[str, list[str]] = {}
    for line in text.split("read from\n")[1].split("\n\n")[0].splitlines():
        if line.startswith(("open", "closed")):
            found[line.split()[1]] = [line]
        else:
            next(reversed(found.values())).append(line)
    return found


def test_a_good_moment_is_0_and_begins_with_so(why) -> None:
    code, text = why(Answers(READY))
    assert code == 0
    assert text.splitlines()[0] == "eligible; waiting for a good moment to train on head 1.1"
    assert text.splitlines()[-1] == "next chance: now"
    assert "no agent" not in text


def test_every_gate_is_there_the_closed_ones_first(why) -> None:
    answers = Answers(READY, HOT)
    code, text = why(answers)
    assert code == 75
    assert text.startswith("not eligible; waiting for a good moment to train on head 1.1\n")
    verdicts = [lines[0].split()[0] for lines in rows(text).values()]
    assert verdicts == ["closed"] + ["open"] * (len(GATES) - 1)
    assert [line.split() for line in rows(text)["power"]] == [
        ["open", "power", "0", "s", "mains", "-", "power_supply"]
    ]


def test_a_closed_gate_has_value_limit_source_and_remedy(why) -> None:
    answers = Answers(READY, HOT)
    why(answers)
    answers.now_s += 3 * 3600
    _, text = why(answers)
    first, sentence, remedy = rows(text)["temperature"]
    assert first.split() == [
        "closed",
        "temperature",
        "3",
        "h",
        "82.1",
        "°C",
        "67",
        "°C",
        "thermal_zone0/temp",
    ]
    assert sentence.strip() == "the temperature is 82.1 °C, but must be at most 67 °C"
    assert remedy.strip() == "to open it: cooling, or a higher [schedule] pause_temp_c"
    assert text.splitlines()[-1] == "next chance: not known; it takes what stands above"


def test_what_opens_by_itself_says_when(why) -> None:
    answers = Answers(READY)
    answers.history = History(owner_hold_s=answers.now_s + 1800)
    _, text = why(answers)
    assert [line.strip() for line in rows(text)["paused"]][1:] == [
        "to open it: `fedclient resume` (by itself in 30 min)"
    ]
    assert rows(text)["paused"][0].endswith("the owner paused it for another 30 min")
    assert text.splitlines()[-1] == "next chance: not before 30 min have passed"


def test_an_unknown_value_gives_its_reason_and_no_number(why) -> None:
    answers = Answers(READY, replace(FINE, free_memory_mib=unknown("/proc/meminfo cannot be read")))
    code, text = why(answers)
    assert code == 75
    assert rows(text)["memory"][0].endswith("free memory is not known: /proc/meminfo cannot be read")


def test_a_budget_shows_what_is_spent_of_what(why) -> None:
    answers = Answers(READY)
    answers.history = History().spend(Cost(training_s=1200), answers.now_s)
    _, text = why(answers)
    assert rows(text)["training_time"][0].endswith("1200 s of 3600 s spent in the last 24 hours")


@pytest.mark.parametrize("answers", [Answers(READY, HOT), Answers(READY), None])
def test_no_line_is_longer_than_100_columns(why, answers) -> None:
    if answers is not None:
        answers.notes = ["no connection: " + "a very long reason " * 12]
    _, text = why(answers)
    assert max(map(len, text.splitlines())) <= 100


def test_a_narrow_terminal_is_not_overrun_and_still_says_where_it_was_read(why, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    answers = Answers(READY, HOT)
    answers.notes = ["no connection: " + "a very long reason " * 12]
    _, text = why(answers)
    assert 55 < max(map(len, text.splitlines())) <= 60
    assert "read from thermal_zone0/temp" in " ".join(text.split())
    monkeypatch.setenv("COLUMNS", "5")  # nothing fits: as for 60
    assert max(map(len, why(answers)[1].splitlines())) <= 60


def test_notes_follow_the_first_line(why) -> None:
    answers = Answers(READY)
    answers.notes = ["no connection: refused", "the last trainer failed: out of memory"]
    _, text = why(answers)
    assert text.splitlines()[1:3] == answers.notes


def test_a_training_that_runs_is_0_whatever_the_gates_say(why) -> None:
    code, text = why(Answers(replace(READY, job=V1, running=True), HOT))
    assert code == 0
    assert text.startswith("not eligible; training on head 1.1\n")


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (State(), "in no federation: run `fedclient enroll INVITATION`"),
        (State(enrolment=Enrolment.REFUSED, refusal=Reason.INVITATION_USED), "invitation used"),
        (replace(READY, done=V1), "nothing to train: waiting for a new head after 1.1"),
    ],
)
def test_rule_7_what_it_waits_for_is_in_the_first_line_also_without_an_agent(
    folder, why, state: State, words: str
) -> None:
    database = open_database(folder)
    Journal(database).save_state(state)
    database.close()
    for answers in (Answers(state), None):
        code, text = why(answers)
        assert words in text.splitlines()[0]
        assert ("no agent is running: this is what it would decide now" in text) is (answers is None)
        assert code == (0 if text.startswith("eligible") else 75)


def test_json_is_the_decision_and_what_the_device_does(why) -> None:
    answers = Answers(READY, HOT)
    code, text = why(answers, "--json")
    found = json.loads(text)
    assert (code, text.count("\n")) == (75, 1)
    assert (found["eligible"], found["at_s"], found["next_s"]) == (False, answers.now_s, None)
    assert (found["agent_running"], found["phase"], found["notes"]) == (True, "waiting", [])
    assert found["spent"].keys() == {
        "training_s", "traffic_bytes", "energy_j", "flash_bytes", "update_bytes"
    }  # fmt: skip
    (hot,) = (gate for gate in found["gates"] if not gate["ok"])
    assert (hot["name"], hot["value"], hot["unit"], hot["threshold"]) == ("temperature", 82.14, "°C", 75.0)
    assert (hot["source"], hot["since_s"]) == ("thermal_zone0/temp", answers.now_s)
    alone = json.loads(why(None, "--json")[1])
    assert alone.keys() == found.keys()
    assert not alone["agent_running"]


def test_a_root_is_read_in_place_of_the_machine(why, tmp_path) -> None:
    root = tmp_path / "root"
    (root / "proc/pressure").mkdir(parents=True)
    (root / "proc/pressure/cpu").write_text("some avg10=88.00 avg60=0.00 avg300=0.00 total=1\n")
    answers = Answers(READY)
    code, text = why(answers, "--root", str(root))
    assert code == 75
    assert f"read below {root}: the agent was not asked" in text
    assert not answers.asked
    assert rows(text)["pressure"][0].split()[:5] == ["closed", "pressure", "-", "88", "%"]


def test_values_are_short() -> None:
    found = [
        module._value(*one) for one in ((True, ""), (False, ""), ("mains", ""), (23449.80078, "MiB"), (0, ""))
    ]
    assert found == ["yes", "no", "mains", "23450 MiB", "0"]
