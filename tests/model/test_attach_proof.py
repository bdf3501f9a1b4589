from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from fedclient.model import attach_proof, ops
from fedclient.model.attach import NewHead, attach
from fedclient.model.attach_proof import EXACT, Proved, expose, pack, prove, prove_json
from fedclient.model.head import HeadGraphs, HeadOptions, Optimizer, write_head
from fedclient.model.origin import read_origin
from fedclient.model.schema import CAST_FROM, CAST_TO, Op, TensorType
from fedclient.model.writer import ModelWriter, Scalar
from fedclient.runtime import TrainableModel
from fedclient.runtime.inner import read_output
from tests.model import backbones
from tests.model.backbones import CHANNELS, FEATURES, SIDE, Backbone, Layers

NUMBERS = 5


def proved(parent: bytes, samples: np.ndarray | None = None, **head: object) -> Proved:
    return prove(attach(parent, NewHead(classes=3, **head)).data, parent, samples)


@pytest.mark.parametrize("name", sorted(set(backbones.RUNS) - {"dynamic_sides", "two_inputs", "two_outputs"}))
def test_the_zoo_is_proved(name):
    parent = backbones.RUNS[name]()
    found = prove(
        attach(parent, NewHead(classes=3), free_batch=name not in {"stubborn", "lstm"}).data, parent
    )
    assert found.ok, found.reason
    assert found.max_feature_error <= EXACT
    assert found.max_delegate_error <= EXACT
    assert found.max_training_error < 1e-4


@pytest.mark.parametrize("name", ["stubborn", "lstm"])
def test_what_refuses_to_be_resized_says_that_it_is_the_batch(name):
    found = proved(backbones.RUNS[name]())
    assert found.batch_fails
    assert not found.ok


def test_every_kind_of_head_is_proved():
    options = HeadOptions(optimizer=Optimizer.ADAM, normalize=True, personal=True)
    assert proved(backbones.int8(), hidden=5, options=options).ok


def test_without_the_parent_the_rest_is_proved():
    found = prove(attach(backbones.int8(), NewHead(classes=3)).data)
    assert found.ok
    assert "not compared" in found.reason
    assert found.max_feature_error is None


def test_a_real_backbone_is_proved(shared):
    """On random values and on letters, though its integer weights make delegates round otherwise."""
    parent = (shared / "models" / "mobilenet_v2_035_96_embedder_with_metadata.tflite").read_bytes()
    ink = np.load(shared / "data" / "omniglot_latin" / "latin.npz")["x"][:2, 4:100, 4:100]
    letters = np.repeat(1 - ink[..., None].astype(np.float32), 3, axis=3)
    found = proved(parent, letters)
    assert found.ok, found.reason
    assert found.max_feature_error <= EXACT
    assert 0.001 < found.delegate_drift < 0.1


def another(parent: bytes) -> bytes:
    """The same model with another weight."""
    kernel = backbones.random(FEATURES, FEATURES, 3, 3, CHANNELS) / 3
    return parent.replace(kernel.tobytes(), (kernel + 0.001).astype(np.float32).tobytes())


def test_the_parent_is_the_one_it_was_made_of(monkeypatch):
    parent = backbones.classifier()
    file = attach(parent, NewHead(classes=3)).data
    other = another(parent)
    assert other != parent
    assert "made of another model" in prove(file, other).reason
    monkeypatch.setattr(attach_proof, "_check_parent", lambda *_: None)
    found = prove(file, other)
    assert (found.ok, found.batch_fails) == (False, False)
    assert found.reason.startswith("the features differ from the model's own by ")
    monkeypatch.setattr(attach_proof, "EXACT", np.inf)
    assert prove(file, other).reason.startswith("with delegates, the features differ")
    monkeypatch.setattr(attach_proof, "DELEGATED", np.inf)
    assert prove(file, other).ok
    monkeypatch.setattr(attach_proof, "DRIFT", -1)
    assert "delegates compute other features than" in prove(file, other).reason


@pytest.mark.parametrize(
    ("make", "change", "message"),
    [
        (backbones.int8, {"tap_scale": (1 / 16,)}, "features differ"),
        (backbones.int8, {"tap_zero_point": (1,)}, "features differ"),
        (backbones.classifier, {"index": 3}, "numbers, not 6 features"),
        (backbones.conv_head_meaned, {"averaged": False}, "384 numbers, not 6"),
        (backbones.classifier, {"index": 10_000}, "cannot read the model|no output|does not run"),
    ],
)
def test_a_false_origin_is_found_out(make, change, message, monkeypatch):
    parent = make()
    file = attach(parent, NewHead(classes=3)).data
    origin = read_origin(file)
    top = {name: change[name] for name in change if name.startswith("tap_")}
    told = replace(
        origin, tap=replace(origin.tap, **{k: v for k, v in change.items() if k not in top}), **top
    )
    monkeypatch.setattr(attach_proof, "read_origin", lambda _: told)
    found = prove(file, parent)
    assert not found.ok
    assert np.any([part in found.reason for part in message.split("|")]), found.reason


@pytest.mark.parametrize(("make", "off", "ok"), [
    (backbones.int8, 2 / 32, True), (backbones.int8, 3 / 32, False),
    (backbones.classifier, 5e-5, True), (backbones.classifier, 1e-2, False),
])  # fmt: skip
def test_delegates_may_be_off_by_two_steps_of_quantisation_or_by_a_little(make, off, ok, monkeypatch):
    plain = TrainableModel.extract
    monkeypatch.setattr(TrainableModel, "extract", lambda self, rows: plain(self, rows) + np.float32(off))
    found = proved(make())
    assert found.ok is ok
    assert ok or found.reason.startswith("with delegates, the features differ")


def test_predict_that_does_something_else_is_found_out(monkeypatch):
    plain = HeadGraphs.logits

    def negative(self, graph, x):
        logits = plain(self, graph, x)
        return logits if graph.index else graph.op(Op.NEG, [logits], (-1, 3))

    monkeypatch.setattr(HeadGraphs, "logits", negative)
    assert "'predict' differs from 'infer' of 'features'" in proved(backbones.classifier()).reason


def test_a_head_that_is_not_the_reference_is_found_out(monkeypatch):
    monkeypatch.setattr(attach_proof.proof, "TOLERANCE", 0)
    found = proved(backbones.classifier())
    assert not found.ok
    assert "differ from the NumPy reference" in found.reason
    assert found.max_training_error > 0


def test_a_state_that_nothing_resets_is_found_out():
    """Each picture is added to the ones before it, in a resource variable."""
    model = Backbone(Layers())
    mean = model.mean(model.picture(), CHANNELS)
    total = model.graph.op(Op.ADD, [mean, ops.read(model.graph, "total", (1, CHANNELS))], (1, CHANNELS))
    ops.assign(model.graph, "total", total)
    out = model.mean(
        model.graph.op(Op.RESHAPE, [total, ops.numbers(model.graph, 1, 1, 1, 3)], (1, 1, 1, 3)), 3
    )
    once = model.model.graph("begin", signature=False)
    ops.assign(once, "total", once.constant(np.zeros((1, CHANNELS), np.float32)))
    found = prove(attach(with_start(model, once, out), NewHead(classes=3), free_batch=False).data)
    assert "depend on the sample before it" in found.reason


def with_start(model: Backbone, once: object, out: int) -> bytes:
    """Set the variable before anything else."""
    ops.call_once(model.graph, once)
    model.graph._operators.insert(0, model.graph._operators.pop())
    return model.finish(out=out)


def test_features_that_say_nothing_are_refused():
    model = Backbone(Layers())
    nothing = model.graph.op(
        Op.MUL, [model.picture(), model.graph.constant(np.zeros(1, np.float32))], (1, 8, 8, 3)
    )
    assert "the same whatever the sample is" in proved(model.finish(out=model.mean(nothing, 3))).reason


def words() -> bytes:
    """A model of whole numbers that are not quantised."""
    model = Backbone(Layers())
    x = model.graph.input("words", (1, NUMBERS), np.int32)
    types = {CAST_FROM: Scalar("Int8", TensorType.INT32), CAST_TO: Scalar("Int8", TensorType.FLOAT32)}
    floats = model.graph.op(Op.CAST, [x], (1, NUMBERS), types)
    hidden = model.connected(floats, NUMBERS, FEATURES, "hidden")
    return model.finish(logits=model.connected(hidden, FEATURES, 4))


def test_words_need_real_samples():
    assert "give some real samples with --data" in proved(words()).reason
    samples = np.arange(2 * NUMBERS).reshape(2, NUMBERS)
    assert proved(words(), samples).ok


def test_samples_must_fit():
    wrong = np.zeros((2, SIDE, SIDE, 1), np.float32)
    assert (
        proved(backbones.classifier(), wrong).reason == "the samples are [8, 8, 1], the model takes [8, 8, 3]"
    )
    assert "no uint8" in proved(backbones.uint8(), np.full((1, SIDE, SIDE, CHANNELS), 0.5)).reason


def test_what_attach_head_did_not_write_is_said_to_be_so():
    assert "attach-head did not write it" in prove(write_head(4, 3)).reason
    assert "damaged" in prove(b"TFL3" * 8).reason


def test_what_goes_through_the_pipe_comes_out():
    parent = backbones.classifier()
    file = attach(parent, NewHead(classes=3)).data
    samples = np.random.default_rng(0).random((2, SIDE, SIDE, CHANNELS), np.float32)
    for given in (None, samples):
        assert Proved(**json.loads(prove_json(pack(file, parent, given)))) == prove(file, parent, given)


def chain() -> tuple[bytes, list[int]]:
    """Ops that work in place, which is what makes inner tensors unreadable."""
    graph = (model := ModelWriter("chain")).graph("chain")
    tensors = [graph.input("x", (1, 4))]
    one = graph.constant(np.ones(4, np.float32))
    for _ in range(6):
        tensors.append(graph.op(Op.ADD, [tensors[-1], one], (1, 4)))
    graph.output("y", tensors[-1])
    return model.to_bytes(), tensors


@pytest.mark.parametrize("delegates", [False, True])
def test_an_exposed_tensor_is_what_it_was_when_it_was_computed(delegates):
    data, tensors = chain()
    rows = np.arange(8, dtype=np.float32).reshape(2, 4)
    for archive in (b"", b"PK!"):
        for step, tensor in enumerate(tensors[1:], 1):
            found = read_output(
                expose(data + archive, tensor), tensor, rows, feed=tensors[0], delegates=delegates
            )
            np.testing.assert_array_equal(found, rows + step)
