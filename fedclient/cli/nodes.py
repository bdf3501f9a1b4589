"""`fedclient nodes`: the microcontrollers that send samples to this device, and their secrets."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedclient.brokers import NodeSettings, read_password
from fedclient.cli.agent import ANSWER_S
from fedclient.client import console
from fedclient.device.folder import DeviceFolder, open_folder
from fedclient.errors import ConfigError, Unreachable, UsageError
from fedclient.nodes import headfile, intake, receiver
from fedclient.nodes.head import knows
from fedclient.nodes.keys import TAG_BYTES
from fedclient.nodes.messages import NodeHead, decode_head
from fedclient.nodes.registry import Registry
from fedclient.samples.label import Label
from fedclient.samples.store import SampleStore
from fedclient.scheduler.check import duration
from fedclient.transport.settings import is_loopback

FORMAT = 1  # of what export-secrets prints
NOTE = "nodes: "  # how the agent's sentences about them begin
MOST = 10  # reasons why samples of a node are not trained on, that `list` tells
REFUSALS = (
    receiver.TOPIC,
    receiver.UNKNOWN,
    receiver.REVOKED,
    receiver.LENGTH,
    receiver.TAG,
    receiver.FORM,
    intake.RATE,
    intake.LARGE,
)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verbs to the command line."""
    verbs = subparsers.add_parser("nodes", help="microcontrollers that send samples here").add_subparsers(
        dest="verb", required=True, metavar="VERB"
    )
    list_ = verbs.add_parser("list", help="the nodes, their samples, what was refused and why")
    list_.add_argument("--json", action="store_true", help="print one JSON object")
    list_.set_defaults(run=list_nodes)
    for name, function, text in (
        ("add", add, "make a secret for a new node"),
        ("renew", renew, "give a node a new secret; the old one ends"),
        ("revoke", revoke, "listen to this node no more"),
        ("export-secrets", export_secrets, "print the secrets file that the node needs, as JSON"),
    ):
        verb = verbs.add_parser(name, help=text)
        verb.add_argument("node", metavar="NODE", help="1 to 16 characters of a-z, 0-9 and -, first a letter")
        if function is export_secrets:
            verb.add_argument(
                "--host",
                metavar="HOST",
                help="where the node finds the broker ([nodes] host); not on loopback",
            )
            verb.add_argument(
                "--password-file",
                type=Path,
                metavar="FILE",
                help="the node's password at that broker, of mode 0600; its user name there is NODE",
            )
        verb.set_defaults(run=function)


def add(args: argparse.Namespace) -> int:
    """Add a node; the agent that runs listens to it at once."""
    folder = open_folder(args.settings.state)
    node = Registry(folder.nodes).add(args.node)
    print(f"added node {node.name}; `fedclient nodes export-secrets {node.name}` prints what it needs")
    _tell(folder, args.settings.nodes)
    return 0


def renew(args: argparse.Namespace) -> int:
    """Replace a node's secret."""
    folder = open_folder(args.settings.state)
    node = Registry(folder.nodes).renew(args.node)
    print(f"node {node.name} has a new secret, of generation {node.generation}; the old one counts no more")
    _tell(folder, args.settings.nodes)
    return 0


def revoke(args: argparse.Namespace) -> int:
    """Forget a node's secret; its samples stay."""
    folder = open_folder(args.settings.state)
    node = Registry(folder.nodes).revoke(args.node)
    print(f"node {node.name} is revoked; its samples stay (`fedclient samples purge --node {node.name}`)")
    _tell(folder, args.settings.nodes)
    return 0


def export_secrets(args: argparse.Namespace) -> int:
    """Print a node's secrets file; raises ConfigError where its samples would cross a network unasked."""
    settings: NodeSettings = args.settings.nodes
    folder = open_folder(args.settings.state)
    node = Registry(folder.nodes).get(args.node)
    if node.secret is None:
        raise UsageError(f"node {node.name} is revoked: `fedclient nodes renew {node.name}` ends that")
    host = args.host or settings.host
    if not (settings.tls or settings.allow_plaintext or is_loopback(host)):
        raise ConfigError(
            f"samples would go to {host} without encryption: "
            "in [nodes] set tls = true, or allow_plaintext = true"
        )
    broker = settings.broker
    told = {
        "format": FORMAT,
        "federation": settings.federation,
        "node": node.name,
        "generation": node.generation,
        "secret": node.secret.hex(),
        "host": host,
        "port": broker.port,
        "tls": broker.tls,
    }
    if args.password_file is not None:
        told |= {"username": node.name, "password": read_password(args.password_file, "--password-file")}
    print(json.dumps(told))
    if is_loopback(host):
        print(
            f"fedclient: only this machine itself finds the broker at {host}: a board needs --host HOST",
            file=sys.stderr,
        )
    return 0


def list_nodes(args: argparse.Namespace) -> int:
    """Print what is known of each node."""
    folder = open_folder(args.settings.state)
    enabled = args.settings.nodes.enabled
    notes = _ask(folder) if enabled else []  # the agent writes down what it has counted
    told = _suited(folder, collect(folder, personal=args.settings.nodes.personal))
    if args.json:
        print(json.dumps({"enabled": enabled, "nodes": told, "notes": notes}))
        return 0
    for one in told:
        print("\n".join(_lines(one)))
    if not told:
        print("no nodes: `fedclient nodes add NODE` adds one")
    for note in notes:
        print(note)
    if not enabled:
        print("nobody listens to them: set [nodes] enabled = true")
    return 0


def _lines(one: dict[str, Any]) -> Iterator[str]:
    """Say of one node what its figures are."""
    if one["generation"] is None:
        name = one["node"] or "(strangers)"
    else:
        state = "revoked" if one["revoked"] else f"generation {one['generation']}"
        name = f"{one['node']} ({state})"
    line = f"{name:<34}{one['samples']} samples, {one['labelled']} labelled"
    if one["newest_unix_s"] is not None:
        line += f", the last {duration(max(0.0, time.time() - one['newest_unix_s']))} ago"
    yield line
    if one["head"] or one["head_note"]:
        head = f"{one['head']}, {one['head_bytes']} bytes" if one["head"] else "none"
        yield f"  head: {'; '.join(filter(None, (head, one['head_note'])))}"
    yield from (f"  {what}: {count}" for what, count in one["counts"].items())
    yield from (f"  not trained on: {count} {why}" for why, count in one["unsuited"].items())


def collect(folder: DeviceFolder, *, personal: bool = False) -> list[dict[str, Any]]:
    """Return each node with its figures; at its end who was heard of and is none."""
    known = Registry(folder.nodes).load()
    heads = {name: name if personal else headfile.POOLED for name, node in known.items() if not node.revoked}
    with SampleStore(folder.samples) as store:
        stats = store.node_stats()
    found = []
    for name in [*sorted(known), *(name for name in stats if name not in known)]:
        node, figures = known.get(name), stats.get(name)
        found.append(
            {
                "node": name,
                "generation": None if node is None else node.generation,
                "revoked": node is not None and node.revoked,
                "samples": 0 if figures is None else figures.samples,
                "labelled": 0 if figures is None else figures.labelled,
                "newest_unix_s": None if figures is None else figures.newest_unix_s,
                "counts": {} if figures is None else dict(figures.counts),
                **_head(folder, heads.get(name)),
            }
        )
    return found


def _suited(folder: DeviceFolder, told: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add which of a node's samples its head cannot be trained with, and why; {} where there is no head."""
    with SampleStore(folder.samples) as store:
        kinds = store.node_kinds()
    for one in told:
        unsuited: Counter[str] = Counter()
        head: NodeHead | None = one.pop("decoded")
        for node, values, label, count in kinds:
            if head is not None and node == one["node"] and (why := _unsuited(head, values, label)):
                unsuited[why] += count
        one["unsuited"] = dict(unsuited.most_common(MOST))
    return told


def _unsuited(head: NodeHead, values: int, label: Label) -> str:
    takes = head.layers[0].columns
    if values != takes:
        return f"of {values} values, the head takes {takes}"
    if label is None or knows(head, label):
        return ""
    return f"labelled {label}, which is none of the head's classes"


def _head(folder: DeviceFolder, file: str | None) -> dict[str, Any]:
    """Return which head a node gets, its length as a message, and what there is to say of it."""
    found = None if file is None else headfile.load(folder.node_heads, file)
    if found is None or not found.body:
        note = None if found is None else found.why or None
        return {"head": None, "head_bytes": None, "head_note": note, "decoded": None}
    head = decode_head(found.body)
    version = head.version
    return {
        "decoded": head,
        "head": f"{version.generation}.{version.version}",
        "head_bytes": len(found.body) + TAG_BYTES,
        "head_note": found.why or None,
    }


def summary(folder: DeviceFolder) -> dict[str, Any]:
    """Return what `fedclient status` says of nodes."""
    told = collect(folder)
    refused: dict[str, int] = {}
    for one in told:
        for what in REFUSALS:
            if count := one["counts"].get(what):
                refused[what] = refused.get(what, 0) + count
    return {
        "nodes": sum(one["generation"] is not None and not one["revoked"] for one in told),
        "samples": sum(one["samples"] for one in told),
        "refused": refused,
        "sent_again": sum(one["counts"].get(intake.AGAIN, 0) for one in told),
    }


def _tell(folder: DeviceFolder, settings: NodeSettings) -> None:
    """Have the agent look at the file; one that does not answer looks before it takes a message."""
    if not settings.enabled:
        print("nobody listens to nodes here yet: set [nodes] enabled = true", file=sys.stderr)
    else:
        _ask(folder)


def _ask(folder: DeviceFolder) -> list[str]:
    """Have the agent look, and return what it says is wrong with its nodes."""
    try:
        answer = console.ask(folder.path, {"ask": "status"}, ANSWER_S)
    except Unreachable as error:
        print(f"fedclient: {error}", file=sys.stderr)
        return []
    if answer is None:
        return ["nobody listens to them now: the agent does not run"]
    return [note for note in answer["notes"] if note.startswith(NOTE)]
