"""`fedclient replay`: when a policy would have trained, over readings that an agent recorded."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final, TextIO

from fedclient import boards, config, storage
from fedclient.cli import replay_svg
from fedclient.errors import DataError, UsageError
from fedclient.scheduler import trace
from fedclient.scheduler.check import duration
from fedclient.scheduler.profile import UNKNOWN_BOARD, Profile
from fedclient.scheduler.replay import DAY_S, Job, Replay, Terms
from fedclient.scheduler.replay import replay as replayed
from fedclient.scheduler.trace import MAX_LINE_CHARS, Trace

_COLUMNS: Final = 72  # of a day: 20 minutes each
_SHOWN: Final = 12  # stretches of training in the text; --json has all
_JOB_S: Final = (1.0, DAY_S)
_UPDATE_BYTES: Final = (1, 1 << 30)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser("replay", help="when a policy would have trained, over recorded readings")
    parser.add_argument("trace", type=Path, metavar="TRACE", help="what [trace] file recorded")
    parser.add_argument(
        "--policy",
        type=Path,
        metavar="FILE",
        help="a config whose [schedule] counts (default: --config, else the board's)",
    )
    parser.add_argument("--board", metavar="NAME", help="the board's profile (default: the trace's)")
    parser.add_argument("--job-s", type=float, default=60.0, metavar="S", help="training of one job (60)")
    parser.add_argument(
        "--update-bytes", type=int, default=500, metavar="N", help="what one job sends and receives (500)"
    )
    parser.add_argument(
        "--ignore-samples", action="store_true", help="as if there were always enough samples"
    )
    parser.add_argument("--svg", type=Path, metavar="OUT", help="write the timeline as a picture, too")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Replay, and print when it would have trained and what kept it from that."""
    for name, value, (low, high) in (
        ("--job-s", args.job_s, _JOB_S),
        ("--update-bytes", args.update_bytes, _UPDATE_BYTES),
    ):
        if not low <= value <= high:
            raise UsageError(f"{name} is {value:g}: choose {low:g} to {high:g}")
    profile, found = _replay(args)
    if args.svg is not None:
        title = f"{args.trace.name} on {profile.title}"
        _write(args.svg, replay_svg.draw(found, title))
    if args.json:
        print(json.dumps(report(found)))
    else:
        print("\n".join(_text(found, profile)))
    return 0


def report(found: Replay) -> dict[str, Any]:
    """Return what `--json` prints; its fields are documented in docs/operations.md."""
    return {
        "intervals": [{**asdict(one), "local": found.local(one.begin_s)} for one in found.intervals],
        "totals": asdict(found.totals),
        "closed": {name: round(share, 6) for name, share in found.closed.items()},
    }


def _replay(args: argparse.Namespace) -> tuple[Profile, Replay]:
    file = args.policy or args.config
    settings = config.Config() if file is None else config.load(file, {}, args.state)
    try:
        with args.trace.open(encoding="utf-8", errors="replace") as stream:
            recorded = trace.decode(_lines(stream))
            profile = _profile(args.board or recorded.board)
            terms = Terms(
                policy=settings.policy_on(profile),
                profile=profile,
                job=replace(Job(), training_s=args.job_s, update_bytes=float(args.update_bytes)),
                samples_always=args.ignore_samples or not recorded.counts_samples,
            )
            return profile, _covered(recorded, terms)
    except OSError as error:
        raise DataError(f"{args.trace}: it cannot be read: {error.strerror or error}") from None
    except DataError as error:
        raise DataError(f"{args.trace}: {error}") from None


def _covered(recorded: Trace, terms: Terms) -> Replay:
    found = replayed(recorded.points, terms)
    if not found.covered:
        raise DataError("there are fewer than two readings in it")
    return found


def _lines(stream: TextIO) -> Iterator[str]:
    """Yield lines; of one that is too long only as much as shows that."""
    while line := stream.readline(MAX_LINE_CHARS + 1):
        yield line


def _profile(name: str) -> Profile:
    if name == UNKNOWN_BOARD.name:
        return UNKNOWN_BOARD
    known = {profile.name: profile for profile in boards.load_all()}
    if name not in known:
        raise UsageError(f"there is no profile {name}: --board takes one of {', '.join(sorted(known))}")
    return known[name]


def _write(path: Path, text: str) -> None:
    if not path.absolute().parent.is_dir():  # before a word about state folders
        raise UsageError(f"--svg {path}: there is no folder {path.parent}")
    with storage.disk_errors(path):
        path.write_text(text, encoding="utf-8")


def _text(found: Replay, profile: Profile) -> Iterator[str]:
    totals = found.totals
    yield f"{profile.title}, {duration(totals.trace_s)} of readings from {found.local(0)} on"
    yield ""
    yield from timeline(found)
    yield ""
    energy = "not known: the board has no power rail and no estimate"
    if totals.energy_j is not None:
        energy = f"{totals.energy_j / 1000:.1f} kJ"
    lines = {
        "trained": f"{duration(totals.training_s)}, {totals.jobs} jobs done, stopped {totals.stops} times",
        "MQTT": f"{totals.traffic_bytes / 1000:.1f} kB",
        "disk": f"{totals.flash_bytes / 1e6:.1f} MB written",
        "energy": energy,
    }
    yield from (f"{name:<10}{text}" for name, text in lines.items())
    yield ""
    yield "closed, of the time"
    yield from (f"  {name:<18}{share:6.1%}" for name, share in found.closed.items())
    if not found.closed:
        yield "  no gate, ever"
    yield ""
    yield "when it would have trained"
    yield from (f"  {line}" for line in _stretches(found))


def _stretches(found: Replay) -> Iterator[str]:
    if not found.intervals:
        yield "never"
    for one in found.intervals[:_SHOWN]:
        why = f" by {', '.join(one.closed)}" if one.closed else ""
        again = "went on " if one.resumed else ""
        length_s = one.end_s - one.begin_s
        yield f"{found.local(one.begin_s):<12}{again}{duration(length_s)}, {_ENDED[one.ended]}{why}"
    if len(found.intervals) > _SHOWN:
        yield f"and {len(found.intervals) - _SHOWN} times more: --json has all"


_ENDED: Final = {
    "done": "done",
    "stopped": "stopped",
    "restart": "cut off by a restart of the agent",
    "end of trace": "still at it when the trace ends",
}


def timeline(found: Replay) -> list[str]:
    """Draw a row per day: a star where it trained, a dot where it waited."""
    trained = found.by_day((one.begin_s, one.end_s) for one in found.intervals)
    covered = found.by_day(found.covered)
    lines = ["          " + "".join(f"{hour:<9}" for hour in range(0, 24, 3)) + "24"]
    for day in sorted(covered):
        cells = [" "] * _COLUMNS
        for sign, spans in ((".", covered[day]), ("*", trained.get(day, []))):
            for begin_s, end_s in spans:
                for column in range(_column(begin_s), _column(end_s - 1e-6) + 1):
                    cells[column] = sign
        lines.append(f"{found.day(day):<9}|{''.join(cells)}|")
    return [*lines, "          * trained   . waited   blank: no readings"]


def _column(at_s: float) -> int:
    return min(_COLUMNS - 1, max(0, int(at_s * _COLUMNS // DAY_S)))
