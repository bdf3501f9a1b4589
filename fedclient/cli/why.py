"""`fedclient why`: why this device trains now, or does not; gate by gate, and what would change it."""

from __future__ import annotations

import argparse
import json
import shutil
import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fedclient.cli import agent
from fedclient.cli.agent import Standing
from fedclient.cli.main import TRY_LATER
from fedclient.device.folder import open_folder
from fedclient.scheduler.check import duration, number
from fedclient.values import Phase

WIDTHS = (60, 100)  # columns: what a narrow terminal has at least, what is used at most
_SOURCE = 20  # columns for where it was read; with less it stands below
_COLUMNS = (6, 16, 7, 10, 9)  # verdict, gate, since when, value, limit; what is left: where it was read


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "why", help="why it trains now or does not, and what would change that; exit 75: not a good moment"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object: the decision")
    parser.add_argument(
        "--root", type=Path, metavar="DIR", help="read /sys, /proc and /etc below DIR; the agent is not asked"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the decision of now: the running agent's, or what it would be."""
    folder = open_folder(args.settings.state)
    found = agent.stand((folder, args.settings), root=args.root)
    if args.json:
        print(json.dumps(as_dict(found)))
    else:
        print("\n".join(explain(found, args.root, _width())))
    return 0 if found.decision["eligible"] or found.phase == Phase.TRAINING.value else TRY_LATER


def as_dict(found: Standing) -> dict[str, Any]:
    """Return what `--json` prints: the decision, what the device does, and what it spent in 24 hours."""
    return {
        **found.decision,
        "agent_running": found.agent_running,
        "phase": found.phase,
        "sentence": found.sentence,
        "notes": list(found.notes),
        "spent": asdict(found.spent),
    }


def _width() -> int:
    """Return the terminal's columns within bounds; a pipe gets the most."""
    least, most = WIDTHS
    return min(max(shutil.get_terminal_size((most, 24)).columns, least), most)


def explain(found: Standing, root: Path | None = None, width: int = WIDTHS[1]) -> Iterator[str]:
    """Say it to people: the answer, then the closed gates, then the others."""
    verdict = "eligible" if found.decision["eligible"] else "not eligible"
    yield from textwrap.wrap(f"{verdict}; {found.sentence}", width)
    for note in found.notes:
        yield from textwrap.wrap(note, width)
    if root is not None:
        yield f"read below {root}: the agent was not asked"
    elif not found.agent_running:
        yield "no agent is running: this is what it would decide now"
    yield ""
    header = _row(("", "gate", "for", "value", "limit"))
    yield header + "read from" if width - len(header) >= _SOURCE else header.rstrip()
    for gate in sorted(found.decision["gates"], key=lambda gate: bool(gate["ok"])):
        yield from _gate(gate, found, width)
    yield ""
    yield _chance(found)


def _gate(gate: dict[str, Any], found: Standing, width: int) -> Iterator[str]:
    """A value in its columns; what has none is a sentence.  A closed gate is a sentence, too."""
    at_s, limit = found.decision["at_s"], gate["threshold"]
    since = duration(at_s - gate["since_s"]) if found.watched else "-"
    begin = _row(("open" if gate["ok"] else "closed", gate["name"], since))
    words = [gate["sentence"]]
    if gate["value"] is not None and gate["source"] != "history":  # a budget's sentence has it all
        cells = (
            "",
            "",
            "",
            _value(gate["value"], gate["unit"]),
            "-" if limit is None else _value(limit, gate["unit"]),
        )
        values = _row(cells)
        words = [] if gate["ok"] else words
        if width - len(values) < _SOURCE:  # a narrow terminal: below, as a sentence
            yield (begin + values[len(begin) :]).rstrip()
            words = [f"read from {gate['source']}" if gate["source"] else "", *words]
        else:
            first, *others = textwrap.wrap(gate["source"], width - len(values)) or ["-"]
            yield begin + values[len(begin) :] + first
            yield from (" " * len(values) + line for line in others)
        begin = " " * len(begin)
    if not gate["ok"]:
        opens_s = gate["opens_s"]
        by_itself = "" if opens_s is None else f" (by itself in {duration(opens_s - at_s)})"
        words.append(f"to open it: {gate['remedy']}{by_itself}")
    for text in words:
        for line in textwrap.wrap(text, width - len(begin)):
            yield begin + line
            begin = " " * len(begin)


def _row(cells: tuple[str, ...]) -> str:
    return "".join(f"{cell:<{width}}  " for cell, width in zip(cells, _COLUMNS, strict=False))


def _value(value: float | str | bool, unit: str) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else number(value, unit)


def _chance(found: Standing) -> str:
    if found.decision["eligible"]:
        return "next chance: now"
    if found.next_chance_s is None:
        return "next chance: not known; it takes what stands above"
    return f"next chance: not before {duration(found.next_chance_s)} have passed"
