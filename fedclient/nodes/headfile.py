"""The heads that nodes get, as files: a child that has NumPy writes them, the agent sends them.

`<state>/nodes/` (0700: a head for one node never leaves this machine but to that node) has one file for
all nodes, `_pooled`, or one for each, by its name.  A file is a line of JSON, that says what it was made of,
and the body of a `head` message; an empty body says, in `why`, that there is none to be had.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from fedclient import limits
from fedclient.errors import StorageError, WireError
from fedclient.nodes.messages import decode_head
from fedclient.storage import disk_errors, make_folder, read_file, write_file

POOLED: Final = "_pooled"  # which is no name of a node
_HEADER_MAX_BYTES: Final = 4096
_KINDS: Final = {"adopted_sha256": str, "revision": int, "why": str, "labels": int, "examples": int}


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeHeadArguments:
    """What the agent tells the child that writes these files."""

    parent: int  # process id of the agent
    state: str
    nodes: tuple[str, ...]  # a head for each is made, tuned on its samples; none: one for all
    tuned_epochs: int
    min_judged: int  # held-out samples of a node, to keep a tuned head only where it is not worse
    nice: int
    idle: bool
    memory_mib: int | None
    verbose: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadFile:
    """One of the files; `revision` counts them, so that a node takes another head of the same version too."""

    adopted_sha256: str  # of the adopted head that this one was made of
    revision: int
    why: str  # what there is to say, for `fedclient status`
    body: bytes
    labels: int = 0  # how many the node had given when it was made
    examples: int = 0  # how many samples of the node it was tuned and judged on

    def is_outgrown(self, labels: int, least: int) -> bool:
        """Whether a node that has given so many labels by now has enough new ones to tune its head anew.

        Half as many as there were samples, `least` at the least: so it is seldom done, and ever more seldom
        as long as all samples are kept.  A count that fell is of another store.
        """
        return not 0 <= labels - self.labels < max(least, self.examples // 2)

    def save(self, folder: Path, name: str) -> None:
        """Put it in the place of the one before."""
        _make(folder)
        told = asdict(self)
        del told["body"]
        write_file(folder / name, json.dumps(told).encode() + b"\n" + self.body, mode=0o600)


def load(folder: Path, name: str) -> HeadFile | None:
    """Return a head file; None where there is none that is whole."""
    path = folder / name
    try:
        with disk_errors(path):
            if not path.exists():
                return None
        line, _, body = read_file(path, _HEADER_MAX_BYTES + limits.MAX_NODE_HEAD_BYTES).partition(b"\n")
        found = HeadFile(**json.loads(line), body=body)
        if any(type(getattr(found, part)) is not kind for part, kind in _KINDS.items()):
            return None
        if body:
            decode_head(body)
    except (StorageError, WireError, ValueError, TypeError, RecursionError):
        return None  # it is written anew
    return found


def forget(folder: Path) -> None:
    """Let go of what was made of samples that are purged; the revisions go on."""
    if not folder.is_dir():
        return
    with alone(folder):
        for name in _names(folder):
            before = load(folder, name)
            if before is not None:
                _forgotten(before.revision).save(folder, name)
            else:
                (folder / name).unlink(missing_ok=True)


def _forgotten(revision: int) -> HeadFile:
    """Return what keeps the count, and is made anew."""
    return HeadFile(adopted_sha256="", revision=revision, why="", body=b"")


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep a purge from coming between a look at the samples that there are and what is written of them."""
    _make(folder)
    with disk_errors(folder):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # which ends with its process, too
        yield
    finally:
        os.close(descriptor)


def _make(folder: Path) -> None:
    with disk_errors(folder):
        if not folder.is_dir():
            make_folder(folder, 0o700)


def _names(folder: Path) -> list[str]:
    with disk_errors(folder):
        return [path.name for path in folder.iterdir()] if folder.is_dir() else []


def remove_others(folder: Path, names: set[str]) -> None:
    """Let go of the heads of nodes that there are no more.

    Between one head for all and one for each the count goes on: a node takes nothing below what it has.
    """
    others = set(_names(folder)) - names
    if not others:
        return
    with alone(folder):
        if POOLED in others | names:
            before = [one for name in others if (one := load(folder, name)) is not None]
            for name in names:
                own = load(folder, name)
                counted = [one.revision for one in (*before, own) if one is not None]
                _forgotten(max(counted, default=0)).save(folder, name)
        with disk_errors(folder):
            for name in others:
                (folder / name).unlink(missing_ok=True)
