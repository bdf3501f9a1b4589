"""A head of int8 layers as a node computes it: the reference for MicroPython.  Pure, without NumPy.

In integers alone: a microcontroller has floats of 32 bits, some of 30, this machine of 64, and all are to
find the same class.  A float32 is a mantissa times a power of two, a layer's sums are exact, and where
something is rounded docs/wire-format.md, section 14, says how.
"""

from __future__ import annotations

import struct
from typing import Final

from fedclient.errors import DataError
from fedclient.nodes.messages import NodeHead, NodeLayer, NodeSample

UNIT: Final = 16  # outputs are multiples of 2^-16
_BITS: Final = 15  # of what goes into a later layer, or of a float32 sample; and a sign
_EXPONENT_BIAS: Final = 150  # of a float32 whose 24 bits of mantissa are an integer


def outputs(head: NodeHead, sample: NodeSample) -> list[int]:
    """Return a number for each class, in units of 2^-16; raises DataError for a sample that does not fit."""
    x, mantissa, exponent = _input(sample)
    if len(x) != head.layers[0].columns:
        raise DataError(f"a sample has {len(x)} values, the head takes {head.layers[0].columns}")
    for number, layer in enumerate(head.layers):
        if number:
            by = max(0, max(map(abs, x)).bit_length() - _BITS)
            x, mantissa, exponent = [_shifted(one, by) for one in x], 1, by - UNIT
        x = _apply(layer, x, mantissa, exponent)
    return x


def predict(head: NodeHead, sample: NodeSample) -> int:
    """Return the number of the class: the first of the greatest outputs."""
    found = outputs(head, sample)
    return found.index(max(found))


def knows(head: NodeHead, label: int | str) -> bool:
    """Tell whether a label is one of the head's classes; a single output tells two apart."""
    return label in head.labels if isinstance(label, str) else label < max(head.layers[-1].rows, 2)


def _apply(layer: NodeLayer, x: list[int], mantissa: int, exponent: int) -> list[int]:
    """Return a layer's outputs; its input is `x` times `mantissa` times 2^`exponent`."""
    weights = struct.unpack(f"{len(layer.weights)}b", layer.weights)
    columns = layer.columns
    y = []
    for row, (scale, bias) in enumerate(zip(_parts(layer.scales), _parts(layer.bias), strict=True)):
        total = sum(w * one for w, one in zip(weights[row * columns : (row + 1) * columns], x, strict=True))
        product = _shifted(total * mantissa * scale[0], -(exponent + scale[1] + UNIT))
        value = product + _shifted(bias[0], -(bias[1] + UNIT))
        y.append(max(0, value) if layer.relu else value)
    return y


def _input(sample: NodeSample) -> tuple[list[int], int, int]:
    """Return a sample's integers, and mantissa and exponent of their scale."""
    if sample.scale is not None:
        ((mantissa, exponent),) = _parts(struct.pack("<f", sample.scale))
        return [int(one) for one in sample.raw()], mantissa, exponent
    parts = _parts(sample.data)
    tops = [exponent + mantissa.bit_length() for mantissa, exponent in parts if mantissa]
    unit = max(tops) - _BITS if tops else 0
    return [_shifted(mantissa, unit - exponent) for mantissa, exponent in parts], 1, unit


def _parts(floats: bytes) -> list[tuple[int, int]]:
    """Return mantissa and exponent of each float32; all are finite."""
    found = []
    for (bits,) in struct.iter_unpack("<I", floats):
        field, fraction = bits >> 23 & 0xFF, bits & 0x7F_FFFF
        mantissa = fraction | 0x80_0000 if field else fraction
        found.append((-mantissa if bits >> 31 else mantissa, max(field, 1) - _EXPONENT_BIAS))
    return found


def _shifted(value: int, by: int) -> int:
    """Return `value` over 2^`by`, rounded half up."""
    return (value + (1 << by - 1)) >> by if by > 0 else value << -by
