"""Are a tensor's scales and zero points such that a kernel can compute with them?  Pure."""

from __future__ import annotations

import math
from typing import Final

from fedclient.model.schema import TensorType
from fedclient.model.source import SourceTensor

RANGES: Final = {
    TensorType.INT4: (-8, 7),
    TensorType.UINT8: (0, 255),
    TensorType.INT8: (-128, 127),
    TensorType.INT16: (-(2**15), 2**15 - 1),
    TensorType.INT32: (-(2**31), 2**31 - 1),
}


def flaw(tensor: SourceTensor) -> str:
    """Return what is wrong, "" when nothing is."""
    count = len(tensor.scale)
    if not count:
        return ""
    if len(tensor.zero_point) != count:
        return f"has {count} scales and {len(tensor.zero_point)} zero points"
    if not 0 <= tensor.dimension < max(len(tensor.shape), 1):
        return f"has scales along dimension {tensor.dimension} of {len(tensor.shape)}"
    slices = tensor.shape[tensor.dimension] if tensor.shape else 1
    if count not in {1, slices}:
        return f"has {count} scales for {slices} slices along dimension {tensor.dimension}"
    if tensor.kind not in RANGES:
        return ""  # a float tensor: converters leave behind what they quantised it from
    if wrong := [scale for scale in tensor.scale if not 0 < scale < math.inf]:
        return f"has the scale {wrong[0]:g}, which must be finite and above 0"
    low, high = RANGES[TensorType(tensor.kind)]
    if outside := [point for point in tensor.zero_point if not low <= point <= high]:
        return f"has the zero point {outside[0]}, which must be {low} to {high}"
    return ""
