from __future__ import annotations

import re
import struct
from importlib.util import find_spec
from pathlib import Path

import pytest

from fedclient.errors import ModelError
from fedclient.model import layout
from fedclient.model.layout import RawTable, Scalar, Vector
from fedclient.model.operator_options import FIELDS, REFERENCES, read_calls, read_options
from fedclient.model.reader import Table
from fedclient.model.schema import OPTIONS, Op

RESHAPE, SOFTMAX, SQUEEZE, BUCKETIZE = OPTIONS[Op.RESHAPE], OPTIONS[Op.SOFTMAX], OPTIONS[Op.SQUEEZE], 115


def table(fields):
    return Table.root(layout.lay_out({0: fields}, 64)).table(0)


def test_numbers_are_copied_as_they_stand():
    found, flaw = read_options(SOFTMAX, table({0: Scalar("Float32", 0.5)}))
    assert isinstance(found, RawTable)
    assert not flaw
    again = table(found)
    assert again.raw() == (found.fields, found.body)
    assert struct.pack("<i", again.signed(0)) == struct.pack("<f", 0.5)


@pytest.mark.parametrize(
    ("kind", "fields", "want"),
    [
        (RESHAPE, {0: (1, -1)}, {0: Vector(4, struct.pack("<2i", 1, -1))}),
        (RESHAPE, {}, {}),
        (SQUEEZE, {0: (2,)}, {0: Vector(4, struct.pack("<i", 2))}),
        (OPTIONS[Op.VAR_HANDLE], {0: "", 1: "name"}, {0: "", 1: "name"}),
        (BUCKETIZE, {0: Vector(4, struct.pack("<2f", 1, 2))}, {0: Vector(4, struct.pack("<2f", 1, 2))}),
        (
            3,
            {0: Scalar("Int32", 4), 1: (1,), 2: (2,)},
            {0: Scalar("Int32", 4), 1: Vector(4, b"\1\0\0\0"), 2: Vector(4, b"\2\0\0\0")},
        ),
    ],
)
def test_strings_and_vectors_are_followed(kind, fields, want):
    assert read_options(kind, table(fields)) == (want, "")


def test_what_the_schema_does_not_have_is_a_flaw():
    newer = {0: Scalar("Float32", 0.5), 3: Scalar("Int32", 1)}
    assert "field 3 is newer than this program" in read_options(SOFTMAX, table(newer))[1]
    assert "field 0" in read_options(99, table({0: Scalar("Int32", 1)}))[1]
    large = RawTable(fields=(4,), body=bytes(2000), start=0)
    assert "has 2000 bytes of options" in read_options(SOFTMAX, table(large))[1]


def test_the_graphs_that_an_operator_runs():
    two = table({0: Scalar("Int32", 3), 1: Scalar("Int32", -4)})
    assert read_calls(Op.WHILE, OPTIONS[Op.WHILE], two) == (3, -4)
    assert read_calls(Op.IF, OPTIONS[Op.IF], two) == (3, -4)
    assert read_calls(Op.CALL_ONCE, OPTIONS[Op.CALL_ONCE], two) == (3,)
    assert read_calls(Op.SOFTMAX, SOFTMAX, two) == ()
    for kind, found in ((SOFTMAX, two), (OPTIONS[Op.WHILE], None)):
        with pytest.raises(ModelError, match="WHILE does not say which graph it runs"):
            read_calls(Op.WHILE, kind, found)


def test_fields_are_those_of_the_generated_classes():
    found = find_spec("ai_edge_litert")
    if not found:
        pytest.skip("LEFT OUT: ai_edge_litert is not installed, its schema is not compared")
    text = (Path(found.origin).parent / "schema_py_generated.py").read_text()
    body = text[text.index("class BuiltinOptions(object)") :].split("\n\n", 1)[0]
    kinds = {name: int(kind) for name, kind in re.findall(r"^    (\w+) = (\d+)$", body, re.MULTILINE)}
    adds = re.findall(
        r"^def (\w+?)Add\w+\(builder[^\n]*\n\s+builder\.Prepend(\w+)Slot\((\d+)", text, re.MULTILINE
    )
    references = {
        (kinds[t], int(slot)) for t, what, slot in adds if t in kinds and what == "UOffsetTRelative"
    }
    numbers = {(kinds[t], int(slot)) for t, what, slot in adds if t in kinds} - references
    ours = {(kind, slot) for kind, slots in REFERENCES.items() for slot, what in slots.items() if what != "i"}
    assert ours <= references
    # What is a reference and not in our table comes after the fields that we copy.
    assert all(slot >= FIELDS[kind] for kind, slot in references - ours)
    assert all(slot < FIELDS[kind] for kind, slot in numbers | ours)
