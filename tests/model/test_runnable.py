from __future__ import annotations

import dataclasses

import pytest

from fedclient.errors import ModelError
from fedclient.model import operators, runnable
from fedclient.model.document import Document
from fedclient.model.runnable import Storage
from fedclient.model.schema import Op, TensorType
from fedclient.model.source import SourceGraph
from tests.model import backbones
from tests.model.backbones import REFUSED, RUNS

CLASSIFIER = Document.read(backbones.classifier())
GRAPH = CLASSIFIER.graphs[0]
STORAGE = Storage(CLASSIFIER.buffers, CLASSIFIER.external_buffers)
CONV, MEAN, CONNECTED, SOFTMAX = GRAPH.operators


def require(*, storage=STORAGE, operator=None, tensor=None, keep=(0, 1, 2, 3)):
    """Check the classifier with one of its parts replaced by another."""
    replaced = {"operators": list(GRAPH.operators), "tensors": list(GRAPH.tensors)}
    for what, part in (("operators", operator), ("tensors", tensor)):
        if part:
            replaced[what][part.index] = part
    graph = dataclasses.replace(GRAPH, **{what: tuple(parts) for what, parts in replaced.items()})
    runnable.require((graph,), 0, keep, storage)


def tensor(number, **changes):
    return dataclasses.replace(GRAPH.tensors[number], **changes)


@pytest.mark.parametrize("name", RUNS)
def test_what_runs_is_not_refused(name):
    document = Document.read(RUNS[name]())
    document.require_runnable(0, range(len(document.graphs[0].operators)))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("flex", r"operator FlexErf \(2\) is TensorFlow's own \(Flex\), which .* do not contain: convert"),
        (
            "custom",
            r"operator MyPrivateOp \(2\) is a custom operator, which tflite-runtime 2.14 does not know",
        ),
        ("broken_quantization", r"tensor 'map' \(3\) has the scale 0"),
        ("too_new", r"operator MEAN \(1\) has version 99, and tflite-runtime 2.14 knows versions up to 3"),
    ],
)
def test_what_does_not_run_is_named(name, sentence):
    document = Document.read(REFUSED[name]())
    with pytest.raises(ModelError, match=sentence):
        document.require_runnable(0, range(len(document.graphs[0].operators)))


def test_what_is_cut_off_may_be_anything():
    document = Document.read(backbones.flex())
    document.require_runnable(0, [0, 1])
    flawed = dataclasses.replace(SOFTMAX, version=77)
    require(operator=flawed, keep=[0, 1, 2])
    require(tensor=tensor(SOFTMAX.outputs[0], flaw="is odd"), keep=[0, 1, 2])


@pytest.mark.parametrize("name", sorted(operators.CUSTOM))
def test_custom_operators_of_the_runtime_itself_are_taken(name):
    require(operator=dataclasses.replace(MEAN, op=Op.CUSTOM, custom=name))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"op": len(operators.NEWEST)}, "operator STABLEHLO_LOGISTIC .* is newer than tflite-runtime 2.14"),
        ({"op": 9999}, "operator number 9999 .* is newer"),
        ({"op": -3}, "operator number -3 .* is newer"),
        ({"op": Op.CALL}, "operator CALL .* 2.14 does not have it"),
        ({"op": Op.CUSTOM, "custom": "edgetpu-custom-op"}, "was compiled for the Edge TPU, take the file"),
        ({"version": 0}, "operator MEAN .* has version 0"),
        ({"version": 4}, "operator MEAN .* has version 4"),
        ({"flaw": "has options of StableHLO"}, r"operator MEAN \(1\) has options of StableHLO"),
        (
            {"inputs": SOFTMAX.outputs},
            "operator MEAN .* reads tensor 'probabilities' .* before it has a value",
        ),
        ({"outputs": CONV.outputs}, "operator MEAN .* writes tensor 'map' .* has a value already"),
        ({"outputs": GRAPH.inputs}, "operator MEAN .* writes tensor 'serving_default_image'"),
        ({"outputs": CONV.inputs[1:2]}, "operator MEAN .* writes .* has a value already"),
    ],
)
def test_a_broken_operator_is_named(changes, sentence):
    with pytest.raises(ModelError, match=sentence):
        require(operator=dataclasses.replace(MEAN, **changes))


def test_inputs_and_outputs_may_be_left_out():
    require(
        operator=dataclasses.replace(MEAN, inputs=(*MEAN.inputs, -1, -1), outputs=(*MEAN.outputs, -1, -1))
    )


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"flaw": "is sparse (field sparsity)"}, r"tensor 'map' .* is sparse \(field sparsity\)"),
        ({"kind": 18}, "tensor 'map' .* has type 18, newer than tflite-runtime 2.14"),
        ({"kind": -1}, "has type -1"),
        ({"shape": (1,) * 9, "shape_signature": (1,) * 9}, "has 9 dimensions"),
        ({"shape_signature": (1,)}, "has 4 dimensions, and 1 in its signature"),
        ({"shape": (1, -2, 8, 6)}, r"has the shape \[1, -2, 8, 6\]"),
        ({"shape_signature": (1, -2, 8, 6)}, "has the shape"),
        ({"shape": (2**31 - 1,) * 4}, "would take 8507059.* bytes"),
        ({"kind": TensorType.INT8, "scale": (0.0,), "zero_point": (0,)}, "has the scale 0"),
    ],
)
def test_a_broken_tensor_is_named(changes, sentence):
    (number,) = CONV.outputs
    with pytest.raises(ModelError, match=sentence):
        require(tensor=tensor(number, **changes))


def test_a_constant_has_the_bytes_that_its_shape_takes():
    kernel = CONNECTED.inputs[1]
    with pytest.raises(ModelError, match=r"has 96 bytes of values, and its shape \[4, 5\] takes 80"):
        require(tensor=tensor(kernel, shape=(4, 5), shape_signature=(4, 5)))
    require(tensor=tensor(kernel, kind=TensorType.STRING))  # strings have no fixed size


def test_values_outside_of_the_tables_are_named():
    kernel = GRAPH.tensors[CONV.inputs[1]]
    with pytest.raises(ModelError, match=r"field buffer.offset"):
        require(storage=Storage(CLASSIFIER.buffers, frozenset({kernel.buffer})))


def test_an_empty_or_variable_tensor_needs_no_values():
    axes = MEAN.inputs[1]
    require(tensor=tensor(axes, shape=(0,), shape_signature=(0,), buffer=0))
    require(tensor=tensor(axes, is_variable=True, buffer=0))
    with pytest.raises(ModelError, match="before it has a value"):
        require(tensor=tensor(axes, buffer=0))


def calling(*calls):
    """Return graphs; each has one operator that calls the graphs with these numbers."""
    operator = dataclasses.replace(MEAN, inputs=(), outputs=())
    return tuple(
        SourceGraph(
            index=index,
            name=f"g{index}",
            tensors=(),
            operators=(dataclasses.replace(operator, calls=numbers),),
            inputs=(),
            outputs=(),
        )
        for index, numbers in enumerate(calls)
    )


@pytest.mark.parametrize(
    ("calls", "found"),
    [
        (((),), ()),
        (((2,), (), (3,), ()), (2, 3)),
        (((1, 2), (3,), (3,), ()), (1, 2, 3)),
    ],
)
def test_graphs_are_followed_through_each_other(calls, found):
    graphs = calling(*calls)
    assert runnable.called(graphs, 0, graphs[0].operators) == found
    runnable.require(graphs, 0, [0], STORAGE)


@pytest.mark.parametrize("calls", [((0,),), ((1,), (0,)), ((1,), (2,), (1,)), ((1,), (1,))])
def test_a_graph_that_calls_itself_is_refused(calls):
    graphs = calling(*calls)
    with pytest.raises(ModelError, match=r"graph \d \('g\d'\) calls itself"):
        runnable.called(graphs, 0, graphs[0].operators)


def test_a_thousand_graphs_in_a_row_need_no_deep_stack():
    graphs = calling(*((number + 1,) for number in range(1000)), ())
    assert len(runnable.called(graphs, 0, graphs[0].operators)) == 1000


class Counting(tuple):
    """Graphs that count how often one is looked at."""

    __slots__ = ()
    looks = 0

    def __getitem__(self, number):
        Counting.looks += 1
        return super().__getitem__(number)


def test_each_graph_is_followed_once_however_many_ways_lead_to_it():
    graphs = Counting(calling(*((number + 1, number + 2) for number in range(20)), (), ()))
    Counting.looks = 0
    assert len(runnable.called(graphs, 0, graphs[0].operators)) == 21
    assert Counting.looks < 30


def test_a_graph_that_is_called_is_checked_whole():
    document = Document.read(backbones.loop())
    body = document.graphs[2]
    broken = dataclasses.replace(body.operators[1], version=99)
    for changed in (
        dataclasses.replace(body, operators=(body.operators[0], broken)),
        dataclasses.replace(body, tensors=(*body.tensors, dataclasses.replace(body.tensors[0], kind=99))),
    ):
        graphs = (*document.graphs[:2], changed)
        with pytest.raises(ModelError, match=r"version 99|type 99"):
            runnable.require(graphs, 0, [0], Storage(document.buffers, frozenset()))
