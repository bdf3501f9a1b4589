"""The part of the TFLite file format that a head needs: field slots and enum numbers.

Source: `tensorflow/lite/schema/schema.fbs`, version 3 (file identifier "TFL3").  Slots and numbers
are append-only there, so they hold for every runtime since.  A field's slot is its place in its
table; `docs/adr/0005-flatbuffers-by-hand.md` says why they stand here and are not generated.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

FILE_IDENTIFIER: Final = b"TFL3"
SCHEMA_VERSION: Final = 3
BUFFER_ALIGNMENT: Final = 16  # `force_align: 16` of Buffer.data
PLACEHOLDER_CODE: Final = 127  # `deprecated_builtin_code` (int8) of every operator above it


class Model(IntEnum):
    """`table Model`."""

    VERSION = 0
    OPERATOR_CODES = 1
    SUBGRAPHS = 2
    DESCRIPTION = 3
    BUFFERS = 4
    METADATA = 6
    SIGNATURES = 7


class OperatorCode(IntEnum):
    """`table OperatorCode`."""

    DEPRECATED_CODE = 0
    VERSION = 2
    CODE = 3


class SubGraph(IntEnum):
    """`table SubGraph`."""

    TENSORS = 0
    INPUTS = 1
    OUTPUTS = 2
    OPERATORS = 3
    NAME = 4


class Tensor(IntEnum):
    """`table Tensor`."""

    SHAPE = 0
    TYPE = 1
    BUFFER = 2
    NAME = 3
    SHAPE_SIGNATURE = 7


class Operator(IntEnum):
    """`table Operator`."""

    CODE_INDEX = 0
    INPUTS = 1
    OUTPUTS = 2
    OPTIONS_TYPE = 3
    OPTIONS = 4


class Buffer(IntEnum):
    """`table Buffer`."""

    DATA = 0


class Metadata(IntEnum):
    """`table Metadata`."""

    NAME = 0
    BUFFER = 1


class Signature(IntEnum):
    """`table SignatureDef`; slot 3 is a removed field."""

    INPUTS = 0
    OUTPUTS = 1
    KEY = 2
    SUBGRAPH = 4


class TensorMap(IntEnum):
    """`table TensorMap`."""

    NAME = 0
    TENSOR = 1


class TensorType(IntEnum):
    """`enum TensorType`."""

    FLOAT32 = 0
    INT32 = 2
    UINT8 = 3
    BOOL = 6
    RESOURCE = 13


class Op(IntEnum):
    """`enum BuiltinOperator`; all are version 1."""

    FULLY_CONNECTED = 9
    MUL = 18
    RESHAPE = 22
    MEAN = 40
    SUB = 41
    DIV = 42
    EXP = 47
    LOG_SOFTMAX = 50
    CAST = 53
    MAXIMUM = 55
    NEG = 59
    GREATER = 61
    SUM = 74
    SHAPE = 77
    ONE_HOT = 85
    FILL = 94
    BATCH_MATMUL = 126
    CALL_ONCE = 129
    VAR_HANDLE = 142
    READ_VARIABLE = 143
    ASSIGN_VARIABLE = 144


OPTIONS: Final = {  # `union BuiltinOptions`: which of its members each operator carries
    Op.FULLY_CONNECTED: 8,
    Op.RESHAPE: 17,
    Op.MUL: 21,
    Op.MEAN: 27,  # ReducerOptions
    Op.SUM: 27,
    Op.SUB: 28,
    Op.DIV: 29,
    Op.EXP: 33,
    Op.LOG_SOFTMAX: 36,
    Op.CAST: 37,
    Op.MAXIMUM: 39,  # MaximumMinimumOptions
    Op.NEG: 42,
    Op.GREATER: 44,
    Op.SHAPE: 55,
    Op.ONE_HOT: 61,
    Op.FILL: 68,
    Op.BATCH_MATMUL: 101,
    Op.CALL_ONCE: 103,
    Op.VAR_HANDLE: 111,
    Op.READ_VARIABLE: 112,
    Op.ASSIGN_VARIABLE: 113,
}
# Fields of those options that a head sets; what is left out has the schema's default (0, false, none).
CAST_FROM, CAST_TO = 0, 1
SHAPE_OUT_TYPE = 0
ONE_HOT_AXIS = 0
ADJOINT_X = 0
INIT_SUBGRAPH = 0
CONTAINER, SHARED_NAME = 0, 1
