from __future__ import annotations

import numpy as np
import pytest

from fedclient.model import schema
from fedclient.model.copying import Copied
from fedclient.model.document import Document
from fedclient.model.layout import RawTable, Scalar, Vector
from fedclient.model.schema import Op, TensorType
from fedclient.model.writer import ModelWriter
from fedclient.runtime.interpreter import open_signatures
from tests.model import backbones
from tests.model.backbones import RUNS
from tests.model.test_backbones import inputs_for


def copied(data, keep=None, names=("first",), outputs=None):
    """Copy operators of a file into the graphs `names` of a new one; inputs and outputs are named 0, 1.."""
    document = Document.read(data)
    source = document.graphs[0]
    keep = range(len(source.operators)) if keep is None else keep
    document.require_runnable(0, keep)
    model = ModelWriter("copy")
    graphs = [model.graph(names[0])]
    part = document.copy_into(model, keep)
    graphs += [model.graph(name) for name in names[1:]]
    for graph in graphs:
        graph.adopt(part)
        for number, tensor in enumerate(source.inputs):
            graph.feed(str(number), part.tensor(tensor))
        for number, tensor in enumerate(source.outputs if outputs is None else outputs):
            graph.output(str(number), part.tensor(tensor))
    return model.to_bytes()


def run(data, name, inputs):
    return list(open_signatures(data, threads=1, delegates=False)[name](inputs).values())


def assert_same(original, copy, name):
    signature = open_signatures(original, threads=1, delegates=False)
    (source,) = signature.values()
    inputs = inputs_for(source)
    names = list(Document.read(original).signatures[0].inputs)
    want = source(inputs)
    outputs = list(Document.read(original).signatures[0].outputs)
    found = run(copy, name, {str(number): inputs[key] for number, key in enumerate(names)})
    for number, key in enumerate(outputs):
        assert found[number].tobytes() == want[key].tobytes()


@pytest.mark.parametrize("name", RUNS)
def test_a_copy_computes_the_same_bits_in_every_graph(name):
    original = RUNS[name]()
    both = copied(original, names=("first", "second"))
    for graph in ("first", "second"):
        assert_same(original, both, graph)
    assert both == copied(original, names=("first", "second"))
    assert len(both) - len(copied(original)) <= 256  # tables are written once


def test_a_copy_of_a_copy_is_the_same_bytes():
    once = copied(backbones.loop())
    again = copied(once)
    assert len(again) == len(once)


def test_the_mobilenet_is_copied_bit_for_bit_and_two_graphs_cost_as_much_as_one(shared):
    original = (shared / "models/mobilenet_v2_035_96_embedder_with_metadata.tflite").read_bytes()
    one, two = copied(original), copied(original, names=("first", "second"))
    print(f"{len(original)} bytes; copied {len(one)}; in two graphs {len(two)}")
    assert len(one) < 1.01 * len(original)
    assert len(two) - len(one) < 4096
    image = np.random.default_rng(0).random((1, 96, 96, 3), np.float32)
    for signature in open_signatures(original, threads=1, delegates=False).values():
        (want,) = signature({signature.inputs[0].name: image}).values()
    for graph in ("first", "second"):
        assert run(two, graph, {"0": image})[0].tobytes() == want.tobytes()


def test_what_only_the_cut_head_used_is_gone():
    original = Document.read(backbones.classifier())
    conv, mean, connected, softmax = original.graphs[0].operators
    part = copied(backbones.classifier(), keep=[1, 0], outputs=mean.outputs)
    document = Document.read(part)
    (graph,) = document.graphs
    assert [operator.op for operator in graph.operators] == [Op.CONV_2D, Op.MEAN]
    assert [code.op for code in document.operator_codes] == [Op.CONV_2D, Op.MEAN]
    kept = {number for operator in (conv, mean) for number in operator.inputs + operator.outputs}
    assert {tensor.name for tensor in graph.tensors} == {original.graphs[0].tensors[n].name for n in kept}
    head = original.buffers[original.graphs[0].tensors[connected.inputs[1]].buffer]
    assert head
    assert head not in part
    assert softmax.outputs[0] not in kept


def test_graphs_that_are_called_keep_their_numbers_and_those_that_are_not_are_left_out():
    document = Document.read(copied(backbones.loop(), names=("first", "second")))
    assert [graph.name for graph in document.graphs] == ["first", "condition", "body", "second"]
    assert document.graphs[0].operators[0].calls == (1, 2)
    source = Document.read(backbones.loop())
    model = ModelWriter("copy")
    model.graph("first")
    source.copy_into(model, [1, 2])
    assert model.graphs == 1


def test_a_graph_between_two_that_are_called_becomes_an_empty_one():
    model = ModelWriter("source")
    outer = model.graph("outer")
    inner = [model.graph(f"inner{number}", signature=False) for number in range(1, 4)]
    for graph in inner:
        graph.output("y", graph.op(Op.MUL, [graph.input("x", (1, 2))] * 2, (1, 2)))
    calls = {0: Scalar("Int32", 3), 1: Scalar("Int32", 1)}
    flag, x = outer.constant(np.ones((), np.bool_)), outer.input("x", (1, 2))
    options = {
        schema.Operator.OPTIONS_TYPE: Scalar("Uint8", schema.OPTIONS[Op.IF]),
        schema.Operator.OPTIONS: calls,
    }
    y = outer.tensor((1, 2), TensorType.FLOAT32)
    outer.many_op(model.code(Op.IF), [flag, x], [y], options)
    outer.output("y", y)
    copy = copied(model.to_bytes())
    document = Document.read(copy)
    assert [len(graph.operators) for graph in document.graphs] == [1, 1, 0, 1]
    assert_same(model.to_bytes(), copy, "first")


def test_graphs_that_are_called_are_copied_before_there_is_a_second_graph():
    model = ModelWriter("copy")
    model.graph("first")
    model.graph("second")
    source = Document.read(backbones.loop())
    with pytest.raises(ValueError, match="copy before adding a second graph"):
        source.copy_into(model, [0])


def test_every_part_of_an_operator_and_a_tensor_is_copied():
    model = ModelWriter("source")
    graph = model.graph("all")
    x = graph.input("x", (-1, 2))
    state = graph.variable((1, 2), TensorType.FLOAT32, "state")
    inner = graph.tensor((), TensorType.FLOAT32, "inner")
    y = graph.tensor((1, 2), TensorType.FLOAT32, "y")
    graph._tensors[y] = {**graph._tensors[y], schema.Tensor.HAS_RANK: Scalar("Bool", 1)}
    options = {
        schema.Operator.CUSTOM_OPTIONS: b"flexible",
        schema.Operator.MUTATING: Vector(1, b"\0\1"),
        schema.Operator.INTERMEDIATES: (inner,),
    }
    graph.many_op(model.code(Op.CUSTOM, 3, "Mfcc"), [x, state, -1], [y], options)
    seed = RawTable(fields=(4 + 8, 4), body=b"\2" + bytes(7) + b"\1" + bytes(7), start=4)
    z = graph.tensor((2,), TensorType.FLOAT32, "z")
    random = {schema.Operator.OPTIONS_TYPE: Scalar("Uint8", 114), schema.Operator.OPTIONS: seed}
    graph.many_op(model.code(148), [graph.constant(np.array([2], np.int32))], [z], random)
    handle = graph.tensor((), TensorType.RESOURCE)
    graph.typed_op(Op.VAR_HANDLE, [], handle, {0: "container", 1: "name"})
    graph.output("y", y)
    before, after = (Document.read(data) for data in (model.to_bytes(), copied(model.to_bytes())))
    assert before.operator_codes == after.operator_codes
    for old, new in zip(before.graphs[0].operators, after.graphs[0].operators, strict=True):
        assert old == new
    for old, new in zip(before.graphs[0].tensors, after.graphs[0].tensors, strict=True):
        assert old == new
    assert after.graphs[0].operators[1].options == seed


def test_no_graph_adopts_late():
    graph = ModelWriter("copy").graph("first")
    graph.input("x", (1,))
    with pytest.raises(ValueError, match="adopt them before any other"):
        graph.adopt(Copied(tensors=[], operators=[], numbers={}))
