from __future__ import annotations

import sys

import numpy as np
import pytest

from fedclient.errors import UsageError
from fedclient.model.head import write_head
from fedclient.model.schema import Op
from fedclient.model.writer import ModelWriter
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
