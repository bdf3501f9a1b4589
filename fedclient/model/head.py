"""Write a trainable head: a softmax layer, or one hidden layer with max(z, 0) below it.

    z1 = x W1' + b1    h = max(z1, 0)    z = h W2' + b2    p = softmax(z)        (hidden)
    z  = x W'  + b     p = softmax(z)                                            (linear)

    loss = mean over the batch of -log p[y];    g = (p - one_hot(y)) / B
    slope of W: g' (input of the layer) + l2 W + mu (W - anchor)
    slope of b: sum(g) + mu (b - anchor)

With `personal`, z += h P' + p (x P' + p): trained with the slopes of `output`, without the anchor, as it is
never sent.  With `normalize`, x is first (x - mean) / sqrt(max(mean_square - mean^2, 1e-12)).  Then, with
the slope s of each trained tensor w:

    sgd         w -= learning_rate s
    momentum    v = momentum v + learning_rate s    w -= v
    adam        m = 0.9 m + s    a = 0.9 a + 1    v = 0.999 v + s^2    b = 0.999 b + 1
                w -= learning_rate (m / a) / (sqrt(v / b) + 1e-7)

Adam's m / a and v / b are the bias-corrected means of the paper; its slots are sums.  What is in a head and
in its state is in `layers.py`.  The signatures are those of DESIGN section 5; there is none with
a scalar input (LiteRT on aarch64 crashes on one), and the batch is dynamic.  The weights are resource
variables: every graph first runs the `init` graph once, so that whichever is called first finds them set.
The derivative of max(z, 0) at 0 is 0.  Weights that start as zeros are made by FILL and cost no bytes.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fedclient.model import ops
from fedclient.model.layers import anchor, head_of
from fedclient.model.optimizers import REGULARISED, Steps, hyper_parameters
from fedclient.model.options import HeadOptions, Optimizer
from fedclient.model.passes import backward, batch_size, forward, output_loss
from fedclient.model.writer import ModelWriter

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedclient.model.layers import Head, Shapes
    from fedclient.model.writer import Graph

__all__ = ["HeadGraphs", "HeadOptions", "Optimizer", "head_of", "metadata", "write_head"]

METADATA_NAME: Final = "fedclient"
METADATA_VERSION: Final = 2  # 1 had no options: plain SGD without l2, mu or a state
_DEFAULT: Final = HeadOptions()


def write_head(
    features: int, classes: int, hidden: int | None = None, seed: int = 0, options: HeadOptions = _DEFAULT
) -> bytes:
    """Return a .tflite file of a head that can be trained; equal arguments give equal bytes.

    `seed` matters to a hidden head only.  Raises UsageError for a number out of its bounds.
    """
    writer = ModelWriter("fedclient head")
    HeadGraphs(writer, head_of(features, classes, hidden, seed, options)).add_signatures()
    writer.metadata(METADATA_NAME, metadata(hidden, options))
    return writer.to_bytes()


def metadata(hidden: int | None, options: HeadOptions = _DEFAULT, **more: Any) -> bytes:
    """Return what marks a file as ours, and says which reference computes its step; and `more` to note."""
    told = {"hidden": hidden, "version": METADATA_VERSION, **asdict(options), **more}
    return json.dumps(told, sort_keys=True).encode()


class HeadGraphs:
    """The graphs of one head, in a file that may have others; `head_of` says what the head is.

    Its variables are in a container of their own.  The caller adds `metadata` to the file.
    """

    def __init__(self, writer: ModelWriter, head: Head) -> None:
        """Add the graphs that give the variables their first values; no signature yet."""
        self.head = head
        self._writer = writer
        self._init = writer.graph("init", signature=False)
        self._init_state = writer.graph("init_state", signature=False) if self.head.slots else None
        self._write_init()

    def add_signatures(self) -> None:
        """Add `infer`, `train`, and those that get and set the weights and the training's state."""
        infer = self._writer.graph("infer")
        x = infer.input("x", (-1, self.head.features))
        infer.output("logits", self.logits(infer, x))
        self._train(self._writer.graph("train"))
        get_weights = self._writer.graph("get_weights")
        self._begin(get_weights)
        _output(get_weights, self.head.tensors)
        self._set_weights(self._writer.graph("set_weights"))
        get_state = self._writer.graph("get_state")
        self._begin_with_state(get_state)
        _output(get_state, self.head.state)
        self._set_state(self._writer.graph("set_state"))

    def logits(self, graph: Graph, x: int) -> int:
        """Add the head to `graph`: from float32 [B, D], which is tensor `x`, to logits [B, C]."""
        self._begin(graph)
        return forward(graph, self.head, x).logits

    def _begin(self, graph: Graph) -> None:
        ops.call_once(graph, self._init)

    def _begin_with_state(self, graph: Graph) -> None:
        self._begin(graph)
        if self._init_state:  # apart: an app that only predicts has no use for the slots' memory
            ops.call_once(graph, self._init_state)

    def _write_init(self) -> None:
        for name, shape in self.head.tensors.items():
            value = _initial(self._init, self.head.first(name), shape)
            ops.assign(self._init, name, value)
            if name in self.head.anchored:
                ops.assign(self._init, anchor(name), value)
        for name, shape in self.head.slots.items():
            if self._init_state:
                ops.assign(self._init_state, name, ops.filled(self._init_state, 0, shape))

    def _train(self, graph: Graph) -> None:
        """Choose one of two graphs: a step that has no use for the anchors does not read them."""
        self._begin_with_state(graph)
        if self.head.options.optimizer is Optimizer.ADAM:  # where that would hardly be noticed
            self._step(graph, regularised=True)
            return
        inputs = self._inputs(graph)
        regularised = self._writer.graph("regularised_step", signature=False)
        plain = self._writer.graph("plain_step", signature=False)
        self._step(regularised, regularised=True)
        self._step(plain, regularised=False)
        asked = ops.any_set(graph, [inputs[name] for name in REGULARISED])
        graph.output("loss", ops.either(graph, asked, (regularised, plain), list(inputs.values())))

    def _inputs(self, graph: Graph) -> dict[str, int]:
        x = {"x": graph.input("x", (-1, self.head.features)), "y": graph.input("y", (-1,), np.int32)}
        return x | {name: graph.input(name, ops.ONE) for name in hyper_parameters(self.head.options)}

    def _step(self, graph: Graph, *, regularised: bool) -> None:
        inputs = self._inputs(graph)
        steps = Steps(graph, self.head, inputs, regularised=regularised)
        passed = forward(graph, self.head, inputs["x"])
        gradient = output_loss(graph, passed.logits, inputs["y"], self.head.classes)
        factor = ops.divide(graph, steps.factor, batch_size(graph, inputs["y"]), ops.ONE)
        scaled = ops.multiply(graph, gradient, factor, (-1, self.head.classes))
        steps.write(passed.weights, backward(graph, self.head, passed, scaled))

    def _set_weights(self, graph: Graph) -> None:
        self._begin(graph)
        for name, shape in self.head.tensors.items():
            value = graph.input(name, shape)
            ops.assign(graph, name, value)
            if name in self.head.anchored:
                ops.assign(graph, anchor(name), value)

    def _set_state(self, graph: Graph) -> None:
        self._begin_with_state(graph)
        for name, shape in self.head.state.items():
            ops.assign(graph, name, graph.input(name, shape))


def _output(graph: Graph, tensors: Shapes) -> None:
    for name, shape in tensors.items():
        graph.output(name, ops.read(graph, name, shape))


def _initial(graph: Graph, value: NDArray[np.float32] | float, shape: tuple[int, ...]) -> int:
    return ops.filled(graph, value, shape) if isinstance(value, float) else graph.constant(value)
