"""What a decision costs: all probes and all gates, on this machine and on a board's recorded files.

A fresh window opens at each look, so that nothing is answered from memory but what the probes
keep on purpose (identities, lists of sensors, what programs said in the last minute).
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

from fedclient.scheduler.history import History
from fedclient.scheduler.policy import Now, Policy, decide
from fedclient.scheduler.probe import Probe
from fedclient.scheduler.profile import UNKNOWN_BOARD
from fedclient.scheduler.readings import Activity, SampleCounts

BOARD = "raspberry-pi-5"
CAPTURE = Path(__file__).parents[2] / "hardware" / "boards" / BOARD / "capture"
ACTIVITY = Activity(samples=SampleCounts(new=1000, distinct=1000))
SPACING_S = 0.1  # ten looks a second: the programs' minute passes once in 600 looks


def measure(looks: int) -> dict[str, Any]:
    found = {"this_machine": _measure(Path("/"), looks)}
    if CAPTURE.is_dir():
        found[BOARD.replace("-", "_")] = _measure(CAPTURE, looks)
    return found


def _measure(root: Path, looks: int) -> dict[str, Any]:
    started_s = time.perf_counter()
    probe = Probe(Path.cwd(), root=root, profile=UNKNOWN_BOARD)
    history = History()
    read_ms, decide_ms, first_ms = [], [], 0.0
    for look in range(looks + 1):
        at_s = time.perf_counter()
        readings = probe.read(ACTIVITY, look * SPACING_S)
        read_s = time.perf_counter()
        decision = decide(readings, Policy(), UNKNOWN_BOARD, history, Now(elapsed_s=look * SPACING_S))
        done_s = time.perf_counter()
        history = decision.history
        if look == 0:  # looks for sensors, and asks programs
            first_ms = 1e3 * (done_s - started_s)
            continue
        read_ms.append(1e3 * (read_s - at_s))
        decide_ms.append(1e3 * (done_s - read_s))
    both = [one + other for one, other in zip(read_ms, decide_ms, strict=True)]
    return {
        "looks": looks,
        "known_readings": sum(one["value"] is not None for one in readings.as_dict().values()),
        "first_ms": round(first_ms, 3),
        "read_ms": _spread(read_ms),
        "decide_ms": _spread(decide_ms),
        "both_ms": _spread(both),
    }


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 3),
        "p95": round(statistics.quantiles(values, n=20)[-1], 3),
    }
