"""An agent that is only what the command line meets: a lock on the folder, and somebody at the socket."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from fedclient.client.console import Console
from fedclient.client.standing import report
from fedclient.device.folder import DeviceFolder
from fedclient.scheduler.check import Now
from fedclient.scheduler.history import History
from fedclient.scheduler.policy import decide
from fedclient.scheduler.profile import Profile
from fedclient.scheduler.readings import Activity, Reading, Readings, SampleCounts
from fedclient.scheduler.schedule import Policy
from fedclient.session import State

FINE = Readings(
    power=Reading("mains", "power_supply"),
    temp_c=Reading(40.0, "thermal_zone0/temp"),
    cpu_percent=Reading(3.0, "/proc/stat"),
    cpu_cap_percent=Reading(100.0, "cpufreq"),
    free_memory_mib=Reading(900.0, "/proc/meminfo"),
    free_disk_mib=Reading(900.0, "statvfs"),
    activity=Activity(samples=SampleCounts(new=60, distinct=60)),
)

_NOT_THERE = (
    "under_voltage", "throttled", "temp_c", "psi_cpu_percent", "network", "metered", "graphical_session",
)  # fmt: skip
BARE = Profile(name="bare", title="Bare", missing=dict.fromkeys(_NOT_THERE, "it has none"))


class Answers:
    """What an agent answers by the contract, on readings and at a device time that the test sets."""

    def __init__(self, state: State = State(), readings: Readings = FINE) -> None:  # noqa: B008 - frozen
        self.state, self.readings = state, readings
        self.history, self.now_s = History(), 10_000.0
        self.notes: list[str] = []
        self.asked: list[dict] = []

    def __call__(self, request: dict) -> dict[str, object]:
        self.asked.append(request)
        if request["ask"] == "pause":
            seconds = request["seconds"]
            self.history = replace(
                self.history, owner_hold_s=self.now_s + seconds if seconds else float("inf")
            )
        elif request["ask"] == "resume":
            self.history = replace(self.history, owner_hold_s=None)
        decision = decide(self.readings, Policy(), BARE, self.history, Now(elapsed_s=self.now_s))
        self.history = decision.history
        return report(self.state, decision, self.notes)


@contextmanager
def running(folder: DeviceFolder, answer: Callable[[dict], dict]) -> Iterator[None]:
    """Have the folder, and answer who asks, until the end of the block."""
    lock, console = folder.lock(), Console(folder.path, answer)
    ended, end = os.pipe()

    def serve() -> None:
        while True:
            poll = select.poll()
            poll.register(ended, select.POLLIN | select.POLLHUP)
            for number, events in console.interests().items():
                poll.register(number, events)
            ready = {number for number, _ in poll.poll()}
            if ended in ready:
                return
            console.service(ready)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        os.close(end)
        thread.join()
        console.close()
        os.close(ended)
        os.close(lock)
