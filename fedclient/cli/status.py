"""`fedclient status`: what this device is doing, what it did, what it sent; `--watch` goes on looking."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, replace
from typing import Any

from fedclient import boards
from fedclient.cli import agent, nodes
from fedclient.cli.agent import Standing
from fedclient.config import Config
from fedclient.crypto.keys import SigningKey
from fedclient.device import enrolment
from fedclient.device.database import open_database
from fedclient.device.folder import DeviceFolder, open_folder
from fedclient.device.journal import Journal, Round
from fedclient.device.judgement import Judgements, Told
from fedclient.device.slots import Slots
from fedclient.device.tuned import Tuned, TunedHead
from fedclient.errors import StorageBusy, UsageError
from fedclient.samples.store import SampleStore
from fedclient.scheduler.check import duration, number
from fedclient.scheduler.schedule import Policy
from fedclient.values import HeadVersion, Phase

EVERY_S = (0.2, 2.0, 3600.0)  # between two looks: at least, by default, at most
_MIB = 1 << 20
_SPENT = (  # field of `Cost`, its budget in [schedule], unit
    ("training_s", "daily_training_s", 1, "s of training"),
    ("traffic_bytes", "daily_traffic_mib", _MIB, "MiB of traffic"),
    ("energy_j", "daily_energy_j", 1, "J of energy"),
    ("flash_bytes", "daily_flash_mib", _MIB, "MiB written"),
    ("update_bytes", "max_update_bytes_per_day", 1, "B of updates"),
)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser("status", help="state, rounds and bytes of this device")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="print one JSON object")
    how.add_argument(
        "--watch", action="store_true", help="go on until Ctrl-C; not on a terminal: a line for each change"
    )
    parser.add_argument(
        "--every", type=float, metavar="S", help=f"seconds between two looks ({EVERY_S[1]:g}), with --watch"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the state of the device; the agent may run or not."""
    every_s = _every_s(args)
    folder = open_folder(args.settings.state)
    if args.watch:
        _watch(folder, args.settings, every_s)
    found = agent.stand((folder, args.settings))
    report = collect(folder, found, args.settings)
    print(json.dumps(report) if args.json else "\n".join(lines(report, found, _policy(args.settings))))
    return 0


def collect(folder: DeviceFolder, found: Standing, config: Config) -> dict[str, Any]:
    """Gather what `--json` prints; its fields are documented in docs/operations.md."""
    stored = enrolment.load(folder.enrolment)
    slot = Slots(folder.current).active()
    with closing(open_database(folder)) as database:
        journal = Journal(database)
        state, counters, rounds = journal.load_state(), journal.counters(), journal.rounds()
        manifest = None if state.current is None else journal.manifest(state.current)
        told = Judgements(database).load()
    with SampleStore(folder.samples) as samples:
        stats = samples.stats()
    return {
        "device_id": SigningKey.load(folder.key).device_id,
        "federation": None if stored is None else stored.invitation.federation,
        "agent_running": found.agent_running,
        "phase": found.phase,
        "doing": "; ".join((found.sentence, *found.notes)),
        "refusal": state.refusal.name.lower() if state.refusal else None,
        "paused": found.paused,
        "closed_gates": [gate["name"] for gate in found.closed],
        "next_chance_s": found.next_chance_s,
        "spent_24h": asdict(found.spent),
        "head": _version(state.current),
        "model": None if manifest is None else manifest.model.hash.hex(),
        "app_head": None if slot is None else str(slot.version),
        "personal": None if slot is None else _personal(TunedHead(folder.current).beside(slot)),
        "judgement": None if told is None else _judgement(told),
        "unsettled_update": state.unsettled,
        "updates": counters.get("updates", 0),
        "bytes_up": counters.get("bytes_up", 0),
        "bytes_down": counters.get("bytes_down", 0),
        "head_bytes": counters.get("head_bytes", 0),
        "head_bytes_saved": counters.get("head_bytes_saved", 0),
        "samples": stats.rows,
        "samples_dropped": stats.dropped,
        "damaged_updates": counters.get("damaged_updates", 0),
        "nodes": nodes.summary(folder) if config.nodes.enabled else None,
        "rounds": [_round(one) for one in rounds],
    }


def _policy(config: Config) -> Policy:
    """Return what the agent judges by: what the owner leaves out, the board's profile says."""
    return config.policy_on(boards.here())


def _judgement(told: Told) -> dict[str, Any]:
    head, verdict = told.judgement.head_version, told.judgement.verdict
    return {"head": str(head), "verdict": verdict.name.lower(), "why": told.why, **told.report}


def _personal(tuned: Tuned | None) -> dict[str, Any] | None:
    """Return how the copy did that apps use in the place of the adopted head; both on the hold-out."""
    if tuned is None:
        return None
    return {
        "holdout": tuned.holdout,
        "accuracy": tuned.accuracy,
        "adopted_accuracy": tuned.adopted_accuracy,
    }


def _round(one: Round) -> dict[str, Any]:
    told = {"counter": one.counter, "head": str(one.version), "status": one.status, "reason": one.reason}
    return {**told, **one.report}


def lines(report: dict[str, Any], found: Standing, policy: Policy) -> Iterator[str]:
    """Say it to people."""
    told = {
        **report,
        "closed_gates": ", ".join(report["closed_gates"]) or None,
        "next_chance_s": None if found.next_chance_s is None else f"in {duration(found.next_chance_s)}",
        "spent_24h": ", ".join(_spent(report["spent_24h"], _with_the_plans(policy, found))),
        "judgement": _verdict(report["judgement"]),
        "personal": _beside(report["personal"]),
        "nodes": _nodes(report["nodes"]),
    }
    rounds = told.pop("rounds")
    for name, value in told.items():
        yield f"{name.removesuffix('_s').replace('_', ' '):<18}{_text(value)}"  # with its unit, or a time
    if report["phase"] == Phase.WAITING.value:
        closed = "; ".join(gate["sentence"] for gate in found.closed)
        yield f"{'waiting for':<18}{closed or 'nothing now: the agent looks again every [schedule] poll_s'}"
    for one in rounds[:5]:
        unfit = f"   samples that do not fit the model: {skipped}" if (skipped := one.get("skipped")) else ""
        yield f"  update {one['counter']:<6} head {one['head']:<8} {one['status'] or 'no receipt yet'}{unfit}"


def _verdict(told: dict[str, Any] | None) -> str | None:
    if told is None:
        return None
    on = f" (on {told['rows']} samples, {told['held_out']} of them held out)" if "held_out" in told else ""
    return f"head {told['head']} {told['verdict'].replace('_', ' ')}: {told['why']}{on}"


def _beside(tuned: dict[str, Any] | None) -> str | None:
    if tuned is None:
        return None
    return (
        f"apps use a copy that was tuned here: right on {tuned['accuracy']:.1%} of {tuned['holdout']} "
        f"held-out samples, the adopted head on {tuned['adopted_accuracy']:.1%}"
    )


def _with_the_plans(policy: Policy, found: Standing) -> Policy:
    """Put in what a plan may have lowered: the agent's decision says it."""
    gates = [gate for gate in found.decision["gates"] if gate["name"] == "update_bytes"]
    bound = next((gate["threshold"] for gate in gates), None)
    return policy if bound is None else replace(policy, max_update_bytes_per_day=int(bound))


def _nodes(told: dict[str, Any] | None) -> str | None:
    if told is None:
        return None
    refused = ", ".join(f"{count} {what}" for what, count in told["refused"].items())
    more = f"; refused: {refused} (`fedclient nodes list`)" if refused else ""
    again = f"; stored before and sent again: {told['sent_again']}" if told["sent_again"] else ""
    return f"{told['nodes']}, {told['samples']} samples of theirs{again}{more}"


def _spent(spent: dict[str, float], policy: Policy) -> Iterator[str]:
    for name, setting, size, unit in _SPENT:
        budget = getattr(policy, setting)
        value = spent[name] / size
        told = f"{value:.2g}" if 0 < value < 1 else number(value, "")  # a day's updates are kilobytes
        of = "" if budget is None else f" of {number(budget, '')}"
        yield f"{told}{of} {unit}"


# --- watching -------------------------------------------------------------------------------------------
def _every_s(args: argparse.Namespace) -> float:
    least_s, default_s, most_s = EVERY_S
    if args.every is None:
        return default_s
    if not args.watch:
        raise UsageError("--every goes with --watch")
    if not least_s <= args.every <= most_s:
        raise UsageError(f"--every {args.every:g}: expected {least_s:g} to {most_s:g} seconds")
    return float(args.every)


def _watch(folder: DeviceFolder, config: Config, every_s: float) -> None:
    """Show it again and again, until Ctrl-C or until nobody reads any more."""
    on_screen = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    height, before, policy = 0, "", _policy(config)
    while True:
        try:
            found = agent.stand((folder, config))
            report = collect(folder, found, config)
        except StorageBusy as error:
            print(f"fedclient: {error}", file=sys.stderr)
        else:
            if on_screen:
                height = _redraw(list(lines(report, found, policy)), height)
            elif (line := _change(report)) != before:
                before = line
                print(line, flush=True)
        time.sleep(every_s)


def _redraw(shown: list[str], height: int) -> int:
    """Draw over the `height` lines of before; lines that would wrap or scroll are cut."""
    width, rows = shutil.get_terminal_size()
    cut = [line[: width - 1] for line in shown[: rows - 1]]
    up = f"\x1b[{height}A" if height else ""
    sys.stdout.write(f"{up}\r" + "".join(f"{line}\x1b[K\n" for line in cut) + "\x1b[J")
    sys.stdout.flush()
    return len(cut)


def _change(report: dict[str, Any]) -> str:
    """One line without what changes all the time."""
    last = report["rounds"][0] if report["rounds"] else None
    facts = {
        "agent": "running" if report["agent_running"] else "none",
        "phase": report["phase"],
        "head": report["head"],
        "closed": ",".join(report["closed_gates"]),
        "update": None if last is None else f"{last['counter']}:{last['status'] or 'no receipt yet'}",
    }
    return "  ".join(f"{name} {value or '-'}" for name, value in facts.items())


def _version(version: HeadVersion | None) -> str | None:
    return None if version is None else str(version)


def _text(value: object) -> str:
    return "-" if value is None else str(value)
