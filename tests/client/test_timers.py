"""Deadlines by name, and pauses that double."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from fedclient.client.timers import Backoff, Timer, Timers


def test_due_timers_come_once_and_in_order() -> None:
    timers = Timers()
    assert timers.earliest_s() is None
    timers.set(Timer.STATUS, 30.0)
    timers.set(Timer.OFFER, 20.0)
    timers.set(Timer.CONNECT, 40.0)
    assert timers.earliest_s() == 20.0
    assert timers.take_due(19.9) == []
    assert timers.take_due(30.0) == [Timer.OFFER, Timer.STATUS]
    assert timers.take_due(30.0) == []
    assert timers.earliest_s() == 40.0


def test_set_replaces_hasten_only_brings_forward_clear_forgets() -> None:
    timers = Timers()
    timers.hasten(Timer.OFFER, 20.0)
    timers.hasten(Timer.OFFER, 30.0)
    assert timers.earliest_s() == 20.0
    timers.hasten(Timer.OFFER, 10.0)
    assert timers.earliest_s() == 10.0
    timers.set(Timer.OFFER, 50.0)
    assert timers.earliest_s() == 50.0
    assert timers.is_set(Timer.OFFER)
    timers.clear(Timer.OFFER)
    timers.clear(Timer.OFFER)
    assert not timers.is_set(Timer.OFFER)


@given(st.integers(0, 2**32), st.floats(0.1, 10), st.floats(1, 100))
def test_pauses_double_up_to_the_longest_and_are_spread(seed, shortest, factor) -> None:
    longest = shortest * factor
    backoff = Backoff(shortest, longest, random.Random(seed))
    for turn in range(12):
        span = min(longest, shortest * 2**turn)
        assert span / 2 * 0.999 <= backoff.next_s() <= span * 1.001
    backoff.reset()
    assert backoff.next_s() <= shortest


def test_two_devices_do_not_come_at_once() -> None:
    pauses = {Backoff(5.0, 300.0, random.Random(seed)).next_s() for seed in range(20)}
    assert len(pauses) == 20
