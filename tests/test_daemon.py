from __future__ import annotations

import itertools
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedclient import daemon
from fedclient.errors import ConfigError, StorageFull


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


# --- what systemd is told ---------------------------------------------------------------------------


class Systemd:
    """The other end of sd_notify."""

    numbers = itertools.count()

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch, *, abstract: bool = False) -> None:
        name = f"@fedclient-{os.getpid()}-{next(self.numbers)}" if abstract else str(path / "notify")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + name[1:] if abstract else name)
        self.socket.settimeout(5.0)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        monkeypatch.delenv("WATCHDOG_PID", raising=False)

    def next(self) -> list[str]:
        return self.socket.recv(4096).decode().splitlines()

    def heard(self) -> list[str]:
        """All that was said up to now."""
        self.socket.settimeout(0)
        found = []
        while True:
            try:
                found += self.next()
            except BlockingIOError:
                return found


@pytest.fixture(params=[False, True], ids=["path", "abstract"])
def systemd(request, tmp_path, monkeypatch) -> Iterator[Systemd]:
    made = Systemd(tmp_path, monkeypatch, abstract=request.param)
    yield made
    made.socket.close()


class Told(Sleeper):
    """Looks at what systemd has heard at each step."""

    def __init__(self, systemd: Systemd, number: int | None = None) -> None:
        super().__init__(number)
        self.systemd = systemd
        self.seen: dict[str, list[str]] = {}

    def start(self, now_s: float) -> None:
        self.seen["start"] = self.systemd.heard()
        super().start(now_s)

    def service(self, ready, now_s: float) -> None:
        self.seen["service"] = self.systemd.heard()
        super().service(ready, now_s)

    def stop(self) -> None:
        self.seen["stop"] = self.systemd.heard()
        super().stop()


def test_ready_comes_after_the_start_and_stopping_before_the_stop(systemd) -> None:
    service = Told(systemd, signal.SIGTERM)
    assert daemon.run(service, headline=lambda _: "idle") == 0
    assert service.seen == {"start": [], "stop": ["READY=1", "STOPPING=1"]}


def test_the_status_is_told_when_it_changes(systemd) -> None:
    class Counter(Told):
        def deadline_s(self) -> float | None:
            return daemon.boottime_s()

        def service(self, _ready, _now_s: float) -> None:
            self.turns += 1

    service = Counter(systemd)
    assert daemon.run(service, lambda: service.turns >= 6, headline=lambda _: f"{service.turns // 3}") == 0
    assert service.seen["stop"] == ["READY=1", "STATUS=0", "STATUS=1", "STOPPING=1"]


def test_without_a_manager_nothing_is_said_and_one_that_is_gone_is_no_error(monkeypatch, tmp_path) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert daemon.run(Sleeper(signal.SIGTERM)) == 0
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    assert daemon.run(Sleeper(signal.SIGTERM)) == 0


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(daemon.time, "monotonic", made.monotonic)
    return made


def watched(**more: str) -> daemon.Manager:
    return daemon.Manager({**os.environ, "WATCHDOG_USEC": "90000000", **more})


def test_the_watchdog_is_fed_after_a_third_and_before_half_of_its_interval(systemd, clock) -> None:
    manager = watched(WATCHDOG_PID=str(os.getpid()))
    manager.ready()
    assert systemd.heard() == ["READY=1", "WATCHDOG=1"]
    assert manager.patience_s() == 45.0
    clock.now_s += 29.9
    manager.turned()
    assert systemd.heard() == []
    assert manager.patience_s() == pytest.approx(15.1)
    clock.now_s += 0.2
    manager.turned()
    assert systemd.heard() == ["WATCHDOG=1"]
    assert manager.patience_s() == 45.0
    clock.now_s += 100
    assert manager.patience_s() == 0.0


@pytest.mark.parametrize("more", [{"WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "0"}])
def test_a_watchdog_for_somebody_else_is_not_fed(systemd, clock, more) -> None:
    manager = watched(**more)
    manager.ready()
    clock.now_s += 1000
    manager.turned()
    assert systemd.heard() == ["READY=1"]
    assert manager.patience_s() == 3600


def test_food_that_nobody_took_is_offered_again(tmp_path, monkeypatch, clock) -> None:
    systemd = Systemd(tmp_path, monkeypatch)
    manager = watched()
    manager.ready()
    systemd.socket.close()
    clock.now_s += 50
    manager.turned()
    assert manager.patience_s() == 0.0


def test_the_loop_feeds_it_by_its_turns_only(systemd, monkeypatch) -> None:
    """A loop that sleeps is fed; one whose service hangs is not, whatever else runs in the process."""
    monkeypatch.setenv("WATCHDOG_USEC", "200000")

    class Hangs(Sleeper):
        def service(self, ready, now_s: float) -> None:
            super().service(ready, now_s)
            if self.turns == 5:
                before = systemd.heard()
                assert before[0] == "READY=1"
                assert before.count("WATCHDOG=1") >= 4
                time.sleep(0.5)
                assert systemd.heard() == []

    service = Hangs()
    started = time.monotonic()
    assert daemon.run(service, lambda: service.turns >= 6) == 0
    assert time.monotonic() - started >= 0.5 + 4 * 0.1  # it woke for half of the interval, no oftener
    assert systemd.heard()[-1] == "STOPPING=1"


# --- SIGHUP -----------------------------------------------------------------------------------------


def test_a_reload_ends_the_old_service_and_opens_the_new_one(systemd) -> None:
    order: list[str] = []

    class Named(Sleeper):
        def __init__(self, name: str, number: int) -> None:
            super().__init__(number)
            self.name = name
            order.append(f"{name} made")

        def stop(self) -> None:
            order.append(f"{self.name} stopped")

    def reload() -> daemon.Opener:
        order.append("settings read")
        return lambda: Named("new", signal.SIGTERM)

    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert daemon.run(Named("old", signal.SIGHUP), reload=reload) == 0
    assert order == ["old made", "settings read", "old stopped", "new made", "new stopped"]
    ready, reloading, at, again, stopping = systemd.heard()
    assert (ready, reloading, again, stopping) == ("READY=1", "RELOADING=1", "READY=1", "STOPPING=1")
    name, _, usec = at.partition("=")
    assert name == "MONOTONIC_USEC"
    assert before <= int(usec) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


def test_bad_settings_leave_the_old_service_running(systemd, caplog) -> None:
    service = Sleeper(signal.SIGHUP)

    def reload() -> daemon.Opener:
        os.kill(os.getpid(), signal.SIGTERM)
        raise ConfigError("config.toml: unknown key")

    assert daemon.run(service, reload=reload) == 0
    assert service.stopped == 1
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == "not reloaded, going on with the settings of before: config.toml: unknown key"
    said = [word for word in systemd.heard() if not word.startswith("MONOTONIC_USEC")]
    assert said == ["READY=1", "RELOADING=1", "READY=1", "STOPPING=1"]


def test_a_hangup_is_an_end_where_nothing_can_be_reloaded() -> None:
    class Waking(Sleeper):
        def deadline_s(self) -> float | None:
            return daemon.boottime_s() + 1.0  # so that one who is deaf to it fails, and does not hang

    service = Waking(signal.SIGHUP)
    assert daemon.run(service, lambda: service.turns >= 3) == 0
    assert (service.turns <= 1, service.stopped) == (True, 1)


# --- an end in time ---------------------------------------------------------------------------------

HANGS = {
    # as a look-up of a name does: in the C library, which goes on after a signal
    "in the C library": "mutex = (ctypes.c_char * 64)(); libc.pthread_mutex_lock(mutex);"
    "started(); libc.pthread_mutex_lock(mutex)",
    "in a connect": "started(); socket.create_connection(address, timeout=60)",
    "in Python": "started()\n        while True: pass",
}
HANGER = """
import ctypes, socket, sys
from fedclient import daemon
daemon.END_S = 0.3
libc, address = ctypes.CDLL(None), ("127.0.0.1", {port})
def started():
    print("hangs", flush=True)
class Hanger:
    def start(self, now_s):
        {hang}
    def stop(self): pass
daemon.run(Hanger())
"""


@pytest.fixture
def full_listener() -> Iterator[int]:
    """A port that takes no more connections: whoever tries waits."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = []
        for _ in range(4):
            one = socket.socket()
            one.settimeout(0)
            one.connect_ex(listener.getsockname())
            waiting.append(one)
        yield listener.getsockname()[1]
        for one in waiting:
            one.close()


@pytest.mark.parametrize("where", HANGS)
def test_sigterm_ends_it_in_time_wherever_it_hangs(where, full_listener) -> None:
    script = HANGER.format(hang=HANGS[where], port=full_listener)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"hangs\n"
        asked = time.monotonic()
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(10)
        finally:
            process.kill()
    took_s = time.monotonic() - asked
    assert code == -signal.SIGALRM
    assert took_s < 2.5  # END_S is 0.3 there; the rest is for a busy machine


def test_the_deadline_leaves_time_below_five_seconds() -> None:
    from fedclient.client.work import STOP_GRACE_S  # noqa: PLC0415

    assert STOP_GRACE_S + 1.0 <= daemon.END_S <= 4.5


def test_no_timer_and_no_thread_stay_behind() -> None:
    assert daemon.run(Sleeper(signal.SIGTERM)) == 0
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert [one.name for one in threading.enumerate() if one.name == "signals"] == []
