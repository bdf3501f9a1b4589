"""Drive an agent or a gateway: one selector loop, signals, an orderly end.

The loop sleeps until the next descriptor, deadline or signal; it never wakes to look.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import time
from collections.abc import Callable, Collection
from contextlib import ExitStack
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from typing_extensions import Self

_MAX_SLEEP_S = 3600.0  # boot time runs on while a machine sleeps; select's timeout does not


class Service(Protocol):
    """What the loop drives; times are boot-time seconds."""

    def start(self, now_s: float) -> None: ...
    def interests(self) -> dict[int, int]: ...
    def deadline_s(self) -> float | None: ...
    def service(self, ready: Collection[int], now_s: float) -> None: ...
    def stop(self) -> None: ...


def boottime_s() -> float:
    """Seconds since boot, time asleep included: the only clock that intervals are measured with."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def run(service: Service, done: Callable[[], bool] = lambda: False) -> int:
    """Run `service` until SIGTERM, SIGINT or `done`; returns 0, or 130 after SIGINT."""
    loop = _Loop(service)
    with ExitStack() as stack:
        signals = stack.enter_context(_Signals())
        stack.callback(service.stop)
        service.start(boottime_s())
        while not signals.received and not done():
            loop.turn(signals.descriptor)
    return 130 if signals.received == signal.SIGINT else 0


class _Loop:
    """One `select`, then one `service`.  The selector lives between turns: most change nothing.

    poll(2): epoll drops a descriptor when it is closed, so another one that gets its number within
    the same turn (a trainer's pipe that of a lost connection) would never wake us.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._selector = selectors.PollSelector()

    def turn(self, wake_up: int) -> None:
        self._watch({**self._service.interests(), wake_up: selectors.EVENT_READ})
        deadline_s = self._service.deadline_s()
        sleep_s = _MAX_SLEEP_S if deadline_s is None else max(0.0, deadline_s - boottime_s())
        ready = {key.fd for key, _ in self._selector.select(min(sleep_s, _MAX_SLEEP_S))}
        if wake_up in ready:
            os.read(wake_up, 64)
        self._service.service(ready, boottime_s())

    def _watch(self, wanted: dict[int, int]) -> None:
        watched = {key.fd: key.events for key in self._selector.get_map().values()}
        for descriptor in watched.keys() - wanted.keys():
            self._selector.unregister(descriptor)
        for descriptor, events in wanted.items():
            if descriptor not in watched:
                self._selector.register(descriptor, events)
            elif watched[descriptor] != events:
                self._selector.modify(descriptor, events)


class _Signals:
    """SIGTERM and SIGINT as a readable descriptor, so that no signal is missed before a select."""

    def __init__(self) -> None:
        self.received: int = 0
        self._read, self._write = socket.socketpair()

    @property
    def descriptor(self) -> int:
        return self._read.fileno()

    def __enter__(self) -> Self:
        self._write.setblocking(False)  # noqa: FBT003 - the library's signature
        self._before_fd = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        self._before = {
            number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._before_fd)
        self._read.close()
        self._write.close()

    def _note(self, number: int, _: object) -> None:
        self.received = number
