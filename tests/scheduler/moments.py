"""Moments for the tests of the policy: good ones, any ones, and what the gates make of them."""

from __future__ import annotations

from dataclasses import replace
from math import inf, nan
from typing import Any

from hypothesis import strategies as st

from fedclient.scheduler.check import Now
from fedclient.scheduler.history import Bucket, Cost, History
from fedclient.scheduler.policy import Decision, Gate, decide
from fedclient.scheduler.profile import Profile
from fedclient.scheduler.readings import NETWORKS, SENSORS, Activity, Reading, Readings, SampleCounts
from fedclient.scheduler.schedule import Policy
from fedclient.scheduler.windows import WEEK_MIN
from fedclient.testing.setup import EAGER

BOARD = Profile(name="board", title="A board that can tell everything")
MONDAY_NOON = 12 * 60


def read(**values: Any) -> dict[str, Reading[Any]]:
    return {name: Reading(value, f"/sys/{name}") for name, value in values.items()}


GOOD = Readings(
    **read(
        power="battery",
        charging=False,
        battery_percent=90.0,
        under_voltage=False,
        throttled=False,
        cpu_cap_percent=100.0,
        temp_c=45.0,
        trip_temp_c=100.0,
        cpu_percent=5.0,
        psi_cpu_percent=1.0,
        free_memory_mib=900.0,
        free_disk_mib=5000.0,
        network="wifi",
        metered=False,
        clock_synchronised=True,
        graphical_session=True,
        input_idle_s=4000.0,
        power_mode="15W",
        power_w=4.0,
        own_gate=True,
    ),
    activity=Activity(samples=SampleCounts(new=50, distinct=500)),
)
# every gate is on
STRICT = Policy(
    min_cpu_cap_percent=50.0,
    min_new_samples=20,
    windows=("Mon-Fri 08:00-18:00",),
    daily_traffic_mib=1.0,
    daily_energy_j=10_000.0,
    daily_flash_mib=64.0,
    max_update_bytes_per_day=10_000,
    gate="mine:gate",
)
# what remains when the owner switches off whatever can be
LOOSE = replace(EAGER, poll_s=Policy().poll_s)


def but(readings: Readings = GOOD, **values: Any) -> Readings:
    """Return the readings with other values; a dict changes what fedclient itself does."""
    own = values.pop("activity", {})
    changed = replace(readings, **{name: Reading(value, "changed") for name, value in values.items()})
    return replace(changed, activity=replace(changed.activity, **own))


def ask(
    readings: Readings = GOOD,
    policy: Policy = STRICT,
    history: History | None = None,
    at_s: float = 0.0,
    **more: Any,
) -> Decision:
    """Decide, on a Monday at noon unless `minute` says otherwise."""
    now = Now(elapsed_s=at_s, minute_of_week=more.get("minute", MONDAY_NOON))
    return decide(readings, policy, more.get("profile", BOARD), history or History(), now)


def gate(decision: Decision, name: str) -> Gate:
    return next(one for one in decision.gates if one.name == name)


# --- any moment ------------------------------------------------------------------------------------

numbers = st.none() | st.floats(0, 2000) | st.sampled_from([nan, inf, -inf, -1.0])
percents = st.none() | st.floats(0, 100) | st.sampled_from([nan, inf, -inf])
flags = st.none() | st.booleans()
counts = st.none() | st.integers(0, 100)
_VALUES = {
    "power": st.sampled_from([None, "mains", "battery"]),
    "network": st.sampled_from([None, *NETWORKS]),
    "power_mode": st.sampled_from([None, "15W"]),
    **dict.fromkeys(("charging", "under_voltage", "throttled", "metered", "clock_synchronised"), flags),
    **dict.fromkeys(("graphical_session", "own_gate"), flags),
    **dict.fromkeys(("battery_percent", "cpu_cap_percent", "cpu_percent", "psi_cpu_percent"), percents),
}
activities = st.builds(
    Activity,
    training=st.booleans(),
    resuming=st.booleans(),
    trainer_cpu_percent=st.floats(0, 100),
    trainer_memory_mib=st.floats(0, 200),
    broker_is_local=st.booleans(),
    samples=st.builds(SampleCounts, new=counts, distinct=counts),
)
wild = st.builds(
    Readings,
    **{name: st.builds(Reading, _VALUES.get(name, numbers), st.just("s")) for name in SENSORS},
    activity=activities,
)
# mostly good, with one to four values of any kind
readings_ = st.builds(
    lambda chaos, names: replace(GOOD, **{name: getattr(chaos, name) for name in names}),
    wild,
    st.sets(st.sampled_from((*SENSORS, "activity")), max_size=4),
)
_WINDOWS = ((), ("22:00-06:00",), ("Mon-Fri 08:00-18:00", "Sat"), ("Sun 23:30-00:30",))


def maybe(low: float, high: float) -> st.SearchStrategy[float | None]:
    return st.none() | st.floats(low, high)


policies = st.builds(
    Policy,
    min_battery_percent=maybe(0, 100),
    require_charging=st.booleans(),
    pause_on_under_voltage=st.booleans(),
    pause_on_throttling=st.booleans(),
    min_cpu_cap_percent=maybe(1, 100),
    pause_temp_c=st.none() | st.floats(60, 110),
    resume_temp_c=st.floats(10, 59),
    max_cpu_percent=maybe(1, 100),
    max_pressure_percent=maybe(0, 100),
    min_free_memory_mib=maybe(0, 1000),
    min_free_disk_mib=maybe(0, 1000),
    min_input_idle_s=maybe(0, 1000),
    networks=st.sampled_from([(), ("ethernet",), ("ethernet", "wifi", "other")]),
    allow_metered=st.booleans(),
    min_new_samples=counts,
    windows=st.sampled_from(_WINDOWS),
    min_spacing_s=st.sampled_from([0.0, 900.0]) | st.floats(0, 10_000),
    dwell_s=st.sampled_from([0.0, 300.0]) | st.floats(0, 1000),
    daily_training_s=maybe(30, 4000),
    daily_traffic_mib=maybe(0.1, 2),
    daily_energy_j=maybe(1, 10_000),
    daily_flash_mib=maybe(2, 64),
    gate=st.sampled_from([None, "mine:gate"]),
    min_distinct_samples=st.integers(1, 50),
    max_update_bytes_per_day=st.none() | st.integers(256, 100_000),
)
_costs = st.builds(
    Cost,
    training_s=st.floats(0, 2000),
    traffic_bytes=st.floats(0, 1e6),
    energy_j=st.floats(0, 5000),
    flash_bytes=st.floats(0, 4e7),
    update_bytes=st.floats(0, 1e5),
)
NOW_S = 200_000.0  # histories end here
_times = st.none() | st.floats(0, NOW_S)
_holds = st.none() | st.floats(0, 2 * NOW_S) | st.just(inf)
histories = st.builds(
    History,
    eligible=st.booleans(),
    lost_s=_times,
    started_s=_times,
    pace_s=st.none() | st.floats(0, 2 * NOW_S),
    owner_hold_s=_holds,
    gateway_hold_s=_holds,
    last_job=_costs,
    spent=st.lists(st.builds(Bucket, st.integers(0, int(NOW_S // 3600)), _costs), max_size=6).map(tuple),
)
minutes = st.none() | st.integers(0, WEEK_MIN - 1)
profiles = st.builds(
    Profile,
    name=st.just("any"),
    title=st.just("Any"),
    missing=st.sets(st.sampled_from(SENSORS)).map(lambda names: dict.fromkeys(names, "it has none")),
    training_w=st.none() | st.floats(0.5, 20),
)
