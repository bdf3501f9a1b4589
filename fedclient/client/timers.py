"""Named deadlines in boot-time seconds: the agent sleeps until the earliest."""

from __future__ import annotations

import random
from enum import Enum


class Timer(str, Enum):
    """What can be due."""

    ADOPT = "adopt"  # judge the head at hand; by its name before `decide`, which asks about training on it
    CONNECT = "connect"  # try the broker again
    OFFER = "offer"  # publish again what has no answer
    DECIDE = "decide"  # ask the scheduler
    STATUS = "status"  # tell the gateway how it is going
    INVITATION = "invitation"  # look whether `fedclient enroll` was run
    TAKE_UP = "take_up"  # go on after a failing disk
    FETCH = "fetch"  # try again what was poisoned, or held back


class Timers:
    """A deadline for each timer that is set."""

    def __init__(self) -> None:
        self._due_s: dict[Timer, float] = {}

    def set(self, timer: Timer, at_s: float) -> None:
        self._due_s[timer] = at_s

    def hasten(self, timer: Timer, at_s: float) -> None:
        """Set a timer unless it is due earlier anyway."""
        self._due_s[timer] = min(at_s, self._due_s.get(timer, at_s))

    def clear(self, timer: Timer) -> None:
        self._due_s.pop(timer, None)

    def is_set(self, timer: Timer) -> bool:
        return timer in self._due_s

    def earliest_s(self) -> float | None:
        return min(self._due_s.values(), default=None)

    def take_due(self, now_s: float) -> list[Timer]:
        """Return the timers that are due, earliest first, and clear them."""
        due = sorted((at, timer) for timer, at in self._due_s.items() if at <= now_s)
        for _, timer in due:
            del self._due_s[timer]
        return [timer for _, timer in due]


class Backoff:
    """Pauses that double, each drawn from the upper half of its span: a fleet never comes all at once."""

    def __init__(self, shortest_s: float, longest_s: float, source: random.Random) -> None:
        self._shortest_s, self._longest_s = shortest_s, longest_s
        self._source = source
        self._span_s = shortest_s

    def next_s(self) -> float:
        """Return how long to wait now."""
        span_s = self._span_s
        self._span_s = min(self._longest_s, 2 * span_s)
        return self._source.uniform(span_s / 2, span_s)

    def reset(self) -> None:
        """Begin again with the shortest pause: something answered."""
        self._span_s = self._shortest_s
