"""A board whose /proc and /sys can be changed under a running agent: `fedclient run --root`.

board = Board(folder)                          # a Raspberry Pi 4 with a battery, all in order
with VIOLATIONS["temperature"](board): ...     # it is hot as long as the block lasts
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from fedclient import boards

_FILES = {
    "temperature": "sys/class/thermal/thermal_zone0/temp",
    "supply": "sys/class/hwmon/hwmon1/in0_lcrit_alarm",
    "status": "sys/class/power_supply/BAT0/status",
    "capacity": "sys/class/power_supply/BAT0/capacity",
    "memory": "proc/meminfo",
}


class Board:
    """A copy of a board's capture, below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        shutil.copytree(boards.installed() / "raspberry-pi-4b" / "capture", root)
        battery = root / "sys/class/power_supply/BAT0"
        battery.mkdir(parents=True)
        for name, value in {"type": "Battery", "status": "Charging", "capacity": "80"}.items():
            (battery / name).write_text(f"{value}\n")

    @contextmanager
    def says(self, **files: str) -> Iterator[None]:
        """Put these texts into its files, each at once, and back afterwards."""
        paths = {_FILES[name]: text for name, text in files.items()}
        before = {path: (self.root / path).read_text() for path in paths}
        for path, text in paths.items():
            self._replace(path, text)
        yield
        for path, text in before.items():
            self._replace(path, text)

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Let other programs use all four cores from now on."""
        first, _, rest = (self.root / "proc/stat").read_text().partition("\n")
        ticks = [int(number) for number in first.split()[1:]]
        done = threading.Event()

        def work() -> None:
            while not done.wait(0.1):
                ticks[0] += 40
                self._replace("proc/stat", f"cpu  {' '.join(map(str, ticks))}\n{rest}")

        worker = threading.Thread(target=work)
        worker.start()
        try:
            yield
        finally:
            done.set()
            worker.join()
            ticks[3] += 100_000  # idle since
            self._replace("proc/stat", f"cpu  {' '.join(map(str, ticks))}\n{rest}")

    def _replace(self, path: str, text: str) -> None:
        fresh = self.root / f"{path}.new"
        fresh.write_text(text)
        fresh.replace(self.root / path)


VIOLATIONS: dict[str, Callable[[Board], AbstractContextManager[None]]] = {
    "temperature": lambda board: board.says(temperature="79500\n"),
    "supply": lambda board: board.says(supply="1\n"),
    "power": lambda board: board.says(status="Discharging\n", capacity="31\n"),
    "memory": lambda board: board.says(memory="MemTotal: 3884372 kB\nMemAvailable: 40000 kB\n"),
    "load": lambda board: board.busy(),
}
