"""The scheduler's edge: what is spent, who paused, and when to fetch."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import replace
from math import inf
from pathlib import Path

import pytest

from fedclient.client import conditions as module
from fedclient.client.conditions import Conditions, Doing, is_local
from fedclient.config import Config, LimitSettings
from fedclient.device import schedule
from fedclient.device.database import open_database
from fedclient.device.journal import Journal
from fedclient.errors import ConfigError
from fedclient.scheduler.history import DAY_S, Cost
from fedclient.scheduler.policy import LONGEST_SLEEP_S
from fedclient.scheduler.schedule import Policy
from fedclient.testing.setup import EAGER
from tests.client.harness import PLAN, V1

CAPTURES = Path(__file__).parents[2] / "hardware" / "boards"


@pytest.fixture
def database(device):
    opened = open_database(device.folder)
    yield opened
    opened.close()


@pytest.fixture
def conditions(device, database):
    device.samples()
    return Conditions(device.folder, device.config, database)


def on(device, database, policy: Policy, root: Path = Path("/")) -> Conditions:
    return Conditions(device.folder, Config(state=device.folder.path, schedule=policy), database, root=root)


# --- what is remembered -------------------------------------------------------------------------------
def test_pauses_budgets_and_spacing_survive_a_restart(device, database, conditions) -> None:
    conditions.decide(Doing(head=V1), 100.0)
    conditions.pause("owner", 0, 100.0)
    conditions.job_begins()
    conditions.traffic_bytes = lambda: 5000
    conditions.count_traffic(0.0)
    with database.transaction():
        conditions.save()
    assert not conditions.changed
    again = Conditions(device.folder, device.config, database)
    closed = again.decide(Doing(head=V1), 101.0)
    assert "paused" in closed.closed
    assert again.spent()["traffic_bytes"] == 5000
    assert closed.history.owner_hold_s == inf
    again.resume("owner")
    assert "paused" not in again.decide(Doing(head=V1), 102.0).closed


def test_nobody_lifts_anothers_pause(conditions) -> None:
    conditions.pause("gateway", 60.0, 0.0)
    conditions.pause("owner", 30.0, 0.0)
    conditions.resume("gateway")
    assert "paused" in conditions.decide(Doing(), 1.0).closed
    assert "paused" not in conditions.decide(Doing(), 31.0).closed


def test_a_new_link_counts_its_bytes_from_zero(conditions) -> None:
    conditions.decide(Doing(), 0.0)
    for total in (100, 150, 20, 30):
        conditions.traffic_bytes = lambda: total  # noqa: B023 - called at once
        conditions.count_traffic(0.0)
    assert conditions.spent()["traffic_bytes"] == 180


def test_traffic_after_days_without_a_look_is_of_now(conditions) -> None:
    conditions.decide(Doing(), 0.0)
    conditions.traffic_bytes = lambda: 5000
    conditions.count_traffic(3 * DAY_S)
    assert conditions.decide(Doing(), 3 * DAY_S).history.spent_at(3 * DAY_S).traffic_bytes == 5000


def test_an_older_moment_does_not_make_device_time_fast(device, database, conditions) -> None:
    conditions.decide(Doing(), 103.0)
    conditions.pause("owner", 60.0, 100.0)
    with conditions.transaction():
        pass
    again = Conditions(device.folder, device.config, database)
    before_s = conditions.decide(Doing(), 110.0).at_s
    assert again.decide(Doing(), 110.0).at_s == pytest.approx(before_s)


def test_a_training_is_paid_for_between_its_start_and_its_end(device, database) -> None:
    conditions = on(device, database, EAGER, CAPTURES / "raspberry-pi-4b" / "capture")
    conditions.decide(Doing(), 0.0)
    conditions.job_begins()
    conditions.trainer_starts(10.0)
    conditions.decide(Doing(trainer_pid=os.getpid()), 14.0)
    conditions.trainer_ended(16.0)
    conditions.decide(Doing(), 60.0)
    spent = conditions.spent()
    assert spent["training_s"] == pytest.approx(6.0)
    assert spent["energy_j"] == pytest.approx(6.0 * conditions.profile.training_w)
    conditions.traffic_bytes = lambda: 5_000_000
    conditions.count_traffic(60.0)  # a new model: no job's need
    conditions.job_settled(460)
    last = conditions.decide(Doing(), 61.0).history.last_job
    assert last.training_s == pytest.approx(6.0)
    assert 460 < last.traffic_bytes < 5_000


def killed_while_it_trains(device, database, at_s: float) -> None:
    """Train for a while, save, and go without a word."""
    conditions = on(device, database, EAGER)
    conditions.decide(Doing(), at_s)
    conditions.trainer_starts(at_s)
    conditions.decide(Doing(trainer_pid=os.getpid()), at_s + 1.0)
    with conditions.transaction():
        pass


@pytest.mark.parametrize(
    ("boot", "begins_s", "lost_s"), [("same", 121.0, 20.0), ("same", 500.0, 60.0), ("new", 5.0, 60.0)]
)
def test_what_a_kill_or_power_cut_hides_is_paid_for_once(
    device, database, monkeypatch, boot, begins_s, lost_s
) -> None:
    """Else a supply that breaks down at each training is one that trains without end."""
    killed_while_it_trains(device, database, 100.0)
    if boot == "new":
        monkeypatch.setattr(module, "boot_id", lambda: "another")
    for start in range(2):
        again = on(device, database, EAGER)
        again.decide(Doing(), begins_s + start)
        assert again.spent()["training_s"] == pytest.approx(1.0 + lost_s)
        with again.transaction():
            pass


def test_a_training_that_ended_before_the_kill_is_paid_for_already(device, database) -> None:
    conditions = on(device, database, EAGER)
    conditions.decide(Doing(), 100.0)
    conditions.trainer_starts(100.0)
    conditions.trainer_ended(107.0)
    with conditions.transaction():
        pass
    again = on(device, database, EAGER)
    again.decide(Doing(), 200.0)
    assert again.spent()["training_s"] == pytest.approx(7.0)


def test_a_flash_budget_on_a_kernel_that_does_not_count_is_refused(device, database, monkeypatch) -> None:
    monkeypatch.setattr("fedclient.client.conditions.written_bytes", lambda _: None)
    on(device, database, EAGER)
    with pytest.raises(ConfigError, match="daily_flash_mib"):
        on(device, database, replace(EAGER, daily_flash_mib=5.0))


def test_a_damaged_memory_is_begun_anew(device, database, conditions) -> None:
    conditions.pause("owner", 0, 0.0)
    with database.transaction():
        conditions.save()
        database.execute("UPDATE schedule SET record = '{}'")
    assert schedule.load(database)[1] is None
    assert "paused" not in Conditions(device.folder, device.config, database).decide(Doing(), 1.0).closed


# --- deciding ---------------------------------------------------------------------------------------
def test_a_decision_needs_the_samples_of_its_head(device, conditions) -> None:
    assert conditions.decide(Doing(), 0.0).eligible
    assert conditions.readings.activity.samples.distinct == 60


def test_while_a_job_runs_samples_are_counted_again_only_after_a_purge(
    device, conditions, monkeypatch
) -> None:
    counted = []
    count = conditions.count
    monkeypatch.setattr(conditions, "count", lambda head: counted.append(head) or count(head))
    running = Doing(trainer_pid=os.getpid())
    for now_s in range(3):
        conditions.decide(running, float(now_s))
    assert len(counted) == 1
    conditions._store().purge()
    assert "distinct_samples" in conditions.decide(running, 4.0).closed
    assert len(counted) == 2


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("sys/class/hwmon/hwmon1/in0_lcrit_alarm", "1", "supply voltage"),
        ("commands/busctl-metered", "u 1", "metered"),
        ("proc/net/route", "Iface\tDestination\n", "no default route"),
    ],
)
def test_heads_are_not_fetched_in_bad_conditions(device, database, tmp_path, file, text, says) -> None:
    root = tmp_path / "board"
    shutil.copytree(CAPTURES / "raspberry-pi-4b" / "capture", root)
    quiet = on(device, database, Policy(), root)
    assert quiet.held_back(Doing(), 0.0) == ""
    (root / file).write_text(text)
    assert says in on(device, database, Policy(), root).held_back(Doing(), 0.0)
    assert on(device, database, replace(EAGER, networks=()), root).held_back(Doing(), 0.0) == ""


def test_what_keeps_training_back_does_not_keep_heads_back(device, database, conditions) -> None:
    conditions.pause("owner", 0, 0.0)
    assert conditions.held_back(Doing(), 0.0) == ""
    assert conditions.decision is None, "looking is not deciding"


def test_looking_leaves_the_time_of_the_decision(device, database, monkeypatch) -> None:
    conditions = on(device, database, EAGER, CAPTURES / "raspberry-pi-4b" / "capture")
    monkeypatch.setattr("time.time", lambda: 1_700_000_000.0)
    conditions.decide(Doing(), 0.0)
    monkeypatch.setattr("time.time", lambda: 1_700_000_060.0)
    conditions.look(Doing(), 60.0)
    conditions.held_back(Doing(), 60.0)
    assert conditions.decided_unix_s == 1_700_000_000.0


def test_what_is_to_be_fetched_is_judged_by_what_runs(device, database, conditions) -> None:
    conditions.held_back(Doing(trainer_pid=os.getpid()), 0.0)
    assert conditions.readings.activity.training, "a trace must not say that it ended"


def test_it_sleeps_until_something_can_change(device, database) -> None:
    conditions = on(device, database, replace(EAGER, poll_s=60.0))
    device.samples()
    assert conditions.sleep_s() == 60.0
    for seconds, expected in ((600, 600.0), (0, LONGEST_SLEEP_S), (9 * 3600, LONGEST_SLEEP_S), (5, 60.0)):
        conditions.pause("owner", seconds, 0.0)
        conditions.decide(Doing(), 0.0)
        assert conditions.sleep_s() == pytest.approx(expected)


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST.", "127.0.0.1", "127.9.9.9", "::1", "ip6-localhost"]
)
def test_a_broker_on_this_machine_needs_no_network(host: str) -> None:
    assert is_local(host)


@pytest.mark.parametrize("host", ["broker.example", "10.0.0.1", "localhost.example", "0.0.0.0", "", "::2"])
def test_any_other_broker_does(host: str) -> None:
    assert not is_local(host)


def test_costs_add_up() -> None:
    assert Cost(training_s=1.0) + Cost(training_s=2.0, energy_j=3.0) == Cost(training_s=3.0, energy_j=3.0)


def test_a_time_zone_that_is_set_later_counts_at_once(conditions, monkeypatch) -> None:
    """A new board runs in UTC until its owner says where it is; nobody restarts the agent for that."""
    conditions.decide(Doing(), 0.0)
    conditions._now = replace(conditions._now, unix_s=0.0)
    try:
        for zone, hours in (("UTC", 0), ("EAST-5", 5)):
            monkeypatch.setenv("TZ", zone)
            assert conditions.now.minute_of_week == 3 * 24 * 60 + 60 * hours
    finally:
        monkeypatch.undo()
        time.tzset()


def test_what_is_left_of_the_days_bytes_is_what_an_update_may_have(device, database, gateway) -> None:
    config = replace(device.config, limits=LimitSettings(max_update_bytes=500, max_update_bytes_per_day=900))
    conditions = Conditions(device.folder, config, database)
    conditions.take_up()
    manifest = gateway.publish(V1, plan=replace(PLAN, max_bytes_per_day=800))
    Journal(database).save_manifest(manifest, keep=())
    assert conditions.update_may_have(V1) == 500
    conditions.decide(Doing(head=V1), 100.0)
    conditions.update_goes(450)
    assert conditions.update_may_have(V1) == 350
    conditions.update_goes(100)
    assert conditions.update_may_have(V1) == 250
    closed = conditions.decide(Doing(head=V1), 200.0)
    assert "update_bytes" in closed.closed
    (gate,) = (one for one in closed.gates if one.name == "update_bytes")
    assert gate.sentence.startswith("550 of 800 bytes")  # the plan's day is less than the owner's
    assert gate.opens_s is not None
    assert "update_bytes" not in conditions.decide(Doing(head=V1), gate.opens_s).closed
    assert conditions.update_may_have(V1) == 500
