"""`fedclient gateway devices`, `pause` and `resume`: what concerns single devices."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fedclient import limits
from fedclient.cli import duration
from fedclient.cli.desk import open_desk
from fedclient.errors import UsageError
from fedclient.scheduler.check import duration as span
from fedclient.values import CommandKind

if TYPE_CHECKING:
    import argparse

    from fedclient.gateway.commands import Pause
    from fedclient.gateway.roster import Device
    from fedclient.values import Judgement


def add_verbs(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verbs to `fedclient gateway`."""
    devices_ = verbs.add_parser("devices", help="who is enrolled; revoke or reinstate one")
    devices_.add_argument("--json", action="store_true", help="print one JSON object")
    devices_.set_defaults(run=devices)
    actions = devices_.add_subparsers(dest="action", metavar="ACTION")
    for name, function, text in (
        ("revoke", revoke, "count nothing of this device any more"),
        ("reinstate", reinstate, "end a suspension after conflicts"),
    ):
        action = actions.add_parser(name, help=text)
        action.add_argument("id", metavar="ID", help="as `fedclient gateway devices` lists it")
        action.set_defaults(run=function)
    _add_commands(verbs)


def _add_commands(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    for name, function, text in (
        ("pause", pause, "ask a device not to train until it is resumed"),
        ("resume", resume, "end a pause that this gateway asked for; nobody else's"),
    ):
        verb = verbs.add_parser(name, help=text)
        which = verb.add_mutually_exclusive_group(required=True)
        which.add_argument("id", nargs="?", metavar="DEVICE", help="as `gateway devices` lists it")
        which.add_argument("--all", action="store_true", help="every device that is enrolled now")
        if function is pause:
            verb.add_argument("--for", dest="length", metavar="TIME", help="as 90s, 30m, 2h or 1d; up to 30d")
        verb.set_defaults(run=function)


def devices(args: argparse.Namespace) -> int:
    """List the roster, and what an operator was alarmed of."""
    with open_desk(args) as desk:
        statuses, alarms = desk.store.roster.statuses(), desk.store.alarms()
        roster, pauses = desk.store.roster.devices(), desk.store.commands.pauses(desk.unix_s())
        judgements = desk.store.verdicts.last()
    rows = [
        _row(device, statuses.get(device.id), pauses.get(device.id), judgements.get(device.id))
        for device in roster
    ]
    if args.json:
        names = ("unix_s", "device", "sentence")
        print(
            json.dumps(
                {"devices": rows, "alarms": [dict(zip(names, alarm, strict=True)) for alarm in alarms]}
            )
        )
        return 0
    for row in rows:
        print(
            f"{row['id']}  {row['standing']:<9}  updates {row['last_counter']}"
            f"  {_said(row['status'])}{_judged(row['judgement'])}{_paused(row['pause'])}"
        )
    if not rows:
        print("no device is enrolled yet: `fedclient gateway invite` lets one in", file=sys.stderr)
    for _, device, sentence in alarms[-10:]:
        print(f"alarm: {device or 'gateway'}: {sentence}", file=sys.stderr)
    return 0


def _said(status: dict[str, Any] | None) -> str:
    """Say what the device does; it says so seldom, so an old word is told as one."""
    if status is None:
        return "-"
    age_s = max(0.0, time.time() - status["unix_s"])
    return f"{status['phase']} ({span(age_s)} ago)"


def _judged(judgement: dict[str, Any] | None) -> str:
    """Say what the device made of the newest head that it judged."""
    if judgement is None:
        return ""
    words = judgement["verdict"].replace("_", " ")
    return f"  {words} {judgement['generation']}.{judgement['version']}"


def _paused(pause: dict[str, Any] | None) -> str:
    """Say what the gateway asked for; the device hears it when it is there."""
    if pause is None:
        return ""
    until_unix_s = pause["until_unix_s"]
    if until_unix_s is None:
        return "  paused until resumed"
    return time.strftime("  paused until %Y-%m-%d %H:%M", time.localtime(until_unix_s))


def _row(
    device: Device, status: dict[str, Any] | None, pause: Pause | None, judgement: Judgement | None
) -> dict[str, Any]:
    judged = judgement and {
        "generation": judgement.head_version.generation,
        "version": judgement.head_version.version,
        "verdict": judgement.verdict.name.lower(),
    }
    return {
        "id": device.id,
        "standing": device.standing.value,
        "conflicts": device.conflicts,
        "last_counter": device.last_counter,
        "enrolled_unix_s": device.enrolled_unix_s,
        "status": status,
        "judgement": judged,
        "pause": None if pause is None else asdict(pause),
    }


def revoke(args: argparse.Namespace) -> int:
    """End a device's membership."""
    from fedclient.gateway.roster import Standing  # noqa: PLC0415 - only what a verb needs

    return _set_standing(args, (Standing.ACTIVE, Standing.SUSPENDED, Standing.REVOKED), Standing.REVOKED)


def reinstate(args: argparse.Namespace) -> int:
    """End a suspension."""
    from fedclient.gateway.roster import Standing  # noqa: PLC0415 - only what a verb needs

    return _set_standing(args, (Standing.SUSPENDED, Standing.ACTIVE), Standing.ACTIVE)


def _set_standing(args: argparse.Namespace, before: tuple[Any, ...], after: Any) -> int:
    from fedclient.gateway.roster import Standing  # noqa: PLC0415 - only what a verb needs

    with open_desk(args) as desk, desk.store.transaction():
        device = desk.store.roster.device(args.id)
        if device is None:
            raise UsageError(f"there is no device {args.id}: `fedclient gateway devices` lists them")
        if device.standing not in before:
            raise UsageError(f"device {args.id} is {device.standing.value}: it needs a new key to join again")
        desk.store.roster.set_standing(args.id, after)
        if after is Standing.REVOKED:  # what is for it, or of it, on the broker is to be cleared
            desk.store.add_retained({desk.topics.command(args.id), desk.topics.online(args.id)})
    print(f"{args.id}  {after.value}")
    return 0


def pause(args: argparse.Namespace) -> int:
    """Ask devices not to train."""
    if args.length is None:
        return _command(args, CommandKind.PAUSE, 0, "paused until resumed")
    seconds = duration.parse(args.length, "--for", limits.MAX_PAUSE_S)
    return _command(args, CommandKind.PAUSE, seconds, f"paused for {duration.spell(seconds)}")


def resume(args: argparse.Namespace) -> int:
    """Take back what `pause` asked for."""
    return _command(args, CommandKind.RESUME, 0, "resumed")


def _command(args: argparse.Namespace, kind: CommandKind, seconds: int, word: str) -> int:
    from fedclient.gateway.roster import Standing  # noqa: PLC0415 - only what a verb needs

    with open_desk(args) as desk, desk.store.transaction():
        known = {device.id: device.standing for device in desk.store.roster.devices()}
        if not args.all and known.get(args.id, Standing.REVOKED) is Standing.REVOKED:
            what = "was revoked" if args.id in known else "is not enrolled: see `fedclient gateway devices`"
            raise UsageError(f"device {args.id} {what}")
        members = [id_ for id_, standing in known.items() if standing is not Standing.REVOKED]
        addressed = members if args.all else [args.id]
        desk.store.commands.give(addressed, kind, seconds, desk.unix_s())
    for id_ in addressed:
        print(f"{id_}  {word}")
    if not addressed:
        print("no device is enrolled yet: nothing to do", file=sys.stderr)
    return 0
