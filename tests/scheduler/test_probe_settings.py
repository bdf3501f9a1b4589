"""The keys of [power]."""

from pathlib import Path

from fedclient.scheduler.probe_settings import PowerSettings


def test_two_answers_to_one_question_are_a_contradiction() -> None:
    assert "set one of them" in PowerSettings(command="ups", file=Path("/run/ups.json")).contradiction()
    assert PowerSettings(command="ups", assume="mains").contradiction() == ""
    assert PowerSettings(file=Path("/run/ups.json")).contradiction() == ""
