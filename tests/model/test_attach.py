from __future__ import annotations

import json
from hashlib import sha256

import numpy as np
import pytest

from fedclient.errors import ModelError, UsageError
from fedclient.model.attach import NewHead, attach
from fedclient.model.document import Document
from fedclient.model.head import HeadOptions, Optimizer
from fedclient.model.origin import read_origin
from fedclient.runtime import load
from fedclient.runtime.interpreter import open_interpreter
from tests.model import backbones, packages
from tests.model.backbones import CHANNELS, FEATURES, SIDE

PICTURES = np.random.default_rng(5).random((5, SIDE, SIDE, CHANNELS), np.float32)


def test_the_file_has_every_signature_of_the_contract_and_predict_first():
    document = Document.read(attach(backbones.classifier(), NewHead(classes=3)).data)
    names = {signature.key: signature.graph for signature in document.signatures}
    assert names.keys() == {
        "predict", "features", "infer", "train", "get_weights", "set_weights", "get_state", "set_state"
    }  # fmt: skip
    assert names["predict"] == 0


def test_the_same_call_gives_the_same_bytes():
    head = NewHead(classes=3, hidden=4, seed=1)
    assert attach(backbones.int8(), head) == attach(backbones.int8(), head)
    assert attach(backbones.int8(), head) != attach(backbones.int8(), NewHead(classes=3, hidden=4, seed=2))


def test_a_plain_interpreter_runs_predict():
    data = attach(backbones.classifier(), NewHead(classes=3, hidden=4)).data
    interpreter = open_interpreter(data, threads=1, delegates=False)
    interpreter.allocate_tensors()
    (x,), (logits,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.set_tensor(x["index"], PICTURES[:1])
    interpreter.invoke()
    model = load(data)
    np.testing.assert_allclose(
        interpreter.get_tensor(logits["index"]), model.infer(model.extract(PICTURES[:1])), rtol=1e-6
    )
    assert np.abs(interpreter.get_tensor(logits["index"])).max() > 0


def test_any_number_of_samples_or_that_of_the_parent():
    for make, free, batch in ((backbones.classifier, True, -1), (backbones.classifier, False, 1)):
        data = attach(make(), NewHead(classes=3), free_batch=free).data
        features = next(one for one in Document.read(data).signatures if one.key == "features")
        graph = Document.read(data).graphs[features.graph]
        assert graph.tensors[features.inputs["x"]].shape_signature == (batch, SIDE, SIDE, CHANNELS)
        assert load(data).extract(PICTURES).shape == (5, FEATURES)


def test_the_head_is_the_one_that_was_asked_for():
    options = HeadOptions(optimizer=Optimizer.ADAM, normalize=True, personal=True)
    model = load(attach(backbones.uint8(), NewHead(classes=3, hidden=4, options=options)).data)
    names = {tensor.name: tensor.shape for tensor in model.tensors}
    assert names["hidden/kernel"] == (4, FEATURES)
    assert names["personal/kernel"] == (3, 4)
    assert names["normalize/mean"] == (FEATURES,)
    assert any(name.startswith("second/") for name in model.get_state())
    assert (model.sample_dtype, model.sample_shape) == (np.uint8, (SIDE, SIDE, CHANNELS))


def test_the_backbone_is_in_the_file_once_and_the_old_head_is_gone():
    parent = backbones.classifier()
    data = attach(parent, NewHead(classes=3)).data
    kernels = [
        tensor for tensor in Document.read(parent).graphs[0].tensors if tensor.shape[1:] in {(3, 3, 3), (6,)}
    ]
    buffers = Document.read(parent).buffers
    conv, dense = (
        next(buffers[t.buffer] for t in kernels if t.shape == shape) for shape in ((6, 3, 3, 3), (4, 6))
    )
    assert data.count(conv) == 1
    assert data.count(dense) == 0


def test_graphs_that_are_called_keep_their_numbers():
    document = Document.read(attach(backbones.loop(), NewHead(classes=3)).data)
    assert [graph.name for graph in document.graphs[:4]] == ["predict", "condition", "body", "features"]


def test_where_it_comes_from_travels_with_it():
    metadata = packages.described((127.5,), (127.5,), (-1, 1), "labels.txt")
    parent = packages.on(backbones.int8, metadata, {"labels.txt": b"cat\ndog\ncow"})
    origin = read_origin(attach(parent, NewHead(classes=3)).data)
    assert origin.labels == ("cat", "dog", "cow")
    assert (origin.preprocessing.scale, origin.preprocessing.offset) == ((1 / 127.5,), (-1.0,))
    assert origin.input.range == (-1, 1)
    assert origin.input.scale == (1 / 128,)
    assert origin.tap_scale == (1 / 32,)
    assert (origin.parent.sha256, origin.parent.bytes) == (sha256(parent).hexdigest(), len(parent))


def test_labels_of_the_parent_are_taken_only_for_as_many_classes():
    metadata = packages.described(labels="l")
    parent = packages.on(backbones.classifier, metadata, {"l": b"cat\ndog"})
    assert attach(parent, NewHead(classes=2)).labels == ("cat", "dog")
    assert attach(parent, NewHead(classes=3)).labels == ()
    assert attach(parent, NewHead(classes=2, labels=("a", "b"))).labels == ("a", "b")


def test_what_reads_the_metadata_of_a_head_reads_this_one():
    told = json.loads(
        Document.read(attach(backbones.classifier(), NewHead(classes=3)).data).metadata["fedclient"]
    )
    assert told["version"] == 2
    assert told["optimizer"] == "sgd"


def test_refusals():
    trainable = attach(backbones.classifier(), NewHead(classes=3)).data
    with pytest.raises(ModelError, match="trainable one already"):
        attach(trainable, NewHead(classes=3))
    with pytest.raises(UsageError, match="classes must be"):
        attach(backbones.classifier(), NewHead(classes=1))
    for make, named in (
        (backbones.flex, "FlexErf"),
        (backbones.custom, "MyPrivateOp"),
        (backbones.broken_quantization, "scale"),
        (backbones.too_new, "MEAN .* version 99"),
    ):
        with pytest.raises(ModelError, match=named):
            attach(make(), NewHead(classes=3))


def test_what_only_the_old_head_used_is_no_reason_to_refuse():
    assert attach(backbones.custom(), NewHead(classes=3, tap="mean")).tap.name == "mean"


def test_a_real_backbone_grows_by_little(shared):
    parent = (shared / "models" / "mobilenet_v2_035_96_embedder_with_metadata.tflite").read_bytes()
    made = attach(parent, NewHead(classes=26, hidden=None))
    assert made.tap.features == 1280
    assert len(made.data) < 1.01 * (len(parent) + 4 * 26 * 1281)
    trained = attach(parent, NewHead(classes=26, hidden=128))  # its first weights are in the file
    assert len(trained.data) < 1.01 * (len(parent) + 4 * (1281 * 128 + 129 * 26))


def test_the_head_starts_with_the_weights_it_is_given():
    kernel = np.arange(3 * FEATURES, dtype=np.float32).reshape(3, FEATURES)
    model = load(attach(backbones.classifier(), NewHead(classes=3, given={"output/kernel": kernel})).data)
    np.testing.assert_array_equal(model.get_weights(), np.concatenate([np.zeros(3), kernel.ravel()]))
    features = model.extract(PICTURES)
    np.testing.assert_allclose(model.infer(features), features @ kernel.T, rtol=1e-5)
    with pytest.raises(UsageError, match="'output/kernel'"):
        attach(backbones.classifier(), NewHead(classes=3, given={"output/kernel": kernel.T}))
