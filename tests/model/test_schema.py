from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from fedclient.model import schema
from fedclient.model.schema import Op

TABLES = {
    "Model": schema.Model,
    "OperatorCode": schema.OperatorCode,
    "SubGraph": schema.SubGraph,
    "Tensor": schema.Tensor,
    "Operator": schema.Operator,
    "Buffer": schema.Buffer,
    "Metadata": schema.Metadata,
    "SignatureDef": schema.Signature,
    "TensorMap": schema.TensorMap,
}
RENAMED = {
    "DEPRECATED_CODE": "DeprecatedBuiltinCode",
    "CODE": "BuiltinCode",
    "SIGNATURES": "SignatureDefs",
    "CODE_INDEX": "OpcodeIndex",
    "OPTIONS_TYPE": "BuiltinOptionsType",
    "OPTIONS": "BuiltinOptions",
    "KEY": "SignatureKey",
    "SUBGRAPH": "SubgraphIndex",
    "TENSOR": "TensorIndex",
}


@pytest.fixture(scope="module")
def generated():
    """Source of the classes generated from the real schema; they come with ai_edge_litert."""
    found = find_spec("ai_edge_litert")
    if not found:
        pytest.skip("LEFT OUT: ai_edge_litert is not installed, its schema is not compared")
    return (Path(found.origin).parent / "schema_py_generated.py").read_text()


def test_every_operator_has_options_and_codes_are_in_order():
    assert schema.OPTIONS.keys() == set(Op)
    assert list(Op) == sorted(Op)


@pytest.mark.parametrize("table", TABLES)
def test_slots_are_those_of_the_generated_classes(table, generated):
    for slot in TABLES[table]:
        name = RENAMED.get(slot.name, slot.name.title().replace("_", ""))
        found = re.search(rf"def {table}Add{name}\(builder[^\n]*\n\s+builder\.\w+\((\d+)", generated)
        assert found, name
        assert int(found[1]) == slot


def test_numbers_are_those_of_the_generated_enums(generated):
    def value(enum, name):
        body = generated[generated.index(f"class {enum}(object)") :]
        return int(re.search(rf"^    {name} = (\d+)$", body, re.MULTILINE)[1])

    for op in Op:
        assert value("BuiltinOperator", op.name) == op
        name = {
            "MEAN": "Reducer",
            "SUM": "Reducer",
            "MAXIMUM": "MaximumMinimum",
            "BATCH_MATMUL": "BatchMatMul",
        }
        options = name.get(op.name, op.name.title().replace("_", "")) + "Options"
        assert value("BuiltinOptions", options) == schema.OPTIONS[op]
    for kind in schema.TensorType:
        assert value("TensorType", kind.name) == kind
