"""Drive an agent or a gateway: one selector loop, signals, an orderly end, and what systemd wants to hear.

The loop sleeps until the next descriptor, deadline or signal; it never wakes to look.  Only the
watchdog of the service manager shortens that sleep, to half of its interval.  It is fed by this
loop's own turns: whatever keeps the loop from turning ends in a restart.

SIGTERM and SIGINT end the service in good order, and the process within END_S, whatever it hangs in:
all state is committed before it is acted on, so a hard end loses nothing.  SIGHUP reloads.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import socket
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Protocol

from fedclient.errors import FedClientError

if TYPE_CHECKING:
    from typing_extensions import Self

log = logging.getLogger(__name__)

END_S = 4.5  # from SIGTERM to the end; the trainer has `client.work.STOP_GRACE_S` of it
_MAX_SLEEP_S = 3600.0  # boot time runs on while a machine sleeps; select's timeout does not
_NOTIFY_S = 1.0  # how long a word to a busy service manager may take
_ENDS = (signal.SIGTERM, signal.SIGINT)


class Service(Protocol):
    """What the loop drives; times are boot-time seconds."""

    def start(self, now_s: float) -> None: ...
    def interests(self) -> dict[int, int]: ...
    def deadline_s(self) -> float | None: ...
    def service(self, ready: Collection[int], now_s: float) -> None: ...
    def stop(self) -> None: ...


Opener = Callable[[], Service]  # makes the new service, once the old one has ended


def boottime_s() -> float:
    """Seconds since boot, time asleep included: the only clock that intervals are measured with."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def run(
    service: Service,
    done: Callable[[], bool] = lambda: False,
    *,
    reload: Callable[[], Opener] | None = None,
    headline: Callable[[Service], str] | None = None,
) -> int:
    """Run `service` until SIGTERM, SIGINT or `done`; returns 0, or 130 after SIGINT.

    On SIGHUP `reload` reads the settings and returns what opens the service on them; then the old one
    is stopped.  When it raises a FedClientError the old one goes on.  Without `reload`, SIGHUP is an
    end like SIGTERM.  `headline` says in one line what a service is doing (`systemctl status`).
    """
    manager = Manager(os.environ)

    def serve(service: Service) -> Opener | None:
        """Run one service to its end; returns what opens the next one."""
        following = None
        with ExitStack() as stack:
            stack.callback(service.stop)
            loop = _Loop(service, manager)
            service.start(boottime_s())
            manager.ready()
            while following is None and not signals.ended(reload) and not done():
                if headline is not None:
                    manager.status(headline(service))
                loop.turn(signals.descriptor)
                if reload is not None and signals.take_hangup():
                    following = _renewed(reload, manager)
            if following is None:
                manager.stopping()
        return following

    with _Signals() as signals:
        following = serve(service)
        while following is not None:
            following = serve(following())
    return 130 if signals.received == signal.SIGINT else 0


def _renewed(reload: Callable[[], Opener], manager: Manager) -> Opener | None:
    """Ask for a service on new settings; None when they are no good."""
    manager.reloading()
    try:
        opener = reload()
    except FedClientError as error:
        log.error("not reloaded, going on with the settings of before: %s", error)
        manager.ready()
        return None
    log.info("reloading")
    return opener


class Manager:
    """The service manager, by sd_notify(3): what it is told, and its watchdog.  Without one: nothing."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        interval = environment.get("WATCHDOG_USEC", "")
        meant = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        fed = bool(self._address) and meant and interval.isascii() and interval.isdigit()
        self._interval_s = int(interval) / 1e6 if fed else 0.0
        self._fed_s = time.monotonic()  # a watchdog does not count the time asleep either
        self._status = ""

    def ready(self) -> None:
        """The service has started, or goes on after a reload."""
        self._say("READY=1")
        self._feed()

    def reloading(self) -> None:
        """Until `ready` comes again."""
        self._say(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """The end begins."""
        self._say("STOPPING=1")

    def status(self, line: str) -> None:
        """Tell what the service is doing, when that has changed."""
        if line != self._status and self._say(f"STATUS={line}"):
            self._status = line

    def turned(self) -> None:
        """The loop has made progress: feed the watchdog, if a third of its interval has passed."""
        if self._interval_s and time.monotonic() - self._fed_s >= self._interval_s / 3:
            self._feed()

    def patience_s(self) -> float:
        """How long the loop may sleep so that the watchdog is fed after half of its interval."""
        if not self._interval_s:
            return _MAX_SLEEP_S
        return max(0.0, self._fed_s + self._interval_s / 2 - time.monotonic())

    def _feed(self) -> None:
        if self._interval_s and self._say("WATCHDOG=1"):
            self._fed_s = time.monotonic()

    def _say(self, words: str) -> bool:
        if not self._address:
            return False
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.settimeout(_NOTIFY_S)
            manager.sendto(words.encode(), self._address)
            return True
        return False


class _Loop:
    """One `select`, then one `service`.  The selector lives between turns: most change nothing.

    poll(2): epoll drops a descriptor when it is closed, so another one that gets its number within
    the same turn (a trainer's pipe that of a lost connection) would never wake us.
    """

    def __init__(self, service: Service, manager: Manager) -> None:
        self._service = service
        self._manager = manager
        self._selector = selectors.PollSelector()

    def turn(self, wake_up: int) -> None:
        self._watch({**self._service.interests(), wake_up: selectors.EVENT_READ})
        deadline_s = self._service.deadline_s()
        sleep_s = _MAX_SLEEP_S if deadline_s is None else max(0.0, deadline_s - boottime_s())
        sleep_s = min(sleep_s, _MAX_SLEEP_S, self._manager.patience_s())
        ready = {key.fd for key, _ in self._selector.select(sleep_s)}
        if wake_up in ready:
            os.read(wake_up, 64)
        self._service.service(ready, boottime_s())
        self._manager.turned()

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
    """Signals as a readable descriptor, so that none is missed before a select; and the end's deadline.

    A handler of Python waits until the main thread comes back from the C library, which may be looking
    up a name for a minute.  So a thread reads what C's own handler writes, and winds up the kernel's
    timer: SIGALRM ends the process END_S later, wherever it is.  The thread sleeps in `recv` otherwise.
    """

    def __init__(self) -> None:
        self.received: int = 0
        self._hangup = False
        self._read, self._write = socket.socketpair()
        self._noted, self._note_to = socket.socketpair()
        self._thread = threading.Thread(target=self._forward, name="signals", daemon=True)

    @property
    def descriptor(self) -> int:
        return self._read.fileno()

    def ended(self, reload: object) -> bool:
        """Whether a signal came that means an end; a hangup does where nothing can be reloaded."""
        return bool(self.received) or (self._hangup and reload is None)

    def take_hangup(self) -> bool:
        """Whether SIGHUP came since the last call."""
        hangup, self._hangup = self._hangup, False
        return hangup

    def __enter__(self) -> Self:
        self._thread.start()
        for one in (self._write, self._note_to):
            one.setblocking(False)  # noqa: FBT003 - the library's signature
        self._before_fd = signal.set_wakeup_fd(self._note_to.fileno(), warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, self._note) for number in (*_ENDS, signal.SIGHUP)}
        self._before[signal.SIGALRM] = signal.signal(signal.SIGALRM, signal.SIG_DFL)
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._before_fd)
        self._note_to.close()  # the thread reads what is left in it, then the end
        self._thread.join()
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        for one in (self._read, self._write, self._noted):
            one.close()

    def _note(self, number: int, _: object) -> None:
        if number == signal.SIGHUP:
            self._hangup = True
        else:
            self.received = number

    def _forward(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {*_ENDS, signal.SIGHUP})  # they are for the main thread
        while numbers := self._noted.recv(64):
            if set(numbers) & set(_ENDS) and not any(signal.getitimer(signal.ITIMER_REAL)):
                signal.setitimer(signal.ITIMER_REAL, END_S)
            with suppress(OSError):  # full: it is awake anyway
                self._write.send(numbers)
