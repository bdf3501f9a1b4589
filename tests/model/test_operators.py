from __future__ import annotations

import re
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest

from fedclient.errors import ModelError
from fedclient.model import operators
from fedclient.model.schema import Op
from fedclient.model.writer import ModelWriter
from fedclient.runtime import RUNTIME_NAME
from fedclient.runtime.interpreter import open_signatures


def test_numbers_agree_with_those_we_write():
    assert all(operators.name(op) == op.name for op in Op)
    assert operators.name(9999) == "number 9999"
    assert operators.name(-1) == "number -1"


def test_names_are_those_of_the_generated_enum():
    found = find_spec("ai_edge_litert")
    if not found:
        pytest.skip("LEFT OUT: ai_edge_litert is not installed, its schema is not compared")
    text = (Path(found.origin).parent / "schema_py_generated.py").read_text()
    body = text[text.index("class BuiltinOperator(object)") :].split("\n\n", 1)[0]
    names = dict(re.findall(r"^    (\w+) = (\d+)$", body, re.MULTILINE))
    assert all(names[name] == str(number) for number, name in enumerate(operators.NAMES))


def known(op, op_version):
    """Tell whether the runtime has this operator; it refuses a file that only names another."""
    model = ModelWriter("test")
    model.code(op, op_version)
    graph = model.graph("same")
    graph.output("y", graph.input("x", (1,)))
    try:
        open_signatures(model.to_bytes(), threads=1, delegates=False)
    except ModelError as error:
        return not re.search("Didn't find op|out of range", str(error))
    return True


def test_versions_are_those_of_the_runtime():
    if RUNTIME_NAME != "tflite_runtime" or not version("tflite_runtime").startswith("2.14"):
        pytest.skip("LEFT OUT: tflite-runtime 2.14 is not installed, its versions are not compared")
    for op, newest in enumerate(operators.NEWEST):
        if op == Op.CUSTOM:
            continue  # it goes by name
        assert not newest or known(op, newest), operators.name(op)
        assert not known(op, newest + 1), operators.name(op)
    assert not known(len(operators.NEWEST), 1)
