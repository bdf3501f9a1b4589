"""How long a replayed week takes, and how small a recorded one is: prints one JSON object."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from fedclient import boards
from fedclient.scheduler.replay import Terms, replay
from fedclient.scheduler.schedule import Policy
from fedclient.scheduler.trace import decode
from fedclient.testing import week

DAYS = 7
BOARD = next(one for one in boards.load_all() if one.name == "raspberry-pi-4b")
ALWAYS = replace(Policy(), daily_training_s=None, min_spacing_s=0.0)  # trains all week, looks every 5 s


def measure(kind: str) -> dict[str, Any]:
    lines = list(week.lines(kind, days=DAYS))
    size = sum(len(line) for line in lines)
    found: dict[str, Any] = {
        "bytes_per_line": round(size / len(lines), 1),
        "bytes_per_day": round(size / DAYS),
    }
    policies = {"defaults": Policy(), **({"always": ALWAYS} if kind == "busy" else {})}
    for name, policy in policies.items():
        begun = time.perf_counter()
        done = replay(decode(lines).points, Terms(policy=policy, profile=BOARD))
        seconds = round(time.perf_counter() - begun, 2)
        found[name] = {"seconds": seconds, "training_s": done.totals.training_s, "jobs": done.totals.jobs}
    return found


if __name__ == "__main__":
    print(json.dumps({kind: measure(kind) for kind in week.KINDS}))
