"""Heads for nodes: the adopted head as int8 layers, one for all nodes or one tuned for each.

What the model does to its input (feature statistics) is folded into the first layer, a personal layer
into the last.  Whether the layers are the model is not taken from names: both compute the same probes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedclient import limits, runtime
from fedclient.device.database import open_database
from fedclient.device.folder import DeviceFolder
from fedclient.device.journal import Journal
from fedclient.device.slots import Slot, Slots
from fedclient.errors import DataError, ModelError
from fedclient.model.options import VARIANCE_FLOOR
from fedclient.nodes import headfile
from fedclient.nodes.headfile import POOLED, HeadFile, NodeHeadArguments
from fedclient.nodes.intake import LABELLED
from fedclient.nodes.keys import TAG_BYTES
from fedclient.nodes.messages import NodeHead, NodeHeadVersion, NodeLayer, encode_head
from fedclient.runtime import TrainableModel
from fedclient.runtime.tensors import unflatten
from fedclient.samples.store import SampleStore
from fedclient.training.dataset import Features, prepare
from fedclient.training.loop import Examples, HeadTraining
from fedclient.training.verdict import decide, measure
from fedclient.values import MEAN, MEAN_SQUARE, Manifest, Verdict

log = logging.getLogger(__name__)

_PROBES: Final = 16  # rows that the model and its layers are compared on
_AGREE: Final = 1e-3  # of the greatest logit: float32 sums of a thousand terms differ by less
_SEED: Final = 6

Dense = tuple[NDArray[np.float64], NDArray[np.float64]]  # weights [rows, columns], bias [rows]


def run(arguments: NodeHeadArguments, should_stop: Callable[[], bool]) -> int:
    """Write the files that were asked for; returns the exit code."""
    maker = _Maker(arguments, should_stop)
    for name in arguments.nodes or (POOLED,):
        if should_stop():
            break
        maker.make(name)
    return 0


class _Maker:
    """Makes the file of each head."""

    def __init__(self, arguments: NodeHeadArguments, should_stop: Callable[[], bool]) -> None:
        self._arguments = arguments
        self._should_stop = should_stop
        self._folder = DeviceFolder(Path(arguments.state))
        self._slot, model, head = Slots(self._folder.current).read()
        self._adopted = np.frombuffer(head, "<f4").astype(np.float32)
        self._model, self._why = _loaded(model, self._adopted)

    def make(self, name: str) -> None:
        """Write one file."""
        folder, (epoch, labels) = self._folder.node_heads, self._samples(name)  # before they are read
        before = headfile.load(folder, name)
        why, examples, revision, body = self._why, 0, before.revision if before else 0, b""
        if self._model is not None:
            try:
                self._model.set_weights(self._adopted)
                if name != POOLED:
                    why, examples = self._tune(self._model, name)
                if self._should_stop():
                    return  # half tuned is no answer; it is asked again
                body = body_of(self._model, self._slot, revision)
                if before and body != before.body:  # nodes take no other head under the same number
                    revision += 1
                    body = body_of(self._model, self._slot, revision)
            except ModelError as error:
                why, body = str(error), b""
        made = HeadFile(
            adopted_sha256=self._slot.head_sha256,
            revision=revision,
            why=why,
            body=body,
            labels=labels,
            examples=examples,
        )
        with headfile.alone(folder):
            if self._samples(name)[0] != epoch:
                log.warning("samples were purged meanwhile: the head for %s is made again", name)
                return
            made.save(folder, name)
        whose = "all nodes" if name == POOLED else name
        log.info("head %s for %s: %s", self._slot.version, whose, why or "written")

    def _samples(self, name: str) -> tuple[int, int]:
        """Return which samples there are to tune a node's head on, and how many labels it has given."""
        if name == POOLED:
            return 0, 0
        with SampleStore(self._folder.samples) as store:
            return store.epoch, store.node_counts(LABELLED).get(name, 0)

    def _tune(self, model: TrainableModel, node: str) -> tuple[str, int]:
        """Train the model's head on a node's samples; set the adopted one again if that is not better.

        Returns what came of it, and on how many samples that rests.
        """
        manifest = self._manifest()
        if manifest is None:
            return "the adopted head: its manifest is gone", 0
        training = self._examples(model, node, manifest, holdout=False)
        held = self._examples(model, node, manifest, holdout=True)
        least, used = self._arguments.min_judged, len(training or ()) + len(held or ())
        if training is None or held is None or min(len(training), len(held)) < least:
            return f"the adopted head: no {least} samples of this node to tune on, and to judge on", used
        theirs = measure(model, held)
        plan = replace(manifest.plan, epochs=self._arguments.tuned_epochs, mu=0.0)
        tuning = HeadTraining(model=model, examples=training, plan=plan, seed=_SEED)
        tuning.run(self._should_stop, lambda _: None)  # `make` keeps nothing of one that was cut short
        ours = measure(model, held)
        verdict, why = decide(ours, theirs, model.classes, margin=0.0)
        if verdict is not Verdict.ADOPTED:
            model.set_weights(self._adopted)
            return f"the adopted head: {why}", used
        what = f"right on {ours.accuracy:.1%} of {len(held)}, the adopted head on {theirs.accuracy:.1%}"
        return f"tuned: {what}", used

    def _manifest(self) -> Manifest | None:
        database = open_database(self._folder)
        try:
            return Journal(database).manifest(self._slot.version)
        finally:
            database.close()

    def _examples(
        self, model: TrainableModel, node: str, manifest: Manifest, *, holdout: bool
    ) -> Examples | None:
        """Return a node's samples that the model can use; None where there is none."""
        with SampleStore(self._folder.samples) as store:
            of_node = store.of_node(node)
            usable = store.usable(limits.MAX_EXAMPLES, manifest.labels, holdout=holdout)
            ids = [row for row in usable if row in of_node][: manifest.plan.max_examples]
            try:
                return prepare(store.read(ids), model, manifest.labels, Features(model)).examples
            except DataError:
                return None


def _loaded(model: bytes, head: NDArray[np.float32]) -> tuple[TrainableModel | None, str]:
    """Return the model if nodes can compute its head, or why not."""
    try:
        found = runtime.load(model)
        found.set_weights(head)
        dense_layers(found)
    except ModelError as error:
        return None, str(error)
    return found, ""


def body_of(model: TrainableModel, slot: Slot, revision: int) -> bytes:
    """Return the body of a `head` message of the weights that `model` has; raises ModelError."""
    layers = dense_layers(model)
    rows = len(layers[-1][1])
    head = NodeHead(
        version=NodeHeadVersion(slot.version.generation, slot.version.version, revision),
        layers=tuple(quantized(*layer, relu=layer is not layers[-1]) for layer in layers),
        labels=slot.labels if len(slot.labels) == rows else (),
    )
    body = encode_head(head)
    if len(body) + TAG_BYTES > limits.MAX_NODE_HEAD_BYTES:
        raise ModelError(
            f"a head for nodes would have {len(body) + TAG_BYTES} bytes, the limit is "
            f"{limits.MAX_NODE_HEAD_BYTES}: nodes get none"
        )
    return body


def quantized(weights: NDArray[np.float64], bias: NDArray[np.float64], *, relu: bool) -> NodeLayer:
    """Return the layer in int8, each row with its scale; raises ModelError where int8 cannot hold it."""
    greatest = np.abs(weights).max(axis=1)
    scales = np.where(greatest > 0, greatest / 127, 1.0).astype("<f4")
    if not (np.isfinite(scales).all() and (scales > 0).all() and np.isfinite(bias.astype("<f4")).all()):
        raise ModelError("the head has weights too small or too large for int8: nodes get none")
    levels = np.clip(np.rint(weights / scales[:, None].astype(np.float64)), -127, 127).astype(np.int8)
    return NodeLayer(
        relu=relu, weights=levels.tobytes(), scales=scales.tobytes(), bias=bias.astype("<f4").tobytes()
    )


def dense_layers(model: TrainableModel) -> list[Dense]:
    """Return the model's head as dense layers, with ReLU between them.

    Raises ModelError, with the reason in one sentence, for a model that is anything else.
    """
    if model.has_features:
        raise ModelError("the model has a backbone, which nodes cannot run: they get no head")
    if model.classes < 2:
        raise ModelError("the model has a single output: nodes get no head")
    flat = unflatten(model.get_weights(), model.tensors)
    weights = {name: value.astype(np.float64) for name, value in flat.items()}
    layers = _layers(weights)
    _prove(model, layers, weights)
    return layers


def _layers(weights: dict[str, NDArray[np.float64]]) -> list[Dense]:
    names = {"output": ["output", "personal"], "hidden": ["hidden"]}
    known = {f"{one}/{part}" for group in names.values() for one in group for part in ("kernel", "bias")}
    if not {"output/kernel", "output/bias"} <= weights.keys() <= known | {MEAN, MEAN_SQUARE}:
        raise ModelError(
            "the head is not of dense layers as `fedclient model new-head` makes: nodes get none"
        )
    layers = []
    for group in (names["hidden"], names["output"]):
        there = [one for one in group if f"{one}/kernel" in weights]
        if there:
            kernel = np.sum([weights[f"{one}/kernel"] for one in there], axis=0)
            layers.append((kernel, np.sum([weights[f"{one}/bias"] for one in there], axis=0)))
    if MEAN in weights:
        mean, spread = weights[MEAN], _spread(weights)
        kernel = layers[0][0] / spread
        layers[0] = kernel, layers[0][1] - kernel @ mean
    return layers


def _spread(weights: dict[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    variance = weights[MEAN_SQUARE] - weights[MEAN] ** 2
    spread: NDArray[np.float64] = np.sqrt(np.maximum(variance, VARIANCE_FLOOR))
    return spread


def _prove(model: TrainableModel, layers: Sequence[Dense], weights: dict[str, NDArray[np.float64]]) -> None:
    """Compare the layers with the model on rows such as it may get; raises ModelError."""
    rows = np.random.default_rng(_SEED).standard_normal((_PROBES, model.features))
    if MEAN in weights:
        rows = weights[MEAN] + rows * _spread(weights)
    probes = rows.astype(np.float32)
    try:
        told = model.infer(probes.reshape(_PROBES, *model.x_shape))
        y = probes.astype(np.float64)
        for kernel, bias in layers:
            y = (y if kernel is layers[0][0] else np.maximum(y, 0)) @ kernel.T + bias
    except ValueError:
        raise ModelError("the head's layers do not fit each other: nodes get none") from None
    if y.shape != told.shape or np.abs(y - told).max() > _AGREE * max(1.0, float(np.abs(told).max())):
        raise ModelError("the model computes something else than its dense layers: nodes get no head")
