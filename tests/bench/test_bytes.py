"""The study of accuracy against bytes: its parts run, and docs/bytes.md has the recorded figures."""

from __future__ import annotations

import importlib
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedclient import codec
from fedclient.training.loop import Examples

ROOT = Path(__file__).parents[2]
BENCH = ROOT / "tools" / "bench"
PAGE = ROOT / "docs" / "bytes.md"
RECORDED = ROOT / "docs" / "bytes.json"
OWN = ("bench", "budgets", "digits", "federation", "feedback", "kilobytes", "linear", "parallel", "tables")


@pytest.fixture
def part(monkeypatch: pytest.MonkeyPatch):
    """Return a function that imports a part of the bench as the bench does."""
    monkeypatch.syspath_prepend(BENCH)
    yield importlib.import_module
    for name in OWN:
        sys.modules.pop(name, None)


def case(kilobytes, setting: str, **more):
    plan = replace(kilobytes.PLANS["usual"], learning_rate=0.3)
    return kilobytes.Case(
        **{"head": "pixels", "split": "iid", "plan": plan, "setting": setting, "seed": 0, "rounds": 2, **more}
    )


def test_courses_of_a_codec_stand_beside_those_of_fp32(part) -> None:
    kilobytes = part("kilobytes")
    table = {name: [kilobytes.run(case(kilobytes, name))] for name in (kilobytes.FP32, "sign 5 %", "300 B")}
    found = kilobytes._digest(table)
    for name, one in found.items():
        assert one["final_accuracy"]["mean"] > 0.6, name
        assert len(one["course"]["kilobytes"]) == len(one["course"]["accuracy_percent"]) == 2
    assert found[kilobytes.FP32]["times_fewer_bytes"] == 1
    assert found[kilobytes.FP32]["points_below_fp32"] == 0
    assert found["300 B"]["bytes_per_round"] <= 300
    assert max(table["300 B"][0].bytes_up) <= 300
    assert 4 * 650 < found[kilobytes.FP32]["bytes_per_round"] < 4 * 650 + 250


def test_rounds_and_kilobytes_end_where_the_accuracy_is_reached(part) -> None:
    kilobytes = part("kilobytes")
    course = kilobytes.Course(
        accuracy=[0.5, 0.96, 0.94, 0.97], bytes_up=[1000.0, 500.0, 1.0, 1.0], bytes_down=[0] * 4
    )
    assert (course.rounds, course.kilobytes) == (2, 1.5)
    never = kilobytes.Course(accuracy=[0.5], bytes_up=[1.0], bytes_down=[1])
    assert (never.rounds, never.kilobytes) == (None, None)
    assert kilobytes._if_all([course.rounds, never.rounds]) is None
    stopped = kilobytes.run(case(kilobytes, kilobytes.FP32, rounds=60, until_reached=True))
    assert stopped.rounds == len(stopped.accuracy) < 60


@pytest.mark.parametrize("split", ["iid", "two_classes", "dirichlet"])
def test_every_sample_is_on_one_device_or_held_out(part, split: str) -> None:
    digits = part("digits")
    task = digits.task("pixels", split, 3)
    assert sum(len(one) for one in task.devices) + len(task.holdout) == 1797
    classes = [len(np.unique(one.y)) for one in task.devices]
    assert {"iid": set(classes) == {10}, "two_classes": set(classes) == {2}}.get(split, min(classes) < 10)


def turn_of(part, residual: list[float], missed: int = 0):
    federation = part("federation")
    empty = Examples(x=np.zeros((0, 1), np.float32), y=np.zeros(0, np.int32))
    person = federation.Person(examples=empty, residual=np.array(residual, np.float32))
    return federation.Turn(person=person, head=np.ones(3, np.float32), missed=missed)


def send(feedback, turn, delta: list[float], element: int) -> np.ndarray:
    """Send one element of the delta and what is added to it; returns all that was wanted."""
    turn.added = feedback.added(turn)
    wanted = np.array(delta, np.float32) + turn.added
    turn.sent = codec.Decoded(indices=np.array([element]), values=wanted[[element]])
    turn.left = wanted.copy()
    turn.left[element] = 0
    feedback.keep(turn)
    return wanted


def test_ways_of_error_feedback_do_what_their_papers_say(part) -> None:
    feedback = part("feedback")
    assert send(feedback.Feedback(), turn_of(part, [4, 0, 2]), [1, 1, 1], 0).tolist() == [5, 1, 3]
    assert send(feedback.NoFeedback(), turn_of(part, [4, 0, 2]), [1, 1, 1], 0).tolist() == [1, 1, 1]
    decay = feedback.Decay(missed=0.5)
    assert send(decay, turn_of(part, [4, 0, 2], missed=2), [1, 1, 1], 0).tolist() == [2, 1, 1.5]
    ahead = feedback.Ahead(0.5)
    turn = turn_of(part, [4, 0, 2])
    assert ahead.start(turn).tolist() == [3, 1, 2]  # and the delta is from the head, so has these in it
    assert ahead.added(turn).tolist() == [2, 0, 1]
    for masked, velocity in ((False, [1, 1, 1]), (True, [0, 1, 1])):
        turn, momentum = turn_of(part, [4, 0, 2]), feedback.Momentum(0.5, masked=masked)
        assert send(momentum, turn, [1, 1, 1], 0).tolist() == [5, 1, 3]
        assert turn.person.velocity.tolist() == velocity
        second = send(momentum, turn, [0, 0, 0], 1)  # what was left, and half of the velocity
        assert second.tolist() == [0.5 * velocity[0], 1.5, 3.5]


def test_ef21_counts_estimates_and_sends_what_they_miss(part) -> None:
    ef21 = part("feedback").EF21()
    turn = turn_of(part, [0, 0, 0])
    turn.person.residual = None
    send(ef21, turn, [4, 1, 0], 0)
    assert [one.values.tolist() for _, one in ef21.counted([turn])] == [[4, 0, 0]]
    assert send(ef21, turn, [4, 1, 0], 1).tolist() == [0, 1, 0]
    assert [one.values.tolist() for _, one in ef21.counted([turn])] == [[4, 1, 0]]


def test_a_share_of_the_people_is_drawn_anew_in_each_round(part) -> None:
    drawn = part("federation").drawn
    assert drawn(0, 10, 1.0) == list(range(10))
    rounds = [drawn(number, 10, 0.3) for number in range(20)]
    assert {len(one) for one in rounds} == {3}
    assert len({tuple(one) for one in rounds}) > 10
    assert rounds == [drawn(number, 10, 0.3) for number in range(20)]


def test_every_variant_federates(part) -> None:
    feedback = part("feedback")
    one = feedback.Case(
        variant=feedback.FP32, codec="sign_1%", rate=0.2, split="iid", share=0.3, seed=0, rounds=2
    )
    assert feedback.run(one)[-1] > 0.4
    for variant in ("plain", "ef21", "ahead 0.3"):
        assert 0.2 < feedback.run(replace(one, variant=variant))[-1] <= 1


def test_people_federate_under_a_byte_budget(part, shared: Path, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FEDCLIENT_SHARED", str(shared))
    for name in ("people", "omniglot"):
        sys.modules.pop(name, None)
    budgets = part("budgets")
    found = {}
    for setting in (budgets.FP32, 300):
        asked = budgets.Case(task="wisdm", setting=setting, fold=0, rounds=1, data=tmp_path)
        found[asked] = budgets.run(asked)
    settings = budgets._digest(found)["settings"]
    assert 200 < settings["300 B"]["bytes_per_round"] <= 300
    assert settings["300 B"]["accuracy"]["mean"] > 0.4


def test_the_tables_of_the_page_are_of_the_recorded_figures(part) -> None:
    page = PAGE.read_text()
    for name, table in part("tables").tables(json.loads(RECORDED.read_text())).items():
        assert table in page, name


def test_the_commands_of_the_page_are_those_of_the_bench(part, monkeypatch) -> None:
    bench = part("bench")
    commands = re.findall(r"tools/bench/run (--[^`>|\n]*)", PAGE.read_text())
    assert commands
    for words in commands:
        monkeypatch.setattr(sys, "argv", ["run", *words.split()])
        assert bench._options().only


def test_plots_are_drawn_from_the_recorded_figures(part, tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("matplotlib", reason="LEFT OUT: needs matplotlib, the extra `bench`")
    plots = part("plots")
    monkeypatch.setattr(sys, "argv", ["draw", str(RECORDED), str(tmp_path)])
    plots.main()
    for name in ("bytes-digits.png", "bytes-budgets.png"):
        assert (tmp_path / name).read_bytes()[:4] == b"\x89PNG"


def test_plots_in_the_page_are_small() -> None:
    for name in ("bytes-digits.png", "bytes-budgets.png"):
        assert f"({name})" in PAGE.read_text()
        assert (ROOT / "docs" / name).stat().st_size < 60_000
