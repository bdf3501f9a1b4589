"""`fedclient status`: what this device is doing, what it did, what it sent."""

from __future__ import annotations

import argparse
import json
from typing import Any

from fedclient.crypto.keys import SigningKey
from fedclient.device import enrolment
from fedclient.device.database import open_database
from fedclient.device.folder import DeviceFolder, open_folder
from fedclient.device.journal import Journal
from fedclient.device.slots import Slots
from fedclient.samples.store import SampleStore
from fedclient.scheduler.check import Now
from fedclient.scheduler.history import History
from fedclient.scheduler.policy import decide
from fedclient.scheduler.probe import Probe
from fedclient.scheduler.profile import UNKNOWN_BOARD
from fedclient.scheduler.readings import Activity, SampleCounts
from fedclient.scheduler.schedule import Policy
from fedclient.values import HeadVersion, Phase


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser("status", help="state, rounds and bytes of this device")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the state of the device; the agent may run or not."""
    folder = open_folder(args.settings.state)
    report = collect(folder)
    if args.json:
        print(json.dumps(report))
        return 0
    rounds = report.pop("rounds")
    for name, value in report.items():
        print(f"{name.replace('_', ' '):<18}{_text(value)}")
    if report["phase"] == Phase.WAITING.value:
        print(f"{'waiting for':<18}{_closed(folder, args.settings.policy)}")
    for one in rounds[:5]:
        print(f"  update {one['counter']:<6} head {one['head']:<8} {one['status'] or 'no receipt yet'}")
    return 0


def collect(folder: DeviceFolder) -> dict[str, Any]:
    """Gather what `--json` prints; its fields are documented in docs/operations.md."""
    stored = enrolment.load(folder.enrolment)
    slot = Slots(folder.current).active()
    database = open_database(folder)
    try:
        journal = Journal(database)
        state, counters, rounds = journal.load_state(), journal.counters(), journal.rounds()
        manifest = None if state.current is None else journal.manifest(state.current)
    finally:
        database.close()
    with SampleStore(folder.samples) as samples:
        stats = samples.stats()
    return {
        "device_id": SigningKey.load(folder.key).device_id,
        "federation": None if stored is None else stored.invitation.federation,
        "agent_running": folder.in_use(),
        "phase": state.phase.value,
        "refusal": state.refusal.name.lower() if state.refusal else None,
        "head": _version(state.current),
        "model": None if manifest is None else manifest.model.hash.hex(),
        "app_head": None if slot is None else str(slot.version),
        "unsettled_update": state.unsettled,
        "updates": counters.get("updates", 0),
        "bytes_up": counters.get("bytes_up", 0),
        "bytes_down": counters.get("bytes_down", 0),
        "samples": stats.rows,
        "samples_dropped": stats.dropped,
        "damaged_updates": counters.get("damaged_updates", 0),
        "rounds": [
            {
                "counter": one.counter,
                "head": str(one.version),
                "status": one.status,
                "reason": one.reason,
                **one.report,
            }
            for one in rounds
        ],
    }


def _closed(folder: DeviceFolder, policy: Policy) -> str:
    """Judge this moment as the agent would; it looks at its own pace, and pauses after what was not met."""
    database = open_database(folder)
    try:
        journal = Journal(database)
        state, settled = journal.load_state(), journal.counter("settled_sample")
        manifest = None if state.current is None else journal.manifest(state.current)
    finally:
        database.close()
    labels = () if manifest is None else manifest.labels
    with SampleStore(folder.samples) as samples:
        counts = SampleCounts(new=samples.new_since(settled, labels), distinct=samples.distinct(labels))
    readings = Probe(folder.path, profile=UNKNOWN_BOARD).read(Activity(samples=counts), 0.0)
    decision = decide(readings, policy, UNKNOWN_BOARD, History(), Now(elapsed_s=0.0))
    closed = [gate.sentence for gate in decision.gates if not gate.ok]
    return "; ".join(closed) or "nothing now: the agent looks again every [schedule] poll_s, or after dwell_s"


def _version(version: HeadVersion | None) -> str | None:
    return None if version is None else str(version)


def _text(value: object) -> str:
    return "-" if value is None else str(value)
