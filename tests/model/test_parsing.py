from __future__ import annotations

import pytest

from fedclient.errors import ModelError
from fedclient.model import layout, parsing, schema
from fedclient.model.document import Document
from fedclient.model.layout import Scalar, Vector
from fedclient.model.reader import Table
from fedclient.model.schema import Op, TensorType
from fedclient.model.writer import ModelWriter
from tests.model import backbones
from tests.model.backbones import CHANNELS, FEATURES, Backbone, Layers


def changed(*, tensor=None, operator=None):
    """Read a small model after adding fields to one tensor and one operator."""
    model = Backbone(Layers())
    x = model.conv(model.picture(), "map", (CHANNELS, FEATURES, 3))
    graph = model.graph
    graph._tensors[x] = {**graph._tensors[x], **(tensor or {})}
    graph._operators[0] = {**graph._operators[0], **(operator or {})}
    return Document.read(model.finish(map=x)).graphs[0]


def test_everything_of_a_model_is_read():
    document = Document.read(backbones.int8_per_channel())
    (graph,) = document.graphs
    image, kernel, bias, first = graph.tensors[:4]
    assert (graph.inputs, image.name, image.shape, image.kind) == (
        (0,),
        "serving_default_image",
        (1, 8, 8, 3),
        TensorType.INT8,
    )
    assert image.scale == (1 / 128,)
    assert kernel.scale == pytest.approx([(1 + i / 6) / 64 for i in range(6)])
    assert kernel.zero_point == (0,) * 6
    assert (bias.kind, len(document.buffers[bias.buffer])) == (TensorType.INT32, 24)
    assert first.name == "map"
    conv = graph.operators[0]
    assert (conv.op, conv.version, conv.inputs, conv.outputs) == (Op.CONV_2D, 3, (0, 1, 2), (3,))
    assert document.signatures[0].inputs == {"image": 0}
    assert document.signatures[0].outputs == {"probabilities": graph.outputs[0]}


def test_state_loops_and_dynamic_shapes_are_read():
    lstm = Document.read(backbones.lstm()).graphs[0]
    assert [tensor.name for tensor in lstm.tensors if tensor.is_variable] == ["activation", "cell"]
    assert lstm.operators[0].inputs[-4:] == (-1,) * 4
    loop = Document.read(backbones.loop()).graphs[0]
    assert loop.operators[0].calls == (1, 2)
    image = Document.read(backbones.dynamic_sides()).graphs[0].tensors[0]
    assert (image.shape, image.shape_signature) == ((1, 1, 1, 3), (1, -1, -1, 3))


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({schema.Tensor.SPARSITY: {}}, "is sparse (field sparsity)"),
        ({schema.Tensor.VARIANT: [{}]}, "(field variant_tensors)"),
        ({schema.Tensor.EXTERNAL_BUFFER: Scalar("Uint32", 1)}, "(field external_buffer)"),
        (
            {schema.Tensor.QUANTIZATION: {schema.Quantization.DETAILS_TYPE: Scalar("Uint8", 1)}},
            "(field quantization.details)",
        ),
    ],
)
def test_what_a_tensor_has_beyond_the_plain_runtime_is_its_flaw(fields, sentence):
    graph = changed(tensor=fields)
    assert sentence in graph.tensors[3].flaw
    assert not graph.tensors[0].flaw


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({schema.Operator.OPTIONS_2_TYPE: Scalar("Uint8", 3)}, "(field builtin_options_2)"),
        (
            {schema.Operator.LARGE_OPTIONS: Vector(8, b"")},  # a reference where a number belongs
            "(field large_custom_options_offset)",
        ),
        ({schema.Operator.CUSTOM_FORMAT: Scalar("Int8", 1)}, "(field custom_options_format)"),
        ({schema.Operator.OPTIONS: {9: Scalar("Int32", 1)}}, "whose field 9 is newer"),
    ],
)
def test_what_an_operator_has_beyond_the_plain_runtime_is_its_flaw(fields, sentence):
    assert sentence in changed(operator=fields).operators[0].flaw


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({schema.Operator.INPUTS: (0, 1, 9)}, r"a tensor of operator CONV_2D \(0\) is number 9 of 4"),
        ({schema.Operator.INPUTS: (0, -2)}, "is number -2 of 4"),
        ({schema.Operator.OUTPUTS: (4,)}, "is number 4 of 4"),
        ({schema.Operator.INTERMEDIATES: (4,)}, "is number 4 of 4"),
        ({schema.Operator.CODE_INDEX: Scalar("Uint32", 1)}, "the code of operator 0 is number 1 of 1"),
    ],
)
def test_an_operator_whose_numbers_lead_nowhere_is_refused(fields, sentence):
    with pytest.raises(ModelError, match=sentence):
        changed(operator=fields)


def test_a_tensor_without_a_buffer_is_refused():
    with pytest.raises(ModelError, match="the buffer of tensor 'map' is number 77 of"):
        changed(tensor={schema.Tensor.BUFFER: Scalar("Uint32", 77)})


def test_a_loop_over_a_graph_that_is_not_there_is_refused():
    model = Backbone(Layers())
    options = {schema.Operator.OPTIONS_TYPE: Scalar("Uint8", schema.OPTIONS[Op.WHILE])}
    options |= {schema.Operator.OPTIONS: {0: Scalar("Int32", 1), 1: Scalar("Int32", 2)}}
    model.graph.many_op(model.model.code(Op.WHILE), [model.picture()], [], options)
    with pytest.raises(ModelError, match=r"a graph that operator WHILE \(0\) runs is number 1 of 1"):
        Document.read(model.finish())


def test_inputs_outputs_and_signatures_are_in_bounds(monkeypatch):
    model = ModelWriter("test")
    graph = model.graph("named")
    graph.feed("x", 5)
    with pytest.raises(ModelError, match="an input or output of graph 0 is number 5 of 0"):
        Document.read(model.to_bytes())
    graph._inputs.clear()
    monkeypatch.setattr(graph, "index", 3)
    with pytest.raises(ModelError, match="the signature 'named' is number 3 of 1"):
        Document.read(model.to_bytes())
    monkeypatch.setattr(graph, "index", 0)
    monkeypatch.setattr(type(graph), "table", lambda _: {})
    graph.feed("x", 5)
    with pytest.raises(ModelError, match="the signature 'named' is number 5 of 0"):
        Document.read(model.to_bytes())


def test_metadata_is_read_by_name():
    model = ModelWriter("test")
    model.graph("empty")
    model.metadata("one", b"1")
    model.metadata("two", b"2")
    model.metadata("one", b"other")
    assert Document.read(model.to_bytes()).metadata == {"one": b"1", "two": b"2"}
    model._metadata.append({schema.Metadata.NAME: "lost", schema.Metadata.BUFFER: Scalar("Uint32", 44)})
    with pytest.raises(ModelError, match="the metadata 'lost' is number 44 of"):
        Document.read(model.to_bytes())


def test_buffers_elsewhere_are_told_apart_and_placeholders_are_not():
    tables = [{}, {1: Vector(8, b"")}, {0: b"data"}]
    data = layout.lay_out({schema.Model.BUFFERS: tables}, 64)
    contents, external = parsing.buffers(Table.root(data), data)
    assert contents == (b"", b"", b"data")
    assert external == {1}


def test_a_file_without_buffers_has_the_empty_one():
    data = layout.lay_out({schema.Model.VERSION: Scalar("Uint32", 3)}, 64)
    assert parsing.buffers(Table.root(data), data) == ((b"",), frozenset())


def test_buffers_may_be_one_and_may_not_overlap():
    same = {schema.Buffer.DATA: bytes(1000)}
    data = layout.lay_out({schema.Model.BUFFERS: [same] * 500}, 64)
    assert parsing.buffers(Table.root(data), data)[0] == (bytes(1000),) * 500
    tables = [{schema.Buffer.DATA: bytes([i]) * 1000} for i in range(3)]
    data = bytearray(layout.lay_out({schema.Model.BUFFERS: tables}, 64))
    for content in (bytes([i]) * 1000 for i in (1, 2)):  # the first of them now reach as far as the last
        at = data.index(content) - 4
        data[at : at + 4] = (len(data) - at - 4).to_bytes(4, "little")
    with pytest.raises(ModelError, match="its buffers overlap"):
        parsing.buffers(Table.root(bytes(data)), bytes(data))


def test_old_files_have_small_operator_codes_only():
    codes = [
        {schema.OperatorCode.DEPRECATED_CODE: Scalar("Int8", 25)},
        {
            schema.OperatorCode.DEPRECATED_CODE: Scalar("Int8", 127),
            schema.OperatorCode.CODE: Scalar("Int32", 129),
        },
    ]
    found = parsing.operator_codes(Table.root(layout.lay_out({schema.Model.OPERATOR_CODES: codes}, 64)))
    assert [(code.op, code.version) for code in found] == [(Op.SOFTMAX, 1), (Op.CALL_ONCE, 1)]
