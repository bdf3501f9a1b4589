from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedclient.errors import ModelError
from fedclient.model import layout, reader
from fedclient.model.layout import RawTable, Scalar, Vector
from fedclient.model.reader import Table, Work, read_metadata
from fedclient.model.writer import ModelWriter

OURS = b"what the metadata says"


def written():
    model = ModelWriter("test")
    graph = model.graph("same")
    graph.output("y", graph.input("x", (1, 3)))
    model.metadata("ours", OURS)
    return model.to_bytes()


FILE = written()


def laid_out(table):
    return Table.root(layout.lay_out(table, 64))


def test_metadata_is_read_back():
    assert read_metadata(FILE, "ours") == OURS
    assert read_metadata(FILE, "other") is None


def test_files_of_others_have_none_of_ours(shared):
    for name in ("training_model", "hello_world_float", "mobilenet_v2_035_96_embedder_with_metadata"):
        model = (shared / f"models/{name}.tflite").read_bytes()
        assert read_metadata(model, "ours") is None
        assert read_metadata(model, "min_runtime_version")


def test_fields_are_read_with_the_width_they_have():
    table = laid_out(
        {
            0: Scalar("Bool", 1),
            1: Scalar("Uint8", 255),
            2: Scalar("Int8", -128),
            3: Scalar("Uint32", 2**32 - 1),
            4: Scalar("Int32", -(2**31)),
            5: "name",
            6: (1, -2),
            7: Vector(8, struct.pack("<q", -(2**63))),
            8: {0: Scalar("Uint32", 9)},
            9: [{}, {1: "last"}],
            10: b"bytes",
        }
    )
    assert table.flag(0)
    assert (table.byte(1), table.small(2), table.number(3)) == (255, -128, 2**32 - 1)
    assert table.signed(4) == -(2**31)
    assert (table.name(5), table.text(10)) == ("name", b"bytes")
    assert table.integers(6) == (1, -2)
    assert struct.unpack("<q", table.vector(7, 8)) == (-(2**63),)
    assert table.table(8).number(0) == 9
    assert [inner.name(1) for inner in table.tables(9)] == ["", "last"]


def test_a_field_that_is_absent_has_its_default():
    table = laid_out({3: Scalar("Uint32", 1)})
    for slot in (0, 4, 70_000):
        assert not table.has(slot)
        assert not table.flag(slot)
        assert table.signed(slot, 7) == 7
        assert (table.number(slot), table.long(slot), table.name(slot), table.integers(slot)) == (
            0,
            0,
            "",
            (),
        )
        assert table.table(slot) is None
        assert table.tables(slot) == []


def test_text_that_is_no_utf8_can_be_shown():
    assert laid_out({0: b"a\xff"}).name(0) == r"a\xff"


def test_a_raw_table_is_what_is_written_again():
    raw = RawTable(fields=(4, 0, 8), body=b"\x01\0\0\0\x02\0\0\0", start=0)
    table = laid_out({0: raw}).table(0)
    assert table.raw() == (raw.fields, raw.body)


@pytest.mark.parametrize(
    ("fields", "what"), [((3,), "beyond their table"), ((12,), "beyond their table"), ((9, 65535), "beyond")]
)
def test_fields_outside_of_a_raw_table_are_refused(fields, what):
    table = laid_out({0: RawTable(fields=fields, body=bytes(8), start=0)}).table(0)
    with pytest.raises(ModelError, match=what):
        table.raw()


def test_a_raw_table_at_an_odd_place_or_cut_off_is_refused():
    data = b"\x08\0\0\0" + struct.pack("<HHHH", 6, 9, 4, 0) + b"\0" + struct.pack("<i", 9) + b"12345"
    with pytest.raises(ModelError, match="no table"):
        Table(data, 13, Work(100)).raw()
    data = struct.pack("<HHHH", 6, 40, 4, 0) + struct.pack("<i", 8) + b"1234"
    with pytest.raises(ModelError, match="beyond their table"):
        Table(data, 8, Work(100)).raw()
    data = struct.pack("<HHHH", 7, 8, 4, 0) + struct.pack("<i", 8) + b"1234"
    with pytest.raises(ModelError, match="no table"):
        Table(data, 8, Work(100)).raw()


@given(st.binary(max_size=200))
def test_any_bytes_are_metadata_or_a_model_error(data):
    with contextlib.suppress(ModelError):
        read_metadata(data, "ours")


def test_every_truncation_and_flip_is_metadata_or_a_model_error():
    for at in range(len(FILE)):
        for damaged in (FILE[:at], FILE[:at] + bytes([FILE[at] ^ 0xFF]) + FILE[at + 1 :]):
            with contextlib.suppress(ModelError):
                read_metadata(damaged, "ours")


def test_a_vector_beyond_the_end_is_refused():
    at = FILE.index(OURS) - 4
    with pytest.raises(ModelError, match="beyond its end"):
        read_metadata(FILE[:at] + b"\xff\xff\xff\x0f" + FILE[at + 4 :], "ours")


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xff\xff\xff", b"\x04\0\0\0\x08\0\0\0", b"\x04\0\0\0\xfc\xff\xff\xff"]
)
def test_an_offset_out_of_the_file_is_refused(data):
    with pytest.raises(ModelError, match="leads out of it"):
        Table.root(data)


def test_every_visit_has_its_price():
    root = laid_out({0: [{}] * 10, 1: "seven..", 2: (1, 2)})
    for read, price in (
        (lambda: root.tables(0), 10 * (4 + reader.TABLE_COST)),
        (lambda: root.text(1), 7),
        (lambda: root.integers(2), 8),
        (lambda: root.number(9), 0),
    ):
        before = root._work._left
        read()
        assert before - root._work._left == price


def everything(root):
    return sum(len(name.text(0)) for table in root.tables(0) for name in table.tables(0))


def test_what_is_read_again_and_again_is_counted():
    name = {0: "n" * 1000}
    inner = {0: [name] * 50}
    assert everything(laid_out({0: [inner]})) == 50_000
    with pytest.raises(ModelError, match="overlap or are too many"):
        everything(laid_out({0: [inner] * 1000}))


def test_the_work_has_a_ceiling_however_large_the_file(monkeypatch):
    monkeypatch.setattr(reader, "MOST_WORK", 100)
    Work(10**9).spend(100)
    with pytest.raises(ModelError, match="too many"):
        Work(10**9).spend(101)
