"""A file of unknown origin is read, or refused in one line; what it says costs no more than it is long."""

from __future__ import annotations

import random
import struct

import pytest

from fedclient.errors import ModelError
from fedclient.model import document as module
from fedclient.model import layout, reader, schema
from fedclient.model.document import Document
from fedclient.model.layout import Scalar
from fedclient.model.writer import ModelWriter
from tests.model import backbones
from tests.model.backbones import REFUSED, RUNS

NUMBERS = (0, 1, 7, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFC, 0xFFFF_FFFF)  # that a hostile file may hold


def refusal(data):
    """Return why a file is refused, "" when it is taken; anything but ModelError fails the test."""
    try:
        document = Document.read(data)
        document.require_runnable(0, range(len(document.graphs[0].operators)))
    except ModelError as error:
        return str(error)
    return ""


def use(data):
    """Do with a file all that attach-head does; return whether it was taken."""
    if sentence := refusal(data):
        assert sentence.isprintable()
        return False
    document = Document.read(data)
    model = ModelWriter("copy")
    first = model.graph("first")
    copied = document.copy_into(model, range(len(document.graphs[0].operators)))
    for graph in (first, model.graph("second")):
        graph.adopt(copied)
        for number in document.graphs[0].inputs:
            if number in copied.numbers:
                graph.feed(str(number), copied.tensor(number))
    assert refusal(model.to_bytes()) == ""
    return True


def hostile(tables, **fields):
    """Return a file whose model has these graphs and fields."""
    root = {schema.Model.VERSION: Scalar("Uint32", 3), schema.Model.SUBGRAPHS: tables}
    root |= {schema.Model.BUFFERS: [{}]}
    return layout.lay_out(root | {schema.Model[name.upper()]: value for name, value in fields.items()}, 64)


def test_the_shared_models_are_read(shared):
    counts = {}
    for path in sorted((shared / "models").glob("*.tflite")):
        document = Document.read(path.read_bytes())
        counts[path.stem] = [len(graph.operators) for graph in document.graphs]
        assert "min_runtime_version" in document.metadata
        assert document.signatures
        assert use(path.read_bytes())
    assert counts == {
        "hello_world_float": [3],
        "mobilenet_v2_035_96_embedder_with_metadata": [66],
        "training_model": [5, 7, 7, 20, 4],
        "training_model_flex": [7, 9, 7, 20, 4],
    }


def test_flex_operators_of_a_real_model_are_named(shared):
    document = Document.read((shared / "models/training_model_flex.tflite").read_bytes())
    with pytest.raises(ModelError, match=r"operator FlexRestoreV2 \(4\) is TensorFlow's own"):
        document.require_runnable(1, range(9))


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "does not carry the identifier TFL3"),
        (b"\x1c\0\0\0TFL2" + bytes(64), "does not carry the identifier TFL3"),
        (b"\xff\0\0\0TFL3", "an offset leads out of it"),
        (bytes(4) + b"TFL3" + bytes(64), "has version 0 of its schema, not 3"),
        (hostile([]), "has 0 graphs, not 1 to 1024"),
        (hostile([{} for _ in range(1025)]), "has 1025 graphs"),
    ],
)
def test_what_is_no_model_is_refused(data, sentence):
    with pytest.raises(ModelError, match=sentence):
        Document.read(data)


def test_a_model_without_operators_is_read():
    (graph,) = Document.read(hostile([{}])).graphs
    assert (graph.tensors, graph.operators, graph.inputs) == ((), (), ())


@pytest.mark.parametrize("name", [*RUNS, *REFUSED])
def test_the_zoo_is_taken_or_refused(name):
    assert use((RUNS | REFUSED)[name]()) == (name in RUNS)


def test_every_truncation_is_refused_or_read():
    data = backbones.int8_per_channel()
    assert sum(use(data[:length]) for length in range(len(data))) < 20  # the last bytes are padding


def test_every_word_may_be_hostile(thorough):
    for make in RUNS.values() if thorough else (backbones.loop,):
        data = make()
        for at in range(0, len(data) - 3, 4 if thorough else 52):
            for number in (*NUMBERS, len(data) - at, len(data)):
                use(data[:at] + struct.pack("<I", number) + data[at + 4 :])


def test_random_damage_is_refused_or_read(thorough):
    rng = random.Random(4)
    files = [make() for make in (RUNS | REFUSED).values()]
    taken = sum(use(damaged(rng, rng.choice(files))) for _ in range(100_000 if thorough else 1500))
    assert taken  # some damage does not matter: the fuzz reaches the copy


def damaged(rng, data):
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        at = rng.randrange(len(data))
        word = at & ~3
        match rng.randrange(5):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data = data[: max(at, 8)]
            case 2:
                data[word : word + 4] = struct.pack("<I", rng.choice((*NUMBERS, rng.randrange(len(data)))))
            case 3:
                nudged = int.from_bytes(data[word : word + 4], "little") + rng.choice((-8, -4, -1, 1, 4, 8))
                data[word : word + 4] = struct.pack("<I", nudged & 0xFFFF_FFFF)
            case _:
                start, length = rng.randrange(len(data)), rng.randrange(1, 64)
                data[at : at + length] = data[start : start + length]
    return bytes(data)


class Counted(reader.Work):
    """What all files together have cost."""

    total = 0

    def spend(self, count):
        Counted.total += count
        super().spend(count)


TENSOR = {schema.Tensor.NAME: "n" * 500, schema.Tensor.SHAPE: tuple(range(100))}
MAPS = [{schema.TensorMap.NAME: "n" * 1000}] * 1000


@pytest.mark.parametrize(
    "data",
    [
        hostile([{schema.SubGraph.TENSORS: [TENSOR] * 1000}] * 1000),
        hostile([{schema.SubGraph.TENSORS: [TENSOR] * 10_000}]),
        hostile([{schema.SubGraph.INPUTS: tuple(range(10_000))}] * 1000),
        hostile([{}], metadata=[{schema.Metadata.NAME: "n" * 10_000}] * 10_000),
        hostile([{}], operator_codes=[{schema.OperatorCode.CUSTOM: "n" * 10_000}] * 10_000),
        hostile([{}], signatures=[{schema.Signature.INPUTS: MAPS, schema.Signature.OUTPUTS: MAPS}] * 1000),
    ],
    ids=["graphs", "tensors", "numbers", "metadata", "codes", "signatures"],
)
def test_what_overlaps_a_million_times_costs_no_more_than_the_file_is_long(data, monkeypatch):
    monkeypatch.setattr(reader, "Work", Counted)
    Counted.total = 0
    with pytest.raises(ModelError):
        Document.read(data)
    assert 0 < Counted.total < 70_000 + 17 * len(data)


def test_buffers_are_not_read_again_and_again():
    same = {schema.Buffer.DATA: bytes(100_000)}
    document = Document.read(hostile([{}], buffers=[same] * 1000))
    assert len({id(content) for content in document.buffers}) == 1


def test_a_bound_on_graphs_is_there_for_the_runtime(monkeypatch):
    monkeypatch.setattr(module, "MAX_GRAPHS", 2)
    with pytest.raises(ModelError, match="3 graphs"):
        Document.read(backbones.loop())
