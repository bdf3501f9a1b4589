"""What becomes of genuine messages: each counter is taken once, in the commit that stores its sample.

    replies = intake.commit(heard, now_s)     # all of `heard` in one transaction, in their order
    # the caller sends the replies: they are said after the commit, of what is in it

A commit that fails has changed nothing, here either: the nodes send again.
"""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from fedclient import limits
from fedclient.brokers import NodeSettings
from fedclient.errors import WireError
from fedclient.nodes.messages import Ack, Ask, Label, Malformed, NodeLabel, NodeSample
from fedclient.nodes.receiver import FORM, Heard
from fedclient.nodes.window import Window
from fedclient.samples.array import Array
from fedclient.samples.nodes import NodeRow, NodeRows
from fedclient.samples.store import SampleStore

log = logging.getLogger(__name__)

# What is counted beside the receiver's reasons; the words are in `fedclient status`.
STORED: Final = "stored"
LABELLED: Final = "labels"  # that came, with a sample or later; one that is corrected comes again
AGAIN: Final = "sent again"  # a node that has not had its answer, or somebody who repeats it
RATE: Final = "above the rate"
LARGE: Final = "larger than allowed"
GONE: Final = "labels of samples that are gone"


@dataclass(slots=True)
class _Bucket:
    """How many messages a node may have stored just now."""

    tokens: float = float(limits.NODE_WINDOW)  # all that a node may have kept comes at once
    at_s: float = 0.0

    def take(self, per_s: float, now_s: float) -> bool:
        self.tokens = min(limits.NODE_WINDOW, self.tokens + per_s * max(0.0, now_s - self.at_s))
        self.at_s = now_s
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


@dataclass(slots=True)
class _Turn:
    """One commit in the making."""

    rows: NodeRows
    waiting: dict[tuple[str, int], tuple[int, Label]]  # newest labels: (node, counter of a sample to come)
    windows: dict[str, tuple[int, Window]] = field(default_factory=dict)  # those that this commit touches
    changed: dict[str, None] = field(default_factory=dict)  # those whose window is another one now
    samples: list[NodeRow] = field(default_factory=list)  # not inserted yet
    said: dict[tuple[str, bytes], None] = field(default_factory=dict)  # who hears an ack
    gone: dict[str, list[int]] = field(default_factory=dict)
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)


class Intake:
    """Commits what nodes said into the sample store."""

    def __init__(self, store: SampleStore, settings: NodeSettings) -> None:
        self._store = store
        self._settings = settings
        self._windows: dict[str, tuple[int, Window]] = {}
        self._buckets: dict[str, _Bucket] = {}
        self._uncounted: Counter[tuple[str, str]] = Counter()
        self._held: dict[str, int] = {}  # at least as many samples as each node has

    def refused(self, counts: Counter[tuple[str, str]]) -> None:
        """Count what a receiver refused; it is written with the next commit, or by `flush`."""
        self._uncounted += counts

    def flush(self) -> None:
        """Write what was counted: somebody asks, or this is the end."""
        if self._uncounted:
            with self._store.node_rows() as rows:
                rows.count(self._uncounted)
            self._uncounted = Counter()

    def labels(self) -> dict[str, int]:
        """Return how many labels each node has given."""
        return self._store.node_counts(LABELLED)

    def commit(self, heard: Sequence[Heard], now_s: float) -> list[tuple[str, Ack]]:
        """Store it all, and return who is to hear what.

        Raises what the store raises: then nothing was stored, and nothing may be said.
        """
        with self._store.node_rows() as rows:
            turn = _Turn(rows, rows.waiting({one.node for one in heard}))
            for one in heard:
                self._take(turn, one, now_s)
            self._insert(turn)
            rows.save_windows([(node, *_stored(*turn.windows[node])) for node in turn.changed])
            held = self._trim(turn)
            if turn.changed:  # what is only sent again, or refused, is no reason to write
                rows.count(self._uncounted + turn.counts)
        self._uncounted = Counter() if turn.changed else self._uncounted + turn.counts
        self._windows.update(turn.windows)
        self._held.update(held)
        return [
            (node, _ack(nonce, self._windows[node][1], turn.gone.get(node, []))) for node, nonce in turn.said
        ]

    def _take(self, turn: _Turn, one: Heard, now_s: float) -> None:
        node, said = one.node, one.said
        window = self._window(turn, one)
        turn.said[node, said.nonce] = None
        if isinstance(said, Ask):
            return
        if window.has(said.counter):
            turn.counts[node, AGAIN] += 1
            return
        if not self._buckets.setdefault(node, _Bucket()).take(self._settings.max_per_second, now_s):
            turn.counts[node, RATE] += 1
            return
        turn.windows[node], turn.changed[node] = (one.generation, window.take(said.counter)), None
        if isinstance(said, Malformed) or one.size > self._settings.max_message_bytes:
            turn.counts[node, FORM if isinstance(said, Malformed) else LARGE] += 1
            turn.gone.setdefault(node, []).append(said.counter)
        elif isinstance(said, NodeSample):
            self._sample(turn, one, said)
        else:
            self._label(turn, one, said)

    def _window(self, turn: _Turn, one: Heard) -> Window:
        """Return the node's window; a new generation begins with an empty one."""
        generation, window = turn.windows.get(one.node) or self._windows.get(one.node, (0, Window()))
        if generation != one.generation:
            window = _stored_window(turn, one) or self._first_window(turn, one)
            turn.windows[one.node] = one.generation, window
        elif one.node not in turn.windows:
            turn.windows[one.node] = generation, window
        return window

    def _first_window(self, turn: _Turn, one: Heard) -> Window:
        """Return the window that a generation begins with: above all of it that is stored.

        It may have samples here: the file of nodes is an old copy, or its node was added again.
        """
        turn.rows.begin(one.node)
        turn.waiting = {of: given for of, given in turn.waiting.items() if of[0] != one.node}
        turn.changed[one.node] = None
        return Window(turn.rows.highest(one.node, one.generation))

    def _sample(self, turn: _Turn, one: Heard, sample: NodeSample) -> None:
        given = (sample.counter, sample.label)
        if sample.label is not None:
            turn.counts[one.node, LABELLED] += 1
        if (waited := turn.waiting.pop((one.node, sample.counter), None)) is not None:
            given = waited
            turn.rows.waited(one.node, sample.counter)
        values = sample.values()
        if sys.byteorder == "big":
            values.byteswap()
        turn.samples.append(
            NodeRow(
                node=one.node,
                generation=one.generation,
                counter=sample.counter,
                label_counter=given[0],
                array=Array(dtype="float32", shape=(len(values),), data=values.tobytes()),
                label=given[1],
            )
        )
        turn.counts[one.node, STORED] += 1

    def _label(self, turn: _Turn, one: Heard, label: NodeLabel) -> None:
        self._insert(turn)
        node, given = one.node, (label.counter, label.label)
        if turn.rows.label(node, one.generation, label.of, given):
            turn.counts[node, LABELLED] += 1
        elif turn.windows[node][1].has(label.of):
            turn.counts[node, GONE] += 1
            turn.gone.setdefault(node, []).append(label.counter)
        else:
            turn.counts[node, LABELLED] += 1
            if given[0] > turn.waiting.get((node, label.of), (0,))[0]:
                turn.waiting[node, label.of] = given
                turn.rows.wait(node, label.of, *given)

    def _insert(self, turn: _Turn) -> None:
        if turn.samples:
            turn.rows.add(turn.samples, int(time.time()))
            turn.samples = []

    def _trim(self, turn: _Turn) -> dict[str, int]:
        """Let a node's oldest samples go when it has more than its share; return what each has now."""
        held = {}
        for (node, what), more in turn.counts.items():
            if what != STORED:
                continue
            count = self._held[node] + more if node in self._held else turn.rows.rows(node)
            if count > self._settings.max_samples:
                count = turn.rows.rows(node)  # some may have gone by another way
            if (excess := count - self._settings.max_samples) > 0:
                turn.rows.drop_oldest(node, excess)
                count -= excess
            held[node] = count
        return held


def _stored_window(turn: _Turn, one: Heard) -> Window | None:
    """Return the window of a generation; None where there is none, or none that can be read."""
    stored = turn.rows.window(one.node, one.generation)
    try:
        return None if stored is None else Window.stored(*stored)
    except WireError as error:
        log.error("node %s: %s: it begins anew above its samples", one.node, error)
        return None


def _stored(generation: int, window: Window) -> tuple[int, int, bytes]:
    return generation, window.floor, window.bits()


def _ack(nonce: bytes, window: Window, gone: list[int]) -> Ack:
    return Ack(
        nonce=nonce,
        next=window.next,
        ranges=window.ranges(limits.MAX_ACK_RANGES),
        gone=tuple(sorted(set(gone))[: limits.MAX_ACK_GONE]),
    )
