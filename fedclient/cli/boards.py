"""`fedclient boards`: those that have a profile; `boards detect`: which one this is, and what it tells."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from fedclient import boards, storage
from fedclient.device.folder import nearest
from fedclient.errors import UsageError
from fedclient.scheduler.probe import Probe
from fedclient.scheduler.profile import EVIDENCE, Profile
from fedclient.scheduler.readings import Activity
from fedclient.scheduler.schedule import Policy


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verbs to the command line."""
    parser = subparsers.add_parser("boards", help="known boards; which one this is, and what it can read")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=known)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    detect_ = verbs.add_parser("detect", help="tell which board this is, and read each of its sensors")
    detect_.add_argument(
        "--root",
        type=Path,
        default=Path("/"),
        metavar="DIR",
        help="a tree of /proc and /sys files in place of /",
    )
    # without a default of its own, which would undo `boards --json detect`
    detect_.add_argument(
        "--json", action="store_true", default=argparse.SUPPRESS, help="print one JSON object"
    )
    detect_.set_defaults(run=detect)


def known(args: argparse.Namespace) -> int:
    """Print the table of profiles."""
    rows = [_row(one) for one in boards.load_all()]
    if args.json:
        print(json.dumps({"boards": rows}))
        return 0
    _print_table(
        [list(rows[0]), *(["-" if cell is None else _text(cell) for cell in row.values()] for row in rows)]
    )
    return 0


def detect(args: argparse.Namespace) -> int:
    """Print the board's own words, its profile, and each reading with its source or the reason why not."""
    if not args.root.is_dir():
        raise UsageError(
            f"--root {args.root} is no folder: name one that holds proc and sys, such as a capture"
        )
    profile = boards.here(args.root)
    probe = Probe(nearest(storage.state_folder(args.state)), root=args.root, profile=profile)
    readings = probe.read(Activity(), 0.0).as_dict()
    if args.json:
        found = {"board": probe.identity.model or None, "profile": profile.name, "readings": readings}
        print(json.dumps(found))
        return 0
    print(f"board    {probe.identity.model or 'it does not say'}")
    print(f"profile  {profile.name}: {profile.title} ({EVIDENCE[profile.evidence]})\n")
    _print_table([[name, *_cells(one)] for name, one in readings.items()])
    return 0


def _row(profile: Profile) -> dict[str, Any]:
    pause_temp_c = profile.schedule.get("pause_temp_c", Policy().pause_temp_c)
    return {
        "name": profile.name,
        "title": profile.title,
        "evidence": profile.evidence,
        "threads": profile.threads,
        "memory_mib": profile.memory_mib,
        "pause_temp_c": pause_temp_c,
    }


def _cells(reading: dict[str, Any]) -> list[str]:
    value = reading["value"]
    if value is None:
        return ["-", str(reading["reason"])]
    return [_text(value), str(reading["source"])]


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)


def _print_table(rows: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
