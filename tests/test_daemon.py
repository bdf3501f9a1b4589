from __future__ import annotations

import os
import selectors
import signal
import threading
from pathlib import Path

import pytest

from fedclient import daemon
from fedclient.errors import StorageFull


class Reuser:
    """Closes its descriptor and opens another of its number in one call: a lost link, then a trainer."""

    def __init__(self):
        self.reader, self.writer = os.pipe()
        self.woken_by_second = False
        self.turns = 0
        self.first = True

    def start(self, _now_s):
        os.write(self.writer, b".")

    def interests(self):
        return {self.reader: selectors.EVENT_READ}

    def deadline_s(self):
        return daemon.boottime_s() + 2.0  # so that a deaf loop fails the test instead of hanging it

    def service(self, ready, _now_s):
        self.turns += 1
        if self.first:
            self.first = False
            number = self.reader
            os.close(self.reader)
            os.close(self.writer)
            reader, self.writer = os.pipe()
            assert number in {reader, self.writer}
            if self.writer == number:
                self.writer = os.dup(self.writer)
            os.dup2(reader, number)
            self.reader = number
            os.write(self.writer, b".")
        elif self.reader in ready:
            self.woken_by_second = True

    def stop(self):
        os.close(self.reader)
        os.close(self.writer)


def test_a_descriptor_with_the_number_of_one_just_closed_wakes_the_loop():
    service = Reuser()
    assert daemon.run(service, done=lambda: service.turns >= 2) == 0
    assert service.woken_by_second


class Sleeper:
    """A service that has nothing to do, and sends its own process a signal when it begins."""

    def __init__(self, number: int | None = None, *, fails: bool = False) -> None:
        self.number, self.fails = number, fails
        self.turns, self.stopped = 0, 0

    def start(self, _now_s: float) -> None:
        if self.fails:
            raise StorageFull("no room")
        if self.number is not None:
            os.kill(os.getpid(), self.number)

    def interests(self) -> dict[int, int]:
        return {}

    def deadline_s(self) -> float | None:
        return None

    def service(self, _ready, _now_s: float) -> None:
        self.turns += 1

    def stop(self) -> None:
        self.stopped += 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_it_in_good_order(number, code) -> None:
    before = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]
    service = Sleeper(number)
    assert daemon.run(service) == code
    assert service.stopped == 1
    assert [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)] == before


def test_a_signal_during_the_wait_wakes_it() -> None:
    service = Sleeper()
    timer = threading.Timer(0.05, os.kill, [os.getpid(), signal.SIGTERM])
    timer.start()
    assert daemon.run(service) == 0
    timer.join()
    assert service.turns == 1  # it slept until then


def test_it_is_stopped_when_it_is_done_and_when_it_cannot_start() -> None:
    service = Sleeper()
    assert daemon.run(service, done=lambda: True) == 0
    assert (service.turns, service.stopped) == (0, 1)
    failing = Sleeper(fails=True)
    with pytest.raises(StorageFull):
        daemon.run(failing)
    assert failing.stopped == 1


def test_no_descriptor_is_left_behind() -> None:
    def count() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = count()
    for _ in range(3):
        daemon.run(Sleeper(signal.SIGTERM))
    assert count() == before
