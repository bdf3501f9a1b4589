"""A head of int8 layers as a node computes it.  Pure, without NumPy: the reference for MicroPython.

The order of operations is that of docs/wire-format.md, section 14, so that two machines with floats of
the same width get the same logits, bit for bit.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from fedclient.errors import DataError
from fedclient.nodes.messages import NodeHead, NodeLayer


def logits(head: NodeHead, x: Sequence[float], scale: float = 1.0) -> list[float]:
    """Return one number for each class, of a sample's integers and their scale, or of its values."""
    if len(x) != head.layers[0].columns:
        raise DataError(f"a sample has {len(x)} values, the head takes {head.layers[0].columns}")
    for layer in head.layers:
        x, scale = _apply(layer, x, scale), 1.0
    return list(x)


def predict(head: NodeHead, x: Sequence[float], scale: float = 1.0) -> int:
    """Return the number of the class."""
    found = logits(head, x, scale)
    return found.index(max(found))


def _apply(layer: NodeLayer, x: Sequence[float], scale: float) -> list[float]:
    weights = struct.unpack(f"{len(layer.weights)}b", layer.weights)
    scales = struct.unpack(f"<{layer.rows}f", layer.scales)
    bias = struct.unpack(f"<{layer.rows}f", layer.bias)
    columns = layer.columns
    y = []
    for row in range(layer.rows):
        total: float = 0
        for column in range(columns):
            total += weights[row * columns + column] * x[column]
        value = (total * scale) * scales[row] + bias[row]
        y.append(max(0.0, value) if layer.relu else value)
    return y
