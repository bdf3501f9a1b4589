"""The owner's settings: what goes together, and what does not."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedclient.scheduler.schedule import Policy
from fedclient.scheduler.timing import JOB_FLASH_BYTES, LOOK_S, MIB, UPDATE_BYTES


def test_the_defaults_go_together() -> None:
    assert Policy().contradiction() == ""


@given(st.floats(20, 110), st.floats(10, 110))
def test_going_on_must_be_cooler_than_stopping(pause_c: float, resume_c: float) -> None:
    problem = Policy(pause_temp_c=pause_c, resume_temp_c=resume_c).contradiction()
    assert bool(problem) == (resume_c >= pause_c)
    if problem:
        assert problem.startswith("resume_temp_c")
        assert "pause_temp_c" in problem


def test_without_a_pause_there_is_nothing_to_resume() -> None:
    assert Policy(pause_temp_c=None, resume_temp_c=110.0).contradiction() == ""


def test_a_bad_window_is_named() -> None:
    problem = Policy(windows=("22:00-06:00", "Mon-Fry")).contradiction()
    assert problem.startswith("windows: 'Mon-Fry'")


@pytest.mark.parametrize("gate", ["mine", "mine:", ":gate", ""])
def test_a_gate_is_a_module_and_a_function(gate: str) -> None:
    assert "is not package.module:function" in Policy(gate=gate).contradiction()
    assert replace(Policy(), gate="my.mod:gate").contradiction() == ""


def test_every_key_says_what_it_is_for_and_its_default_is_in_range() -> None:
    keys = [item for item in fields(Policy) if "help" in item.metadata]
    assert [item.name for item in fields(Policy) if item not in keys] == [
        "min_distinct_samples", "max_update_bytes_per_day"
    ]  # fmt: skip
    for item in keys:
        assert item.metadata["help"]
        expected = item.metadata["expected"]
        if isinstance(item.default, float):
            assert expected[0] <= item.default <= expected[1], item.name
            assert item.name.rpartition("_")[2] in {"s", "c", "percent", "mib", "j"}, "its unit"


def test_the_least_budget_is_enough_for_a_first_job() -> None:
    least = {item.name: item.metadata["expected"][0] for item in fields(Policy) if "daily" in item.name}
    assert least["daily_training_s"] > LOOK_S
    assert least["daily_traffic_mib"] * MIB > UPDATE_BYTES
    assert least["daily_flash_mib"] * MIB >= JOB_FLASH_BYTES
