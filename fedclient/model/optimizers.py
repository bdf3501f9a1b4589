"""From slopes to steps: SGD, momentum and Adam with L2 and FedProx, as operations in a graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedclient.model import ops
from fedclient.model.layers import anchor
from fedclient.model.options import ADAM_EPSILON, ADAM_FIRST, ADAM_SECOND, Optimizer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedclient.model.layers import Head
    from fedclient.model.writer import Graph

RATE, MOMENTUM, L2, MU = "learning_rate", "momentum", "l2", "mu"


class Steps:
    """Writes the steps of all tensors into the graph `train`."""

    def __init__(self, graph: Graph, head: Head) -> None:
        self._graph = graph
        self._head = head
        names = [RATE, *([MOMENTUM] if head.options.optimizer is Optimizer.MOMENTUM else []), L2, MU]
        self._hyper = {name: graph.input(name, (1,)) for name in names}

    def write(self, weights: Mapping[str, int], slopes: Mapping[str, int]) -> None:
        """Assign every trained tensor its next value; all that is read is read before."""
        step = {
            Optimizer.SGD: self._descent,
            Optimizer.MOMENTUM: self._momentum,
            Optimizer.ADAM: self._adam,
        }[self._head.options.optimizer]
        regularised = {name: self._regularised(name, weights[name], slopes[name]) for name in weights}
        changes = step(regularised)
        for name, change in changes.items():
            shape = self._head.trained[name]
            ops.assign(self._graph, name, ops.subtract(self._graph, weights[name], change, shape))

    def _regularised(self, name: str, weight: int, slope: int) -> int:
        """Slope + l2 w, for kernels, + mu (w - anchor)."""
        graph, shape = self._graph, self._head.trained[name]
        if name.endswith("/kernel"):
            slope = ops.add(graph, slope, ops.multiply(graph, weight, self._hyper[L2], shape), shape)
        if name in self._head.anchored:
            away = ops.subtract(graph, weight, ops.read(graph, anchor(name), shape), shape)
            slope = ops.add(graph, slope, ops.multiply(graph, away, self._hyper[MU], shape), shape)
        return slope

    def _descent(self, slopes: Mapping[str, int]) -> dict[str, int]:
        shapes = self._head.trained
        return {name: self._times(slope, self._hyper[RATE], shapes[name]) for name, slope in slopes.items()}

    def _momentum(self, slopes: Mapping[str, int]) -> dict[str, int]:
        found = {
            name: self._gathered(f"momentum/{name}", self._hyper[MOMENTUM], slope)
            for name, slope in slopes.items()
        }
        return self._descent(found)

    def _adam(self, slopes: Mapping[str, int]) -> dict[str, int]:
        graph = self._graph
        betas = {"first": ops.number(graph, ADAM_FIRST), "second": ops.number(graph, ADAM_SECOND)}
        one = ops.number(graph, 1)
        counts = {kind: self._gathered(kind, beta, one) for kind, beta in betas.items()}
        root = ops.root(graph, counts["second"], ops.ONE)
        epsilon = self._times(root, ops.number(graph, ADAM_EPSILON), ops.ONE)
        scaled = self._times(self._hyper[RATE], root, ops.ONE)
        rate = ops.divide(graph, scaled, counts["first"], ops.ONE)
        changes = {}
        for name, slope in slopes.items():
            shape = self._head.trained[name]
            first = self._gathered(f"first/{name}", betas["first"], slope)
            square = self._times(slope, slope, shape)
            second = self._gathered(f"second/{name}", betas["second"], square)
            below = ops.add(graph, ops.root(graph, second, shape), epsilon, shape)
            changes[name] = self._times(ops.divide(graph, first, below, shape), rate, shape)
        return changes

    def _gathered(self, slot: str, keep: int, new: int) -> int:
        """Keep * slot + new, which is the slot's next value."""
        graph, shape = self._graph, self._head.slots[slot]
        kept = self._times(ops.read(graph, slot, shape), keep, shape)
        value = ops.add(graph, kept, new, shape)
        ops.assign(graph, slot, value)
        return value

    def _times(self, left: int, right: int, shape: tuple[int, ...]) -> int:
        return ops.multiply(self._graph, left, right, shape)
