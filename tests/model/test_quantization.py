from __future__ import annotations

import math

import pytest

from fedclient.model import quantization
from fedclient.model.schema import TensorType
from fedclient.model.source import SourceTensor


def tensor(kind=TensorType.INT8, shape=(2, 3), scale=(0.5,), zero_point=(0,), dimension=0):
    return SourceTensor(
        index=0,
        name="t",
        shape=shape,
        shape_signature=shape,
        kind=kind,
        scale=scale,
        zero_point=zero_point,
        dimension=dimension,
        buffer=0,
        is_variable=False,
        has_rank=False,
        flaw="",
    )


@pytest.mark.parametrize(
    "good",
    [
        tensor(),
        tensor(scale=(), zero_point=()),
        tensor(scale=(1.0, 2.0), zero_point=(0, 0)),
        tensor(scale=(1.0, 2.0, 3.0), zero_point=(0, 0, 0), dimension=1),
        tensor(shape=()),
        tensor(zero_point=(-128,)),
        tensor(kind=TensorType.UINT8, zero_point=(255,)),
        tensor(kind=TensorType.INT32, scale=(1e-9,)),
        tensor(kind=TensorType.FLOAT32, scale=(0.0,)),
    ],
)
def test_parameters_that_a_kernel_can_use(good):
    assert not quantization.flaw(good)


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (tensor(scale=(0.0,)), "has the scale 0, which must be finite and above 0"),
        (tensor(scale=(-1.0,)), "has the scale -1"),
        (tensor(scale=(math.nan,)), "has the scale nan"),
        (tensor(scale=(math.inf,)), "has the scale inf"),
        (tensor(scale=(1.0, 0.0), zero_point=(0, 0)), "has the scale 0"),
        (tensor(zero_point=()), "has 1 scales and 0 zero points"),
        (tensor(zero_point=(0, 0)), "has 1 scales and 2 zero points"),
        (tensor(scale=(1.0,) * 3, zero_point=(0,) * 3), "has 3 scales for 2 slices along dimension 0"),
        (tensor(kind=TensorType.FLOAT32, scale=(1.0,) * 3, zero_point=(0,) * 3), "has 3 scales for 2"),
        (tensor(shape=(), scale=(1.0,) * 2, zero_point=(0,) * 2), "has 2 scales for 1"),
        (tensor(dimension=2), "along dimension 2 of 2"),
        (tensor(dimension=-1), "along dimension -1 of 2"),
        (tensor(zero_point=(128,)), "has the zero point 128, which must be -128 to 127"),
        (tensor(kind=TensorType.UINT8, zero_point=(-1,)), "which must be 0 to 255"),
        (tensor(kind=TensorType.INT32, zero_point=(2**31,)), "has the zero point 2147483648"),
    ],
)
def test_parameters_that_no_kernel_can_use_are_named(broken, sentence):
    assert sentence in quantization.flaw(broken)
