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
    "QuantizationParameters": schema.Quantization,
    "Operator": schema.Operator,
    "Buffer": schema.Buffer,
    "Metadata": schema.Metadata,
    "SignatureDef": schema.Signature,
    "TensorMap": schema.TensorMap,
}
RENAMED = {
    "DEPRECATED_CODE": "DeprecatedBuiltinCode",
    "CUSTOM": "CustomCode",
    "CODE": "BuiltinCode",
    "SIGNATURES": "SignatureDefs",
    "CODE_INDEX": "OpcodeIndex",
    "OPTIONS_TYPE": "BuiltinOptionsType",
    "OPTIONS": "BuiltinOptions",
    "KEY": "SignatureKey",
    "SUBGRAPH": "SubgraphIndex",
    "TENSOR": "TensorIndex",
    "VARIANT": "VariantTensors",
    "DIMENSION": "QuantizedDimension",
    "CUSTOM_FORMAT": "CustomOptionsFormat",
    "MUTATING": "MutatingVariableInputs",
    "LARGE_OPTIONS": "LargeCustomOptionsOffset",
    "OPTIONS_2_TYPE": "BuiltinOptions2Type",
}


@pytest.fixture(scope="module")
def generated():
    """Source of the classes generated from the real schema; they come with ai_edge_litert."""
    found = find_spec("ai_edge_litert")
    if not found:
        pytest.skip("LEFT OUT: ai_edge_litert is not installed, its schema is not compared")
    return (Path(found.origin).parent / "schema_py_generated.py").read_text()


def test_codes_are_in_order():
    assert list(Op) == sorted(Op)
    assert list(schema.OPTIONS.values()) == sorted(schema.OPTIONS.values())


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

    name = {
        "AVERAGE_POOL_2D": "Pool2D",
        "CONV_2D": "Conv2D",
        "MEAN": "Reducer",
        "SUM": "Reducer",
        "MAXIMUM": "MaximumMinimum",
        "BATCH_MATMUL": "BatchMatMul",
        "UNIDIRECTIONAL_SEQUENCE_LSTM": "UnidirectionalSequenceLSTM",
    }
    for op in Op:
        assert value("BuiltinOperator", op.name) == op
        options = name.get(op.name, op.name.title().replace("_", "")) + "Options"
        if op in schema.OPTIONS:
            assert value("BuiltinOptions", options) == schema.OPTIONS[op]
        else:
            assert f"    {options} = " not in generated
    for kind in schema.TensorType:
        assert value("TensorType", kind.name) == kind
