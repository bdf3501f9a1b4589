"""`fedclient pause` and `fedclient resume`: the owner's word to this device's scheduler."""

from __future__ import annotations

import argparse

from fedclient.cli import agent
from fedclient.cli.duration import parse, spell
from fedclient.device.folder import open_folder
from fedclient.limits import MAX_PAUSE_S

HELP = {
    "pause": "do not train for a while, or until `fedclient resume`; a training that runs is stopped",
    "resume": "end this device's pause that `fedclient pause` began",
}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add both verbs to the command line."""
    pausing = subparsers.add_parser("pause", help=HELP["pause"])
    pausing.add_argument("--for", dest="length", metavar="TIME", help="such as 90s, 30m, 2h or 1d")
    pausing.set_defaults(run=pause)
    subparsers.add_parser("resume", help=HELP["resume"]).set_defaults(run=resume)


def pause(args: argparse.Namespace) -> int:
    """Hold training back; the last word counts, also when it is a shorter one."""
    seconds = 0 if args.length is None else parse(args.length, "--for", MAX_PAUSE_S)
    device = (open_folder(args.settings.state), args.settings)
    trained = agent.trains(device[0])
    told = agent.pause(device, seconds)
    span = f"for {spell(seconds)}" if seconds else "until `fedclient resume`"
    print(f"paused {span}: {_effect(told=told, trained=trained)}")
    return 0


def resume(args: argparse.Namespace) -> int:
    """Take back the owner's pause; the gateway's own holds on."""
    device = (open_folder(args.settings.state), args.settings)
    before = agent.stand(device).paused
    agent.resume(device)
    after = agent.stand(device).paused
    if after is not None:
        print(f"this device's own pause is over, but {after}")
    elif before is None:
        print("nobody had paused it: nothing changed")
    else:
        print("resumed: it trains at the next good moment")
    return 0


def _effect(*, told: bool, trained: bool) -> str:
    if not told:
        return "no agent is running; the next one obeys"
    if trained:
        return "the training that ran is asked to stop, and goes on later from its checkpoint"
    return "the agent obeys from now on"
