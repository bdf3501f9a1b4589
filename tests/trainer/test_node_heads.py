"""Heads for nodes: int8 layers that compute what the model computes, or a sentence why there are none."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedclient import runtime
from fedclient.device import folder as folders
from fedclient.device.slots import Slots
from fedclient.errors import ModelError
from fedclient.model.head import HeadOptions, write_head
from fedclient.nodes import head as reference
from fedclient.nodes import headfile
from fedclient.nodes.headfile import POOLED, NodeHeadArguments
from fedclient.nodes.intake import LABELLED
from fedclient.nodes.messages import NodeHeadVersion, NodeSample, decode_head
from fedclient.samples.array import as_array
from fedclient.samples.nodes import NodeRow
from fedclient.trainer import node_heads
from fedclient.values import HeadVersion
from tests.trainer.setup import CLASSES, FEATURES, Bench, samples


def trained(model: bytes, seed: int = 5) -> np.ndarray:
    """Return weights that are not zero; statistics are sound."""
    loaded, chance = runtime.load(model), np.random.default_rng(seed)
    parts = []
    for spec in loaded.tensors:
        value = chance.normal(size=spec.shape)
        if spec.name == "normalize/mean_square":
            value = parts[-1] ** 2 + chance.uniform(0.1, 4, size=spec.shape)
        parts.append(value.astype(np.float32).astype(np.float64))
    return np.concatenate([one.ravel() for one in parts]).astype(np.float32)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(folders.create(tmp_path / "state"))


def adopt(bench: Bench, head: np.ndarray, version: int = 1) -> None:
    manifest = bench.publish(HeadVersion(1, version), head=head.tobytes())
    Slots(bench.folder.current).adopt(manifest, bench.model, head.tobytes())


def run(bench: Bench, *nodes: str, should_stop: Callable[[], bool] = lambda: False) -> None:
    arguments = NodeHeadArguments(
        parent=os.getpid(), state=str(bench.folder.path), nodes=nodes, tuned_epochs=5, min_judged=10,
        nice=0, idle=False, memory_mib=None, verbose=False,
    )  # fmt: skip
    assert node_heads.run(arguments, should_stop) == 0


def written(bench: Bench, name: str = POOLED) -> headfile.HeadFile:
    found = headfile.load(bench.folder.node_heads, name)
    assert found is not None
    return found


MODELS = {
    "one layer": write_head(FEATURES, CLASSES),
    "hidden": write_head(FEATURES, CLASSES, hidden=7),
    "statistics": write_head(FEATURES, CLASSES, options=HeadOptions(normalize=True)),
    "all": write_head(FEATURES, CLASSES, hidden=7, options=HeadOptions(normalize=True, personal=True)),
}


@pytest.mark.parametrize("kind", MODELS)
def test_the_head_of_a_node_answers_as_the_model_does(bench: Bench, kind: str) -> None:
    bench.model = MODELS[kind]
    head = trained(bench.model)
    adopt(bench, head)
    run(bench)
    made = decode_head(written(bench).body)
    assert made.version == NodeHeadVersion(1, 1, 0)
    model = runtime.load(bench.model)
    model.set_weights(head)
    x = np.random.default_rng(8).normal(size=(500, FEATURES)).astype(np.float32)
    logits = model.infer(x)
    found = np.array([reference.outputs(made, as_sample(row)) for row in x]) / 2**reference.UNIT
    assert np.abs(found - logits).max() < 0.02 * np.abs(logits).max()
    assert (found.argmax(axis=1) == logits.argmax(axis=1)).mean() > 0.97


def as_sample(row: np.ndarray) -> NodeSample:
    return NodeSample(nonce=bytes(8), counter=1, dtype="float32", data=row.tobytes(), scale=None)


def test_a_row_of_zeros_has_the_scale_of_one(bench: Bench) -> None:
    adopt(bench, runtime.load(bench.model).get_weights())
    run(bench)
    (layer,) = decode_head(written(bench).body).layers
    assert layer.weights == bytes(CLASSES * FEATURES)
    assert np.frombuffer(layer.scales, "<f4").tolist() == [1.0] * CLASSES


def test_each_other_head_has_a_number_of_its_own(bench: Bench) -> None:
    adopt(bench, trained(bench.model))
    run(bench)
    before = (bench.folder.node_heads / POOLED).stat()
    run(bench)
    assert decode_head(written(bench).body).version == NodeHeadVersion(1, 1, 0)  # it is the same
    assert before.st_mode & 0o777 == 0o600
    assert bench.folder.node_heads.stat().st_mode & 0o777 == 0o700
    adopt(bench, trained(bench.model, seed=6), version=2)
    run(bench)
    assert decode_head(written(bench).body).version == NodeHeadVersion(1, 2, 1)
    headfile.forget(bench.folder.node_heads)  # a purge
    assert written(bench).body == b""
    run(bench)
    assert decode_head(written(bench).body).version == NodeHeadVersion(1, 2, 2)


def test_a_model_that_computes_something_else_is_refused(bench: Bench, monkeypatch) -> None:
    adopt(bench, trained(bench.model))
    monkeypatch.setattr(
        runtime.TrainableModel, "infer", lambda _, x: np.tanh(x @ np.ones((FEATURES, CLASSES)))
    )
    run(bench)
    assert written(bench).body == b""
    assert "computes something else than its dense layers" in written(bench).why


def test_a_model_with_a_backbone_is_refused(bench: Bench, monkeypatch) -> None:
    model = runtime.load(bench.model)
    model.has_features = True
    with pytest.raises(ModelError, match="backbone"):
        node_heads.dense_layers(model)


def test_a_head_too_large_for_a_message_is_refused(bench: Bench) -> None:
    bench.model = write_head(2000, 40)
    adopt(bench, trained(bench.model))
    run(bench)
    assert "the limit is 65536" in written(bench).why


def record(bench: Bench, node: str, xs: list, labels: list) -> None:
    first = len(bench.store.of_node(node)) + 1
    with bench.store.node_rows() as rows:
        rows.count({(node, LABELLED): len(labels)})
        rows.add(
            [
                NodeRow(
                    node=node,
                    generation=1,
                    counter=first + at,
                    label_counter=first + at,
                    array=as_array(x),
                    label=label,
                )
                for at, (x, label) in enumerate(zip(xs, labels, strict=True))
            ],
            0,
        )


def test_each_node_gets_a_head_tuned_on_its_own_samples(bench: Bench) -> None:
    bench.store = type(bench.store)(bench.folder.samples, holdout=0.3)
    adopt(bench, trained(bench.model) / 10)
    xs, labels = samples(120)
    record(bench, "shed", xs, labels)
    record(bench, "barn", xs, [(label + 1) % CLASSES for label in labels])  # means something else by them
    record(bench, "idle", xs[:5], labels[:5])
    run(bench, "shed", "barn", "idle")
    heads = {name: decode_head(written(bench, name).body) for name in ("shed", "barn", "idle")}
    for name, turned in (("shed", 0), ("barn", 1)):
        right = sum(
            reference.predict(heads[name], as_sample(np.float32(x))) == (label + turned) % CLASSES
            for x, label in zip(xs, labels, strict=True)
        )
        assert right > 85
        assert written(bench, name).why.startswith("tuned")
    assert written(bench, "idle").why.startswith("the adopted head: no 10 samples")
    assert {head.version for head in heads.values()} == {NodeHeadVersion(1, 1, 0)}
    run(bench)
    assert heads["idle"] == decode_head(written(bench).body), "nothing of the node before"


def test_a_head_is_tuned_anew_on_what_has_come(bench: Bench) -> None:
    bench.store = type(bench.store)(bench.folder.samples, holdout=0.3)
    adopt(bench, trained(bench.model) / 10)
    xs, labels = samples(160)
    record(bench, "shed", xs[:20], labels[:20])
    run(bench, "shed")
    first = written(bench, "shed")
    assert first.why.startswith("the adopted head: no 10 samples")
    assert (first.labels, first.examples) == (20, 20)
    record(bench, "shed", xs[20:], labels[20:])
    assert first.is_outgrown(160, 10)
    run(bench, "shed")
    second = written(bench, "shed")
    assert second.why.startswith("tuned")
    assert (second.labels, second.examples) == (160, 160)
    assert decode_head(second.body).version == NodeHeadVersion(1, 1, 1)
    run(bench, "shed")  # on the same samples it is the same head: nodes keep what they have
    assert written(bench, "shed") == second


def test_what_was_stopped_is_not_kept(bench: Bench) -> None:
    bench.store = type(bench.store)(bench.folder.samples, holdout=0.3)
    adopt(bench, trained(bench.model))
    xs, labels = samples(160)
    record(bench, "shed", xs, labels)
    asked = iter([False])  # before the first node, and never again
    run(bench, "shed", "barn", should_stop=lambda: next(asked, True))
    assert list(bench.folder.path.glob("nodes/*")) == []


def test_a_head_of_ones_own_that_is_no_better_is_not_kept(bench: Bench, monkeypatch) -> None:
    bench.store = type(bench.store)(bench.folder.samples, holdout=0.3)
    head = trained(bench.model)
    adopt(bench, head)
    xs, _ = samples(200)
    model = runtime.load(bench.model)
    model.set_weights(head)
    labels = model.infer(np.float32(xs)).argmax(axis=1).tolist()  # the adopted head is always right
    record(bench, "shed", xs, labels)
    monkeypatch.setattr(
        node_heads.HeadTraining, "run", lambda self, *_: self.model.set_weights(-head) or True
    )
    run(bench, "shed")
    run_pooled = decode_head(written(bench, "shed").body)
    assert all(
        reference.predict(run_pooled, as_sample(np.float32(x))) == y
        for x, y in zip(xs[:20], labels[:20], strict=True)
    )
    assert written(bench, "shed").why.startswith("the adopted head: ")


def test_a_purge_while_a_head_is_tuned_leaves_nothing_of_what_is_purged(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    adopt(bench, trained(bench.model))
    body_of = node_heads.body_of

    def purged(*arguments: Any) -> bytes:
        bench.store.purge()
        headfile.forget(bench.folder.node_heads)
        return body_of(*arguments)

    monkeypatch.setattr(node_heads, "body_of", purged)
    run(bench, "shed")
    assert headfile.load(bench.folder.node_heads, "shed") is None
    run(bench)  # the head of all is of no samples here
    assert written(bench).body
