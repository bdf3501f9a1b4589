"""The part of the TFLite file format that we read and write: field slots and enum numbers.

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
    CUSTOM = 1
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
    QUANTIZATION = 4
    IS_VARIABLE = 5
    SPARSITY = 6
    SHAPE_SIGNATURE = 7
    HAS_RANK = 8
    VARIANT = 9
    EXTERNAL_BUFFER = 10


class Quantization(IntEnum):
    """`table QuantizationParameters`; slots 0 and 1, the range seen in training, are for people."""

    SCALE = 2
    ZERO_POINT = 3
    DETAILS_TYPE = 4
    DIMENSION = 6


class Operator(IntEnum):
    """`table Operator`."""

    CODE_INDEX = 0
    INPUTS = 1
    OUTPUTS = 2
    OPTIONS_TYPE = 3
    OPTIONS = 4
    CUSTOM_OPTIONS = 5
    CUSTOM_FORMAT = 6
    MUTATING = 7
    INTERMEDIATES = 8
    LARGE_OPTIONS = 9
    OPTIONS_2_TYPE = 11


class Buffer(IntEnum):
    """`table Buffer`; one with an offset lies outside of the FlatBuffer."""

    DATA = 0
    OFFSET = 1


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
    FLOAT16 = 1
    INT32 = 2
    UINT8 = 3
    INT64 = 4
    STRING = 5
    BOOL = 6
    INT16 = 7
    COMPLEX64 = 8
    INT8 = 9
    FLOAT64 = 10
    COMPLEX128 = 11
    UINT64 = 12
    RESOURCE = 13
    VARIANT = 14
    UINT32 = 15
    UINT16 = 16
    INT4 = 17


class Op(IntEnum):
    """`enum BuiltinOperator`: what heads and the backbones of our tests are made of, and what calls graphs.

    `operators.py` has the names of all.
    """

    ADD = 0
    AVERAGE_POOL_2D = 1
    CONV_2D = 3
    DEQUANTIZE = 6
    FULLY_CONNECTED = 9
    LOGISTIC = 14
    MUL = 18
    RESHAPE = 22
    SOFTMAX = 25
    CALL = 31
    CUSTOM = 32
    TRANSPOSE = 39
    MEAN = 40
    SUB = 41
    DIV = 42
    SQUEEZE = 43
    UNIDIRECTIONAL_SEQUENCE_LSTM = 44
    STRIDED_SLICE = 45
    EXP = 47
    LOG_SOFTMAX = 50
    CAST = 53
    MAXIMUM = 55
    LESS = 58
    NEG = 59
    GREATER = 61
    SUM = 74
    SQRT = 75
    SHAPE = 77
    ONE_HOT = 85
    FILL = 94
    IF = 118
    WHILE = 119
    BATCH_MATMUL = 126
    CALL_ONCE = 129
    VAR_HANDLE = 142
    READ_VARIABLE = 143
    ASSIGN_VARIABLE = 144


OPTIONS: Final = {  # `union BuiltinOptions`: which of its members each operator carries; the others none
    Op.CONV_2D: 1,  # Conv2DOptions
    Op.AVERAGE_POOL_2D: 5,  # Pool2DOptions
    Op.FULLY_CONNECTED: 8,
    Op.SOFTMAX: 9,
    Op.ADD: 11,
    Op.CALL: 16,
    Op.RESHAPE: 17,
    Op.MUL: 21,
    Op.TRANSPOSE: 26,
    Op.MEAN: 27,  # ReducerOptions
    Op.SUM: 27,  # ReducerOptions
    Op.SUB: 28,
    Op.DIV: 29,
    Op.SQUEEZE: 30,
    Op.STRIDED_SLICE: 32,
    Op.EXP: 33,
    Op.LOG_SOFTMAX: 36,
    Op.CAST: 37,
    Op.DEQUANTIZE: 38,
    Op.MAXIMUM: 39,  # MaximumMinimumOptions
    Op.LESS: 41,
    Op.NEG: 42,
    Op.GREATER: 44,
    Op.SHAPE: 55,
    Op.ONE_HOT: 61,
    Op.FILL: 68,
    Op.UNIDIRECTIONAL_SEQUENCE_LSTM: 71,  # UnidirectionalSequenceLSTMOptions
    Op.IF: 92,
    Op.WHILE: 93,
    Op.BATCH_MATMUL: 101,  # BatchMatMulOptions
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
ADD_ACTIVATION = 0
RELU_ACTIVATION = 1  # `enum ActivationFunctionType`
INIT_SUBGRAPH = 0
IF_THEN, IF_ELSE = 0, 1
CONTAINER, SHARED_NAME = 0, 1
