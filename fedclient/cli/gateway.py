"""`fedclient gateway`: the other end, for the person who runs a federation.

Every verb but `run` does one thing to the gateway's database and ends; a gateway that is running on
it notices within a second.
"""

from __future__ import annotations

import json
import logging
import os
import random
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fedclient import limits
from fedclient.cli import gateway_devices, model_file
from fedclient.cli.desk import open_desk, state_folder
from fedclient.cli.main import become_owner, given
from fedclient.errors import ModelError, UsageError
from fedclient.values import HeadVersion, Plan

if TYPE_CHECKING:
    import argparse

    from fedclient.config import Config
    from fedclient.gateway.desk import Desk
    from fedclient.gateway.server import Gateway

log = logging.getLogger(__name__)

_MAX_INVITATIONS: Final = 10_000


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verbs to the command line."""
    parser = subparsers.add_parser("gateway", help="the other end: invite devices, publish heads")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    init_ = verbs.add_parser("init", help="make a federation: keys and database; never overwrites")
    init_.add_argument("--federation", required=True, metavar="NAME", help="1 to 12 of a-z, 0-9, - and _")
    init_.add_argument("--broker", required=True, metavar="HOST:PORT", help="as devices reach it")
    init_.add_argument("--tls", action="store_true", help="the broker speaks TLS on that port")
    init_.set_defaults(run=init)
    verbs.add_parser("run", help="collect updates and publish heads").set_defaults(run=run)
    invite_ = verbs.add_parser("invite", help="print invitations, one per line, each for one device")
    invite_.add_argument("--expires-h", type=float, default=24.0, metavar="H", help="good for H hours (24)")
    invite_.add_argument("--count", type=int, default=1, metavar="N", help="how many (1)")
    invite_.set_defaults(run=invite)
    publish_ = verbs.add_parser("publish", help="begin a generation with a model")
    publish_.add_argument(
        "model", type=Path, metavar="MODEL.tflite", help="fedclient model check says ok to it"
    )
    publish_.add_argument(
        "--labels", metavar="A,B,C|FILE", help="names of the classes, in order (default: the model's)"
    )
    publish_.add_argument(
        "--plan", type=Path, metavar="PLAN.toml", help="how devices train: docs/operations.md"
    )
    publish_.set_defaults(run=publish)
    gateway_devices.add_verbs(verbs)
    rollback_ = verbs.add_parser("rollback", help="make an older version's content current again")
    rollback_.add_argument("version", type=int, metavar="VERSION", help="its second number: 7 for head 2.7")
    rollback_.set_defaults(run=rollback)
    recover_ = verbs.add_parser("recover", help="carry on after the database was restored from a backup")
    recover_.add_argument("--force", action="store_true", help="although nothing newer was seen anywhere")
    recover_.set_defaults(run=recover)
    rounds_ = verbs.add_parser("rounds", help="every head made out of updates")
    rounds_.add_argument("--json", action="store_true", help="print one JSON object")
    rounds_.set_defaults(run=rounds)


def init(args: argparse.Namespace) -> int:
    """Make keys and database."""
    from fedclient.cli import broker  # noqa: PLC0415 - only what a verb needs
    from fedclient.device.folder import DeviceFolder  # noqa: PLC0415 - ditto
    from fedclient.gateway.server import found  # noqa: PLC0415 - ditto
    from fedclient.storage import disk_errors  # noqa: PLC0415 - ditto

    address = broker.parse(args.broker, tls=args.tls)
    folder = state_folder(args)
    become_owner(folder)
    with disk_errors(folder):
        device = DeviceFolder(folder).key.exists()
    if device:
        raise UsageError(f"{folder} is a device's state folder: give the gateway its own with --state DIR")
    found(folder, args.federation, address)
    words = f"fedclient{given(args)} gateway"
    print(f"state    {folder}\nnext     {words} publish MODEL.tflite\n         {words} run")
    return 0


def run(args: argparse.Namespace) -> int:
    """Run until SIGTERM or SIGINT."""
    from fedclient import config, daemon  # noqa: PLC0415 - ditto
    from fedclient.gateway.store import sole_owner  # noqa: PLC0415 - ditto

    def renewed() -> daemon.Opener:
        settings = config.load(args.config, os.environ, args.state)
        service = _service(settings, replace(desk, settings=settings.gateway))
        return lambda: service

    with open_desk(args) as desk, sole_owner(state_folder(args)):
        if not desk.store.current().version:
            log.warning("no head is published yet: `fedclient gateway publish MODEL.tflite`")
        reload = None if os.isatty(2) else renewed  # whoever closes a terminal is done
        return daemon.run(_service(args.settings, desk), reload=reload)


def _service(settings: Config, desk: Desk) -> Gateway:
    """Return a gateway that is not started yet; raises ConfigError for what cannot work."""
    from fedclient.cli.broker import opener  # noqa: PLC0415 - ditto
    from fedclient.gateway.server import Gateway  # noqa: PLC0415 - ditto

    broker, (_, invited) = settings.broker, desk.store.federation()
    connect = opener(settings, limits.MAX_PACKET_BYTES)
    return Gateway(
        transport=connect(broker.resolve(invited), f"gw-{desk.signing.device_id}"),
        desk=desk,
        jitter=random.Random(),  # noqa: S311 - spreads connection attempts, no secret
        retry_s=(broker.retry_min_s, broker.retry_max_s),
    )


def invite(args: argparse.Namespace) -> int:
    """Print invitations and nothing else."""
    from fedclient.gateway import enrolment  # noqa: PLC0415 - ditto
    from fedclient.wire.invitation import encode_invitation  # noqa: PLC0415 - ditto

    if not 0 < args.count <= _MAX_INVITATIONS or not 0 < args.expires_h <= 24 * 3650:
        raise UsageError(f"--count is 1 to {_MAX_INVITATIONS}, --expires-h above 0 and at most ten years")
    with open_desk(args) as desk:
        expires_unix_s = int(time.time() + 3600 * args.expires_h)
        for _ in range(args.count):
            print(encode_invitation(enrolment.invite(desk, os.urandom(16), expires_unix_s)))
    return 0


def publish(args: argparse.Namespace) -> int:
    """Check a model, and make it current with the weights it comes with."""
    from fedclient import runtime  # noqa: PLC0415 - ditto
    from fedclient.cli.plan import read_plan  # noqa: PLC0415 - ditto
    from fedclient.gateway import releases  # noqa: PLC0415 - ditto
    from fedclient.model.check import check  # noqa: PLC0415 - ditto

    plan = read_plan(args.plan) if args.plan else Plan()
    data = model_file.read_model(args.model)
    report = check(data)  # in a child process: a damaged file may crash the runtime
    if not report.ok:
        raise ModelError(f"{args.model}: {report.reason}")
    model = runtime.load(data)
    labels = model_file.read_labels(args.labels, model.classes) or _labels(data)
    content = releases.Content(
        model=data,
        head=model.get_weights(),
        tensors=model.tensors,
        labels=labels,
        plan=plan,
        takes=frozenset(model.hyper_parameters),
    )
    return _release(args, lambda desk: releases.publish(desk, content))


def _labels(model: bytes) -> tuple[str, ...]:
    """Return the labels that came with the model, () where it has none."""
    from fedclient.model.origin import read_origin  # noqa: PLC0415 - ditto

    origin = read_origin(model)
    return origin.labels if origin else ()


def rollback(args: argparse.Namespace) -> int:
    """Publish older content as a new generation."""
    from fedclient.gateway import releases  # noqa: PLC0415 - ditto

    return _release(args, lambda desk: releases.rollback(desk, args.version))


def recover(args: argparse.Namespace) -> int:
    """Jump beyond every head that was seen anywhere."""
    from fedclient.gateway import releases  # noqa: PLC0415 - ditto

    return _release(args, lambda desk: releases.recover(desk, force=args.force))


def _release(args: argparse.Namespace, make: Any) -> int:
    with open_desk(args) as desk:
        version = make(desk)
        (release,) = desk.store.releases(1)
    print(f"head     {version}\nmodel    {release.model_hash.hex()}  (what [privacy] allowed_models names)")
    return 0


def rounds(args: argparse.Namespace) -> int:
    """List every head made out of updates."""
    from fedclient.gateway.verdicts import Tally  # noqa: PLC0415 - ditto

    with open_desk(args) as desk:
        current, made, tallies = desk.store.current(), desk.store.rounds(), desk.store.verdicts.tallies()

    def row(version: HeadVersion) -> dict[str, Any]:
        said = asdict(tallies.get(version, Tally()))
        return {"version": version.version, "generation": version.generation, "verdicts": said}

    now, rows = row(current), [row(version) | asdict(round_) for version, round_ in made]
    if args.json:
        print(json.dumps({"current": now, "rounds": rows}))
        return 0
    none = "none yet: fedclient gateway publish MODEL.tflite"
    print(f"current  {current}{_verdicts(now)}" if current.version else f"current  {none}")
    for one in rows:
        print(_round(one))
    return 0


def _round(row: dict[str, Any]) -> str:
    accuracy = "-" if row["accuracy"] is None else f"{row['accuracy']:.3f}"
    epochs = "" if row["epochs"] is None else f"  epochs {row['epochs']:.1f}"
    return (
        f"{row['generation']}.{row['version']}  updates {row['counted']}{epochs}  accuracy {accuracy}"
        f"  up {row['bytes_up']} B  down {row['bytes_down']} B{_head(row)}  {row['seconds']:.1f} s"
        f"{_verdicts(row)}"
    )


def _head(row: dict[str, Any]) -> str:
    """Say how a head travels: from the one before, and whole."""
    if row["full_bytes"] is None:
        return ""
    delta = "no delta" if row["delta_bytes"] is None else f"delta {row['delta_bytes']} B"
    return f" ({delta}, whole {row['full_bytes']} B)"


def _verdicts(row: dict[str, Any]) -> str:
    """Say what devices made of a head, as far as any has said so."""
    said = [f"{name.replace('_', ' ')} {count}" for name, count in row["verdicts"].items() if count]
    return f"  {', '.join(said)}" if said else ""
