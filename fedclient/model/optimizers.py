"""From slopes to steps: SGD, momentum and Adam with L2 and FedProx, as operations in a graph.

A kernel may have megabytes, so that each operation on one counts.  Numbers are multiplied into the small
matrices that slopes are made of, where that is possible, and `ops.shared` keeps operations fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedclient.model import ops
from fedclient.model.layers import anchor
from fedclient.model.options import ADAM_EPSILON, ADAM_FIRST, ADAM_SECOND, HeadOptions, Optimizer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fedclient.model.layers import Head
    from fedclient.model.ops import Shape
    from fedclient.model.writer import Graph

RATE, MOMENTUM, L2, MU = "learning_rate", "momentum", "l2", "mu"
REGULARISED = (L2, MU)


def hyper_parameters(options: HeadOptions) -> tuple[str, ...]:
    """Return the names of what `train` takes besides x and y."""
    return (RATE, *([MOMENTUM] if options.optimizer is Optimizer.MOMENTUM else []), *REGULARISED)


class Steps:
    """Writes the steps of all trained tensors into `graph`; `hyper` are numbers of shape [1], by name.

    `factor` is that of the slopes which `write` takes: the learning rate, but for Adam, where it is 1.
    `regularised`: with L2 and FedProx.
    """

    def __init__(self, graph: Graph, head: Head, hyper: Mapping[str, int], *, regularised: bool) -> None:
        self._graph = graph
        self._head = head
        self._hyper = hyper
        self._regularised = regularised
        self._optimizer = head.options.optimizer
        adam = self._optimizer is Optimizer.ADAM
        self.factor = ops.number(graph, 1) if adam else hyper[RATE]

    def write(self, weights: Mapping[str, int], slopes: Mapping[str, int]) -> None:
        """Assign every trained tensor its next value."""
        graph = self._graph
        penalty, change = self._penalty(), self._kind()
        for name, weight in weights.items():
            shape = self._head.trained[name]
            slope = penalty(name, weight, ops.shared(graph, slopes[name], shape), shape)
            ops.assign(graph, name, ops.subtract(graph, weight, change(name, slope, shape), shape))

    def _penalty(self) -> Callable[[str, int, int, Shape], int]:
        """Return what adds l2 w + mu (w - anchor) to the slope of w."""
        if not self._regularised:
            return lambda _name, _weight, slope, _shape: slope
        graph = self._graph
        pull, decay = (ops.multiply(graph, self.factor, self._hyper[name], ops.ONE) for name in (MU, L2))
        both = ops.add(graph, pull, decay, ops.ONE)

        def penalty(name: str, weight: int, slope: int, shape: Shape) -> int:
            anchored, kernel = name in self._head.anchored, name.endswith("/kernel")
            if anchored or kernel:
                shrink = both if anchored and kernel else pull if anchored else decay
                slope = self._sum(slope, self._times(weight, shrink, shape), shape)
            if not anchored:
                return slope
            away = self._times(self._read(anchor(name), shape), pull, shape)
            return ops.shared(graph, ops.subtract(graph, slope, away, shape), shape)

        return penalty

    def _kind(self) -> Callable[[str, int, Shape], int]:
        """Return what makes the change of a tensor of its slope."""
        if self._optimizer is Optimizer.MOMENTUM:
            return lambda name, slope, shape: self._gathered(
                f"momentum/{name}", self._hyper[MOMENTUM], slope, shape
            )
        return self._adam() if self._optimizer is Optimizer.ADAM else lambda _name, slope, _shape: slope

    def _adam(self) -> Callable[[str, int, Shape], int]:
        graph = self._graph
        one, betas = ops.number(graph, 1), (ops.number(graph, ADAM_FIRST), ops.number(graph, ADAM_SECOND))
        first, second = (
            self._gathered(kind, beta, one, ops.ONE)
            for kind, beta in zip(("first", "second"), betas, strict=True)
        )
        # sqrt(v / b) is sqrt(v) / sqrt(b): that factor goes into the rate.
        root = ops.root(graph, second, ops.ONE)
        epsilon = ops.multiply(graph, root, ops.number(graph, ADAM_EPSILON), ops.ONE)
        rate = ops.divide(graph, ops.multiply(graph, self._hyper[RATE], root, ops.ONE), first, ops.ONE)

        def change(name: str, slope: int, shape: Shape) -> int:
            mean = self._gathered(f"first/{name}", betas[0], slope, shape)
            square = self._times(slope, slope, shape)
            size = ops.root(graph, self._gathered(f"second/{name}", betas[1], square, shape), shape)
            below = self._sum(ops.shared(graph, size, shape), epsilon, shape)
            return self._times(ops.shared(graph, ops.divide(graph, mean, below, shape), shape), rate, shape)

        return change

    def _gathered(self, slot: str, keep: int, new: int, shape: Shape) -> int:
        """Return keep * slot + new, which becomes the slot's value."""
        value = self._sum(self._times(self._read(slot, shape), keep, shape), new, shape)
        ops.assign(self._graph, slot, value)
        return value

    def _read(self, name: str, shape: Shape) -> int:
        return ops.shared(self._graph, ops.read(self._graph, name, shape), shape)

    def _times(self, left: int, right: int, shape: Shape) -> int:
        return ops.shared(self._graph, ops.multiply(self._graph, left, right, shape), shape)

    def _sum(self, left: int, right: int, shape: Shape) -> int:
        return ops.shared(self._graph, ops.add(self._graph, left, right, shape), shape)
