from __future__ import annotations

import struct

import pytest

from fedclient.model import layout
from fedclient.model.layout import RawTable, Scalar, Vector
from fedclient.model.reader import Table


def laid_out(table):
    return Table.root(layout.lay_out(table, 64))


def test_a_table_that_is_met_twice_is_written_once():
    shared = {0: Scalar("Uint32", 7), 1: "x" * 1000}
    once = layout.lay_out({0: [shared]}, 64)
    twice = layout.lay_out({0: [shared, shared]}, 64)
    assert len(twice) <= len(once) + 16
    assert [table.number(0) for table in Table.root(twice).tables(0)] == [7, 7]


def test_equal_strings_and_vectors_are_written_once():
    many = [{0: "name" * 50, 1: tuple(range(50)), 2: Vector(8, bytes(400))} for _ in range(20)]
    assert len(layout.lay_out({0: many}, 64)) < 2500


@pytest.mark.parametrize("start", [0, 4])
@pytest.mark.parametrize("before", range(3))
def test_a_raw_table_keeps_its_bytes_and_its_alignment(start, before):
    body = struct.pack("<Bxxx" if start else "<Bxxxxxxx", 5) + struct.pack("<q", -3) + b"\x09"
    wide = 8 if start else 12  # where the int64 stands: at a multiple of 8 in the file either way
    raw = RawTable(fields=(wide, 0, len(body) + 3, 4), body=body, start=start)
    table = laid_out({0: "x" * before, 1: raw, 2: Scalar("Uint8", 1)}).table(1)
    assert table.position % 8 == start
    assert table.long(0) == -3
    assert table.byte(1) == 0
    assert table.byte(2) == 9
    assert table.byte(3) == 5


def test_bytes_are_aligned_to_16_and_vectors_to_their_width():
    data = layout.lay_out({0: "y", 1: bytes(range(100, 117)), 2: Vector(8, b"longlong")}, 64)
    assert data.index(bytes(range(100, 117))) % 16 == 0
    assert data.index(b"longlong") % 8 == 0


def test_the_guess_at_the_size_changes_nothing():
    tables = {0: "a", 1: (1, 2), 2: [{0: bytes(500)}]}
    assert len({layout.lay_out(tables, size) for size in (1, 64, 5000)}) == 1
