"""What is remembered: device time that never goes back, spendings of a day, and a record that survives."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import fields, replace
from itertools import pairwise
from math import inf, nan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedclient.scheduler.history import (
    DAY_S,
    HOUR_S,
    LONGEST_GAP_S,
    Bucket,
    ClockMark,
    Cost,
    History,
)
from tests.scheduler.moments import histories

seconds = st.floats(0, 1e7)
walls = st.none() | st.floats(-1e9, 4e9)


@given(
    st.lists(st.tuples(st.sampled_from(["same", "reboot", ""]), seconds, walls, st.booleans()), max_size=20)
)
def test_device_time_never_goes_back_whatever_the_clocks_do(
    steps: list[tuple[str, float, float | None, bool]],
) -> None:
    mark, boots, elapsed = ClockMark(0.0, "boot 0", 0.0, None), 0, [0.0]
    for kind, boot_s, unix_s, saved in steps:
        boots += kind == "reboot"
        boot_id = f"boot {boots}" if kind else ""
        now_s = mark.elapsed_at(boot_id, boot_s, unix_s)
        assert now_s >= mark.elapsed_s
        if saved:  # else the power went before
            mark = ClockMark(now_s, boot_id, boot_s, unix_s)
            elapsed.append(now_s)
    assert all(after >= before for before, after in pairwise(elapsed))


@pytest.mark.parametrize(
    ("boot_id", "boot_s", "unix_s", "passed_s"),
    [
        ("a", 150.0, 5000.0, 50.0),  # within a boot the boot clock counts, whatever the wall clock says
        ("a", 150.0, None, 50.0),
        ("b", 20.0, 1700.0, 700.0),  # over a reboot the wall clock, where it was right at both ends
        ("b", 20.0, None, 20.0),  # else only what is certain
        ("b", 20.0, 990.0, 20.0),  # set back
        ("b", 20.0, 9e9, LONGEST_GAP_S),  # set to nonsense
        ("a", 30.0, None, 30.0),  # the same id with an earlier clock is no same boot
    ],
)
def test_device_time_over_a_restart(
    boot_id: str, boot_s: float, unix_s: float | None, passed_s: float
) -> None:
    mark = ClockMark(1000.0, "a", 100.0, 1000.0)
    assert mark.elapsed_at(boot_id, boot_s, unix_s) == 1000.0 + passed_s


def test_device_time_does_not_go_back_by_a_rounding() -> None:
    mark = ClockMark(349525.21018125897, "a", 174763.10509062948, None)
    assert mark.elapsed_at("a", mark.boot_s, None) == mark.elapsed_s


def test_without_a_clock_that_was_right_before_the_time_off_does_not_count() -> None:
    assert ClockMark(1000.0, "a", 100.0, None).elapsed_at("b", 20.0, 5000.0) == 1020.0


costs = st.builds(Cost, **{item.name: st.floats(0, 1e6) for item in fields(Cost)})


@given(st.lists(st.tuples(st.floats(0, 3 * HOUR_S), costs), max_size=30), st.floats(0, 2 * DAY_S))
def test_at_least_the_last_day_counts_and_at_most_an_hour_more(
    steps: list[tuple[float, Cost]], later_s: float
) -> None:
    now_s, history, bill = 0.0, History(), []
    for pause_s, cost in steps:
        now_s += pause_s
        history = history.spend(cost, now_s)
        bill.append((now_s, cost))
    now_s += later_s
    spent = history.spent_at(now_s)
    for item in fields(Cost):
        paid = [(at_s, getattr(cost, item.name)) for at_s, cost in bill]
        day = sum(amount for at_s, amount in paid if at_s > now_s - DAY_S)
        more = sum(amount for at_s, amount in paid if at_s >= now_s - DAY_S - HOUR_S)
        found = getattr(spent, item.name)
        assert day * (1 - 1e-9) - 1e-6 <= found <= more * (1 + 1e-9) + 1e-6
        assert history.spent_of(item.name, now_s) == pytest.approx(found)


def test_old_hours_go_so_that_it_stays_small() -> None:
    history = History()
    for hour in range(1000):
        history = history.spend(Cost(training_s=1.0), hour * HOUR_S)
    assert len(history.spent) == 25
    assert len(json.dumps(history.as_record())) < 1500


@given(histories)
def test_a_record_survives_and_is_json(history: History) -> None:
    text = json.dumps(history.as_record(), allow_nan=False)
    found = History.of_record(json.loads(text))
    assert found.as_record() == history.as_record()
    assert (found.lost_s, found.started_s, found.pace_s) == (
        history.lost_s,
        history.started_s,
        history.pace_s,
    )
    assert (found.owner_hold_s, found.gateway_hold_s) == (history.owner_hold_s, history.gateway_hold_s)
    assert not found.eligible  # a restart is no moment to train; and no failure of conditions
    for now_s in (0.0, 1e5, 2e5):
        assert found.spent_of("training_s", now_s) == pytest.approx(
            history.spent_of("training_s", now_s), abs=0.01
        )


def test_a_record_of_before_updates_were_counted_is_read() -> None:
    old = {**RECORD, "spent": [[3, 4.0, 5.0, 6.0, 7.0]]}
    assert History.of_record(old).spent == (
        Bucket(3, Cost(training_s=4.0, traffic_bytes=5.0, energy_j=6.0, flash_bytes=7.0)),
    )


RECORD = History(lost_s=1.0, spent=(Bucket(3, Cost(training_s=4.0)),)).as_record()


@pytest.mark.parametrize(
    "change",
    [
        {"lost_s": nan},
        {"lost_s": inf},
        {"lost_s": "soon"},
        {"started_s": True},
        {"pace_s": 10**400},
        {"owner_hold_s": []},
        {"last_job": [1, 2, 3]},
        {"last_job": [1, 2, 3, None]},
        {"last_job": {}},
        {"spent": [[nan, 0, 0, 0, 0]]},
        {"spent": [[inf, 0, 0, 0, 0]]},
        {"spent": [[1, 0, 0, 0]]},
        {"spent": [[1, 0, 0, 0, nan]]},
        {"spent": [[]]},
        {"spent": [7]},
        {"spent": None},
    ],
)
def test_what_is_no_record_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        History.of_record({**RECORD, **change})


def test_a_record_that_lacks_something_is_refused() -> None:
    for name in RECORD:
        with pytest.raises(KeyError):
            History.of_record({key: value for key, value in RECORD.items() if key != name})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=5),
    max_leaves=12,
)


@given(st.fixed_dictionaries(dict.fromkeys(RECORD, json_values)))
def test_no_record_leads_to_anything_but_a_history_or_those_errors(record: dict[str, object]) -> None:
    with suppress(KeyError, TypeError, ValueError):
        History.of_record(record)


def test_verdicts_are_remembered_by_gate() -> None:
    history = History(since=(("load", False, 7.0), ("power", True, 3.0)))
    assert history.was_closed("load")
    assert not history.was_closed("power")
    assert not history.was_closed("disk")
    assert history.since_s("load", ok=False, now_s=9.0) == 7.0
    assert history.since_s("load", ok=True, now_s=9.0) == 9.0


def test_each_holds_for_itself() -> None:
    history = History().held("owner", inf).held("gateway", 50.0)
    assert (history.owner_hold_s, history.gateway_hold_s) == (inf, 50.0)
    assert history.held("owner", None) == replace(history, owner_hold_s=None)
