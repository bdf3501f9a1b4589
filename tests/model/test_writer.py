from __future__ import annotations

import sys

import numpy as np
import pytest

from fedclient.errors import UsageError
from fedclient.model import schema
from fedclient.model.document import Document
from fedclient.model.head import write_head
from fedclient.model.layout import Scalar
from fedclient.model.schema import Op, TensorType
from fedclient.model.writer import ModelWriter, Quantization
from fedclient.runtime.interpreter import open_signatures


def doubled(constant):
    model = ModelWriter("test")
    graph = model.graph("double")
    x = graph.input("x", (-1, 3))
    graph.output("y", graph.op(Op.MUL, [x, graph.constant(constant)], (-1, 3)))
    return model


def test_what_is_written_runs():
    double = open_signatures(doubled(np.array([2, 3, 4], np.float32)).to_bytes(), threads=1, delegates=False)[
        "double"
    ]
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert double({"x": x})["y"].tolist() == [[0, 3, 8], [6, 12, 20]]


def test_bytes_are_aligned_for_the_runtime_and_written_once():
    constant = np.arange(1, 4, dtype=np.float32)
    model = doubled(constant)
    model.graph("double", signature=False).constant(constant)
    data = model.to_bytes()
    assert data[4:8] == b"TFL3"
    assert data.count(constant.tobytes()) == 1
    assert data.index(constant.tobytes()) % 16 == 0


def test_big_endian_numbers_are_written_little_endian():
    data = doubled(np.array([2, 3, 4], np.float32)).to_bytes()
    assert np.array([2, 3, 4], "<f4").tobytes() in data


def test_without_flatbuffers_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(UsageError, match="pip install"):
        write_head(4, 3)


@pytest.mark.parametrize(
    ("values", "how", "version"),
    [
        (np.array([0, 128, 255], np.uint8), Quantization(scale=(0.5,), zero_point=(128,)), 1),
        (np.array([-128, 0, 127], np.int8), Quantization(scale=(0.25,), zero_point=(-3,)), 2),
        (np.array([-300, 0, 300], np.int16), Quantization(scale=(0.125,), zero_point=(0,)), 3),
        (np.array([-1.5, 0, 2.5], np.float16), None, 3),
    ],
)
def test_dequantize_computes_what_the_numbers_stand_for(values, how, version):
    model = ModelWriter("test")
    graph = model.graph("run")
    stored = graph.constant(values)
    scale, zero = (how.scale[0], how.zero_point[0]) if how else (1.0, 0)
    if how:
        assert graph.quantize(stored, how) == stored
    # Added to an input: an output that is constant is not computed when the graph runs.
    y = graph.op(Op.ADD, [graph.dequantize(stored, (3,)), graph.input("x", (3,))], (3,))
    graph.output("y", y)
    data = model.to_bytes()
    found = open_signatures(data, threads=1, delegates=False)["run"]({"x": np.ones(3, np.float32)})["y"]
    assert found.tolist() == ((values.astype(np.float64) - zero) * scale + 1).tolist()
    assert Document.read(data).operator_codes[0].version == version


def test_operators_with_other_versions_and_names_have_codes_of_their_own():
    model = ModelWriter("test")
    codes = [(9, 1, ""), (9, 4, ""), (32, 1, "A"), (32, 1, "B"), (9, 1, ""), (142, 1, "")]
    assert [model.code(*code) for code in codes] == [0, 1, 2, 3, 0, 4]
    model.graph("empty")
    found = Document.read(model.to_bytes()).operator_codes
    assert [(code.op, code.version, code.custom) for code in found] == [*codes[:4], codes[5]]


def test_an_operator_may_have_many_outputs_and_a_variable_keeps_its_value():
    model = ModelWriter("test")
    graph = model.graph("run")
    x = graph.input("x", (2, 1))
    assert graph.kind(x) == TensorType.FLOAT32
    assert graph.kind(graph.variable((1,), TensorType.INT8)) == TensorType.INT8
    halves = [graph.tensor((1,), TensorType.FLOAT32) for _ in range(2)]
    options = {
        schema.Operator.OPTIONS_TYPE: Scalar("Uint8", 64),
        schema.Operator.OPTIONS: {0: Scalar("Int32", 2)},
    }
    graph.many_op(model.code(88), [x], halves, options)  # UNPACK
    for number, half in enumerate(halves):
        graph.output(str(number), half)
    found = open_signatures(model.to_bytes(), threads=1, delegates=False)["run"]
    assert found({"x": np.array([[3], [4]], np.float32)}) == {"0": [3], "1": [4]}
    assert [tensor.is_variable for tensor in Document.read(model.to_bytes()).graphs[0].tensors][:2] == [
        False,
        True,
    ]


def test_ten_megabytes_in_many_buffers_are_no_work():
    model = ModelWriter("test")
    graph = model.graph("run")
    graph.output("y", graph.input("x", (1,)))
    count = sum(1 for number in range(2000) if graph.constant(np.full(1300, number, np.float32)))
    data = model.to_bytes()
    assert len(data) > 10_000_000
    assert len(Document.read(data).buffers) == count + 1


def test_a_constant_and_what_is_made_once_are_one_tensor_of_a_graph():
    model = ModelWriter("test")
    one, two = model.graph("one"), model.graph("two")
    ten = one.constant(np.array([10], np.float32))
    assert one.constant(np.array([10], np.float32)) == ten
    assert one.constant(np.array(10, np.float32)) != ten
    assert one.constant(np.array([10], np.int32)) != ten
    made = []
    for graph in (one, one, two):
        graph.once("handle", lambda: made.append(1) or len(made))
    assert len(made) == 2


def test_equal_options_are_one_table():
    model = ModelWriter("test")
    first = model.options({0: Scalar("Int8", 1), 1: Scalar("Int8", 2)})
    assert model.options({1: Scalar("Int8", 2), 0: Scalar("Int8", 1)}) is first
    assert model.options({0: Scalar("Int8", 1)}) is not first
