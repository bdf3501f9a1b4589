"""As many as fit: never above the bound, hardly below it, in few tries."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedclient.codec.budget import most_that_fit


@dataclass(frozen=True)
class Body:
    count: int
    body: bytes


def writer(sizes):
    """Count the calls of a writer whose bodies of n elements have `sizes(n)` bytes."""
    tried = []

    def write(count: int) -> Body:
        assert count >= 1
        tried.append(count)
        return Body(count, bytes(sizes(count)))

    return write, tried


@given(
    per_element=st.floats(0.2, 3),
    head=st.integers(1, 9),
    everything=st.integers(1, 5000),
    guess=st.floats(0, 1),
    room=st.integers(1, 9000),
)
def test_what_is_found_fits_and_uses_the_room(per_element, head, everything, guess, room):
    def sizes(count):
        return head + int(per_element * count)

    write, tried = writer(sizes)
    found = most_that_fit(write, max(1, round(guess * everything)), everything, room)
    if found is None:
        assert sizes(1) > room
        return
    assert len(found.body) <= room
    assert len(found.body) >= 0.99 * room or found.count == everything or sizes(found.count + 1) > room
    assert len(tried) <= 6 + 13


def test_a_good_guess_is_the_only_try():
    write, tried = writer(lambda count: 2 * count)
    assert most_that_fit(write, 498, 9000, 1000).count == 498
    assert tried == [498]


def test_two_points_give_the_slope():
    write, tried = writer(lambda count: 20 + count // 5)
    assert len(most_that_fit(write, 100, 100_000, 10_000).body) >= 9_900
    assert len(tried) <= 5


@pytest.mark.parametrize("dip", [90, 300, 700])
def test_sizes_that_fall_for_a_while_end_the_search_too(dip):
    write, tried = writer(lambda count: count if count < dip else count - 60)
    found = most_that_fit(write, 650, 1000, 600)
    assert len(found.body) <= 600
    assert len(tried) <= 20
