"""One round of a device, split by stage: wall time, and the processor time of every process in it.

A stage ends with something that can be seen from outside: a log line of agent or trainer, or a message
that the observer gets from the broker at the same time as they do.  Fsyncs are counted in a second run
under strace, whose times are of no use.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from statistics import median
from typing import Any

import process
from rig import FEDERATION, PATIENCE_S, Process, Rig, Seen

from fedclient.daemon import boottime_s
from fedclient.device.database import open_database
from fedclient.device.journal import Journal

# name, source, what ends it.  The order is that of a round.
STAGES = (
    ("fetched", "agent", "fetching -> waiting"),
    ("decided", "agent", "waiting -> training"),
    ("trainer_started", "agent", "trainer: head"),
    ("trained", "agent", "trainer: trained"),
    ("packed_and_committed", "agent", "trainer: update handed over"),
    ("trainer_gone", "agent", "training -> sending"),
    ("published", "mqtt", "/{device}/update"),
    ("receipt", "mqtt", "/{device}/receipt"),
    ("settled", "agent", "sending -> "),
)
NOT_OURS = ("trainer_started", "trained")  # what the target leaves out
MANIFEST = f"fl/v1/{FEDERATION}/all/manifest"
_FSYNC = re.compile(r"^\d+ +(\d+\.\d+) f(?:data)?sync\(\d+<([^>]*)>")


@dataclass(frozen=True, kw_only=True)
class Round:
    """One round: when each stage ended (CLOCK_BOOTTIME), and what the round cost."""

    started_s: float
    ended_s: dict[str, float]
    cpu_s: dict[str, float]
    traffic: tuple[int, int]  # bytes up and down
    update_bytes: int  # with the MQTT header

    def stages_ms(self) -> dict[str, float]:
        # log lines and messages overtake each other on their way here: no stage ends before the one before
        times = list(accumulate([self.started_s, *(self.ended_s[name] for name, _, _ in STAGES)], max))
        return {
            name: 1e3 * (end - start)
            for (name, _, _), start, end in zip(STAGES, times, times[1:], strict=False)
        }

    def stage_at(self, at_s: float) -> str | None:
        """Name the stage that an instant falls into."""
        if at_s < self.started_s:
            return None
        return next((name for name, _, _ in STAGES if at_s <= self.ended_s[name]), None)


def measure(rounds: int, broker: str, folder: str | None) -> dict[str, Any]:
    """Time `rounds` rounds with the state below `folder` (None: where temporary files are)."""
    with tempfile.TemporaryDirectory(dir=folder) as path, Rig(Path(path), broker_kind=broker) as rig:
        agent = begin(rig)
        watch = Watch(rig, agent)
        watch.next_round()  # the first one also brings the model, and warms up
        found = [watch.next_round() for _ in range(rounds)]
        reports = [one.report for one in Journal(open_database(rig.device)).rounds()]
        return {
            "broker": rig.broker_name,
            "state_folder": folder or tempfile.gettempdir(),
            "rounds": rounds,
            **_summary(found),
            "trainer_peak_pss_mib": round(max(float(str(one["peak_pss_mib"])) for one in reports), 1),
            "trainer_peak_pss_as_only_python_mib": round(watch.peak_mib, 1),
        }


def _summary(found: list[Round]) -> dict[str, Any]:
    stages = [one.stages_ms() for one in found]
    ours = [sum(ms for name, ms in one.items() if name not in NOT_OURS) for one in stages]
    sizes = [one.update_bytes for one in found]
    return {
        "stages_ms": {name: round(median(one[name] for one in stages), 2) for name in stages[0]},
        "total_ms": round(median(sum(one.values()) for one in stages), 1),
        "without_training_and_start_ms": round(median(ours), 1),
        "without_training_and_start_least_ms": round(min(ours), 1),
        "cpu_ms": {name: round(1e3 * median(one.cpu_s[name] for one in found), 2) for name in found[0].cpu_s},
        "bytes_up": median(one.traffic[0] for one in found),
        "bytes_down": median(one.traffic[1] for one in found),
        "update_bytes": {"mean": round(sum(sizes) / len(sizes), 1), "most": max(sizes)},
    }


class Watch:
    """Follows the device under test from round to round."""

    def __init__(self, rig: Rig, agent: Process) -> None:
        self._rig, self._agent = rig, agent
        self._read = {"agent": 0, "mqtt": 0}  # of rig.seen
        self._looked_at = 0
        self._trainer = 0
        self.peak_mib = 0.0

    def next_round(self) -> Round:
        """Wait for the next manifest, then for the end of each stage."""
        traffic, cpu_s = self._traffic(), self._cpu_s()
        started_s = self._next("mqtt", MANIFEST).at_s
        ended, update_bytes = {}, 0
        for name, source, text in STAGES:
            seen = self._next(source, text.format(device=self._rig.device_id))
            ended[name] = seen.at_s
            if name == "published":
                update_bytes = seen.size
        after, cpu_after = self._traffic(), self._cpu_s()
        return Round(
            started_s=started_s,
            ended_s=ended,
            cpu_s={name: cpu_after[name] - spent for name, spent in cpu_s.items()},
            traffic=(after[0] - traffic[0], after[1] - traffic[1]),
            update_bytes=update_bytes,
        )

    def _next(self, source: str, text: str) -> Seen:
        """Return the next thing seen from `source` with `text` in it; what comes before is passed over."""
        until_s = boottime_s() + PATIENCE_S
        while boottime_s() < until_s:
            # log lines and messages overtake each other on their way here: each kind has its own order
            for at in range(self._read[source], len(self._rig.seen)):
                seen = self._rig.seen[at]
                if seen.source == source and text in seen.text:
                    self._read[source] = at + 1
                    return seen
            self._rig.turn(0.2)
            for seen in self._rig.seen[self._looked_at :]:
                self._look_at_trainer(seen)
            self._looked_at = len(self._rig.seen)
        last = "\n".join(f"{one.source}: {one.text}" for one in self._rig.seen[-20:])
        raise TimeoutError(f"no {text!r} of {source} within {PATIENCE_S:g} s\n{last}")

    def _look_at_trainer(self, seen: Seen) -> None:
        """Read the trainer's memory when training is over."""
        if found := re.search(r"training on head .* pid=(\d+)", seen.text):
            self._trainer = int(found[1])
        with suppress(OSError):  # gone already
            if "trainer: head" in seen.text or "trainer: trained" in seen.text:
                self.peak_mib = max(self.peak_mib, process.memory(self._trainer).alone)

    def _cpu_s(self) -> dict[str, float]:
        pids = {"agent": self._agent.pid, "gateway": self._rig.gateway.pid, "broker": self._rig.broker_pid}
        return {name: process.cpu_s(pid) for name, pid in pids.items()} | {
            "trainer": process.children_cpu_s(self._agent.pid)
        }

    def _traffic(self) -> tuple[int, int]:
        """Return bytes up and down as the agent counts them; it does so when an update is settled."""
        database = open_database(self._rig.device)
        try:
            counters = Journal(database).counters()
        finally:
            database.close()
        return counters.get("bytes_up", 0), counters.get("bytes_down", 0)


def count_fsyncs(rounds: int, broker: str) -> dict[str, Any] | None:
    """Count what one round flushes to the disk, by stage and file; None without strace."""
    strace = shutil.which("strace")
    if strace is None:
        return None
    with tempfile.TemporaryDirectory() as path, Rig(Path(path), broker_kind=broker) as rig:
        trace = Path(path) / "trace"
        agent = begin(rig, (strace, "-f", "-ttt", "-y", "-e", "trace=fsync,fdatasync", "-o", str(trace)))
        offset_s = time.time() - boottime_s()
        watch = Watch(rig, agent)
        watch.next_round()
        found = [watch.next_round() for _ in range(rounds)]
        rig.end(agent)
        calls = [
            (float(one[1]) - offset_s, one[2])
            for one in map(_FSYNC.match, trace.read_text().splitlines())
            if one
        ]
    counts: Counter[str] = Counter()
    for at_s, file in calls:
        for one in found:
            if (stage := one.stage_at(at_s)) is not None:
                counts[f"{stage}: {_kind_of_file(file)}"] += 1
    return {
        "rounds": rounds,
        "per_round": round(sum(counts.values()) / rounds, 2),
        "by_stage_and_file": {key: round(count / rounds, 2) for key, count in sorted(counts.items())},
    }


def _kind_of_file(path: str) -> str:
    """Name a file without what differs from round to round."""
    folder, name = Path(path).parent.name, Path(path).name
    return f"{folder}/*" if name.startswith(".") else name


def begin(rig: Rig, prefix: tuple[str, ...] = ()) -> Process:
    """Enrol both devices, and start the one under test with something to train on."""
    rig.join_second()
    rig.record_samples()
    rig.enrol()
    return rig.start_agent(prefix)
