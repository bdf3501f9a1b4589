"""The receive window: any order, each counter once, whatever comes; compared with a plain set."""

from __future__ import annotations

import random
from typing import Any

import pytest

from fedclient.errors import WireError
from fedclient.limits import MAX_NODE_COUNTER, NODE_WINDOW
from fedclient.nodes.window import Window


def test_in_order_the_floor_rises() -> None:
    window = Window()
    for counter in range(1, 3000):
        assert not window.has(counter)
        window = window.take(counter)
        assert window == Window(counter, 0)
    assert window.has(1)
    assert window.next == 3000


def test_gaps_are_ranges_until_they_close() -> None:
    window = Window()
    for counter in (3, 4, 9, 7):
        window = window.take(counter)
    assert (window.next, window.ranges(64)) == (1, ((3, 2), (7, 1), (9, 1)))
    assert window.ranges(2) == ((3, 2), (7, 1))
    window = window.take(1).take(2)
    assert (window.next, window.ranges(64)) == (5, ((7, 1), (9, 1)))


def test_the_edge_of_the_window() -> None:
    window = Window().take(NODE_WINDOW)
    assert window.floor == 0
    further = window.take(NODE_WINDOW + 1)
    assert further.floor == 1
    assert further.has(1)  # given up
    assert not further.has(2)
    assert further.ranges(64) == ((NODE_WINDOW, 2),)


@pytest.mark.parametrize("jump", [NODE_WINDOW + 1, 2 * NODE_WINDOW, 2**40, MAX_NODE_COUNTER])
def test_a_jump_gives_up_what_is_missing(jump: int) -> None:
    window = Window().take(1).take(3).take(jump)
    assert window.floor == jump - NODE_WINDOW
    assert window.has(jump)
    assert not window.has(jump - 1)


def test_a_full_window_but_its_first() -> None:
    window = Window()
    for counter in range(2, NODE_WINDOW + 1):
        window = window.take(counter)
    assert window.ranges(64) == ((2, NODE_WINDOW - 1),)
    assert window.take(1) == Window(NODE_WINDOW, 0)
    assert window.take(NODE_WINDOW + 1) == Window(NODE_WINDOW + 1, 0)  # 1 is given up


@pytest.mark.parametrize("seed", range(20))
def test_against_a_set(seed: int) -> None:
    chance = random.Random(seed)
    window, taken, floor, top = Window(), set(), 0, 0
    for step in range(1500):
        counter = max(
            1, top + chance.choice((1, 1, 1, 2, 5, 300)) - chance.randrange(chance.choice((1, 9, 1400)))
        )
        fresh = counter > floor and counter not in taken
        assert window.has(counter) is not fresh
        if not fresh:
            continue
        window = window.take(counter)
        taken.add(counter)
        top, floor = max(top, counter), max(floor, counter - NODE_WINDOW)
        while floor + 1 in taken:
            floor += 1
        assert window.floor == floor
        if step % 20:
            continue
        named = {one for first, count in window.ranges(NODE_WINDOW) for one in range(first, first + count)}
        assert named == {one for one in taken if one > floor}
        assert Window.stored(window.floor, window.bits()) == window


@pytest.mark.parametrize(
    ("floor", "taken"),
    [
        (0, bytes(127)),
        (0, b"\1" + bytes(127)),
        (-1, bytes(128)),
        (0.5, bytes(128)),
        ("0", bytes(128)),
        (0, "0" * 128),
    ],
)
def test_what_was_not_written_by_us_is_refused(floor: Any, taken: Any) -> None:
    with pytest.raises(WireError):
        Window.stored(floor, taken)
