from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedclient.errors import ConfigError
from fedclient.gateway.rounds import (
    Close,
    Count,
    Decline,
    Defer,
    Extended,
    Offered,
    Rules,
    State,
    Ticked,
    judge_unknown,
    opened,
    step,
)
from fedclient.values import HeadVersion, Reason

CURRENT = HeadVersion(2, 7)


def rules(**over: object) -> Rules:
    return Rules(**{"cohort": 4, "min_devices": 3, "deadline_s": 100.0} | over)


def fresh(**over: object) -> State:
    return opened(rules(**over), CURRENT, 0.0)


def offered(
    base: HeadVersion = CURRENT, *, before: bool = False, new: bool = True, same_plan: bool = True
) -> Offered:
    return Offered(base=base, counted_before=before, new_device=new, same_plan=same_plan)


def run(state: State, *events: tuple[object, float]) -> tuple[State, tuple[object, ...]]:
    actions: tuple[object, ...] = ()
    for event, now_s in events:
        state, actions = step(state, event, now_s)
    return state, actions


def test_the_cohort_closes_a_version():
    state, actions = run(fresh(), *[(offered(), 1.0)] * 4)
    assert actions == (Count(1.0), Close())
    assert state.full
    assert run(state, (Ticked(), 1.0))[1] == (Close(),), "until it is closed, after a failure too"


def test_many_updates_of_two_devices_do_not_close_a_version_for_three():
    events = [(offered(), 1.0), (offered(), 1.0), *[(offered(new=False), 1.0)] * 9]
    state, actions = run(fresh(max_staleness=9), *events)
    assert (state.updates, state.devices, actions) == (11, 2, (Count(1.0),))


def test_rule_4_5_deadline_below_the_minimum_keeps_the_buffer_and_extends():
    state, actions = run(fresh(), (offered(), 1.0), (offered(), 1.0), (Ticked(), 99.9))
    assert actions == ()
    state, actions = run(state, (Ticked(), 100.0))
    assert (actions, state.updates, state.deadline_s) == ((Extended(),), 2, 200.0)
    assert run(state, (offered(), 150.0), (Ticked(), 200.0))[1] == (Close(),)


@pytest.mark.parametrize(
    "wrong", [{"min_devices": 1}, {"min_devices": 0}, {"cohort": 0}, {"deadline_s": 0.0}]
)
def test_rule_4_5_never_below_two_devices(wrong):
    with pytest.raises(ConfigError, match="must be at least 2"):
        rules(**wrong)


@pytest.mark.parametrize(
    ("base", "action"),
    [
        (HeadVersion(1, 7), Decline(Reason.GENERATION)),
        (HeadVersion(1, 6), Decline(Reason.GENERATION)),
        (HeadVersion(2, 4), Decline(Reason.LATE)),
        (HeadVersion(2, 5), Count(1 / math.sqrt(3))),
        (HeadVersion(2, 6), Count(1 / math.sqrt(2))),
        (CURRENT, Count(1.0)),
        (HeadVersion(2, 8), Defer()),
        (HeadVersion(3, 1), Defer()),
    ],
)
def test_staleness_and_generation(base, action):
    assert step(fresh(max_staleness=2), offered(base), 1.0)[1] == (action,)


def test_staleness_bound_zero_is_synchronous_fedavg():
    assert step(fresh(), offered(HeadVersion(2, 6)), 1.0)[1] == (Decline(Reason.LATE),)


def test_an_update_under_another_plan_of_this_generation_is_late():
    state = fresh(max_staleness=2)
    assert step(state, offered(HeadVersion(2, 6), same_plan=False), 1.0) == (state, (Decline(Reason.LATE),))
    older = offered(HeadVersion(1, 6), same_plan=False)
    assert step(state, older, 1.0)[1] == (Decline(Reason.GENERATION),)
    assert step(state, offered(HeadVersion(2, 9), same_plan=False), 1.0)[1] == (Defer(),)


def test_rule_4_2_one_counted_update_per_device_generation_and_base():
    state = fresh()
    assert step(state, offered(before=True), 1.0) == (state, (Decline(Reason.CLOSED),))


def test_a_buffer_that_may_not_grow_defers():
    state, actions = run(fresh(max_pending=2), *[(offered(), 1.0)] * 3)
    assert (actions, state.updates) == ((Defer(),), 2)


@pytest.mark.parametrize(
    ("claimed", "action"),
    [
        (HeadVersion(1, 99), Decline(Reason.GENERATION)),
        (HeadVersion(2, 8), Defer()),
        (HeadVersion(3, 1), Defer()),
        (HeadVersion(2, 6), None),
    ],
)
def test_unknown_heads(claimed, action):
    assert judge_unknown(CURRENT, claimed) == action


EVENTS = st.one_of(
    st.just(Ticked()),
    st.builds(
        Offered,
        base=st.builds(HeadVersion, st.integers(1, 3), st.integers(1, 9)),
        counted_before=st.booleans(),
        new_device=st.booleans(),
        same_plan=st.booleans(),
    ),
)


@given(
    events=st.lists(st.tuples(EVENTS, st.floats(0, 50))),
    cohort=st.integers(1, 6),
    least=st.integers(2, 4),
    stale=st.integers(0, 3),
)
def test_whatever_happens(events, cohort, least, stale):
    state, now_s = opened(rules(cohort=cohort, min_devices=least, max_staleness=stale), CURRENT, 0.0), 0.0
    counted = devices = 0
    for event, passed_s in events:
        now_s += passed_s
        state, actions = step(state, event, now_s)
        for action in actions:
            if isinstance(action, Count):
                assert isinstance(event, Offered)
                assert not event.counted_before
                assert event.base.generation == CURRENT.generation
                assert 0 <= CURRENT.version - event.base.version <= stale
                counted, devices = counted + 1, devices + event.new_device
            if isinstance(action, Close):
                assert devices >= least
                assert counted >= cohort or now_s >= state.deadline_s
        assert (state.updates, state.devices) == (counted, devices), "the buffer never shrinks by itself"
