"""Which nodes there are, and their secrets: one file of mode 0600 in the device's folder of keys.

`fedclient nodes` writes it, the agent reads it; it is replaced by rename, so a reader sees all of it.
A revoked node keeps its name and generation: a secret of that generation never counts again.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from fedclient.errors import ConfigError, FinalError, StorageDamaged, StorageError, UsageError
from fedclient.limits import MAX_NODE_GENERATION
from fedclient.nodes.keys import SECRET_BYTES, Node
from fedclient.storage import disk_errors, read_file, write_file
from fedclient.wire.topics import check_node

FORMAT: Final = 1
MAX_NODES: Final = 4096  # as many as one device listens to
_MAX_BYTES: Final = 1 << 20


class Registry:
    """The file of nodes; `path` need not be there: then there are none."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None

    def load(self) -> dict[str, Node]:
        """Return all nodes by name; raises StorageError or ConfigError when the file cannot be used."""
        self._seen = self._mark()
        if self._seen is None:
            return {}
        with disk_errors(self._path):
            mode = self._path.stat().st_mode
        if mode & 0o077:
            raise ConfigError(f"{self._path}: others may read these secrets: chmod 0600 it")
        try:
            found = json.loads(read_file(self._path, _MAX_BYTES))
            if found["format"] != FORMAT:
                raise ConfigError(f"{self._path}: a newer fedclient wrote it; upgrade this one")
            return {name: _node(name, **fields) for name, fields in found["nodes"].items()}
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise StorageDamaged(
                f"{self._path} is not what was written: put a copy back, or remove it and add the nodes again"
            ) from None

    def has_changed(self) -> bool:
        """Whether the file is another one than `load` has read, or cannot be looked at: `load` says why."""
        try:
            return self._mark() != self._seen
        except StorageError:
            return True

    def add(self, name: str) -> Node:
        """Make a secret for a new node.  Raises UsageError for a name that is taken."""
        with self._edit() as nodes:
            known = nodes.get(check_node(name))
            if known is not None:
                what = "was revoked" if known.revoked else "is there already"
                raise UsageError(f"node {name} {what}: `fedclient nodes renew {name}` gives it a new secret")
            if len(nodes) >= MAX_NODES:
                raise FinalError(f"there are {MAX_NODES} nodes already, more than one device listens to")
            nodes[name] = Node(name=name, generation=1, secret=os.urandom(SECRET_BYTES))
        return nodes[name]

    def renew(self, name: str) -> Node:
        """Give a node a new secret and the next generation; the old one ends."""
        with self._edit() as nodes:
            generation = _known(nodes, name).generation + 1
            if generation > MAX_NODE_GENERATION:
                raise FinalError(f"node {name} has used up its generations: add it under another name")
            nodes[name] = Node(name=name, generation=generation, secret=os.urandom(SECRET_BYTES))
        return nodes[name]

    def revoke(self, name: str) -> Node:
        """Forget a node's secret: nothing it says counts any more."""
        with self._edit() as nodes:
            nodes[name] = replace(_known(nodes, name), secret=None)
        return nodes[name]

    def get(self, name: str) -> Node:
        """Return one node; raises UsageError for one that was never added."""
        return _known(self.load(), name)

    @contextmanager
    def _edit(self) -> Iterator[dict[str, Node]]:
        """Change what is stored, one command at a time."""
        with disk_errors(self._path.parent):
            folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            nodes = self.load()
            yield nodes
            write_file(self._path, _written(nodes), mode=0o600)
        finally:
            os.close(folder)

    def _mark(self) -> tuple[int, int, int] | None:
        with disk_errors(self._path), suppress(FileNotFoundError):
            found = self._path.stat()
            return found.st_ino, found.st_mtime_ns, found.st_size
        return None


def _known(nodes: Mapping[str, Node], name: str) -> Node:
    node = nodes.get(check_node(name))
    if node is None:
        there = ", ".join(sorted(nodes)) or "none"
        raise UsageError(f"there is no node {name}, there are: {there}; `fedclient nodes add {name}` adds it")
    return node


def _node(name: str, generation: Any, secret: Any) -> Node:
    found = None if secret is None else bytes.fromhex(secret)
    if type(generation) is not int or not 1 <= generation <= MAX_NODE_GENERATION:
        raise ValueError(generation)
    if found is not None and len(found) != SECRET_BYTES:
        raise ValueError(name)
    return Node(name=check_node(name), generation=generation, secret=found)


def _written(nodes: Mapping[str, Node]) -> bytes:
    fields = {
        name: {"generation": node.generation, "secret": None if node.secret is None else node.secret.hex()}
        for name, node in sorted(nodes.items())
    }
    return (json.dumps({"format": FORMAT, "nodes": fields}, indent=1) + "\n").encode()
