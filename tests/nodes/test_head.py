"""Heads of int8 layers: computed in integers, by the rule that the page gives."""

from __future__ import annotations

import random
import struct

import pytest

from fedclient.errors import DataError
from fedclient.nodes import head
from fedclient.nodes.messages import NodeHead, NodeHeadVersion, NodeLayer, NodeSample
from tests.nodes import golden

ONE = 1 << head.UNIT


def sample(x: list[int], scale: float) -> NodeSample:
    return golden.sample(1, "int8", struct.pack(f"{len(x)}b", *x), scale)


def layers(*made: NodeLayer) -> NodeHead:
    return NodeHead(version=NodeHeadVersion(1, 1), layers=made)


def test_one_layer_by_hand() -> None:
    # rows (1, 2, 3) and (-1, -2, -3), scales 0.5 and 0.25, bias 0 and -1
    x = sample([10, -20, 30], 0.5)
    assert head.outputs(golden.HEADS["one layer"], x) == [15 * ONE, -7.5 * ONE - ONE]
    assert head.predict(golden.HEADS["one layer"], x) == 0


def test_equal_outputs_are_the_first_class() -> None:
    even = layers(NodeLayer(relu=True, weights=b"\xff" * 3, scales=golden.S * 3, bias=bytes(12)))
    assert head.outputs(even, sample([5], 1.0)) == [0, 0, 0]
    assert head.predict(even, sample([5], 1.0)) == 0


def test_halves_are_rounded_up() -> None:
    # 1 and -1 times 2^-17: half a unit
    half = layers(NodeLayer(relu=False, weights=b"\x01\xff", scales=golden.floats(2**-17) * 2, bias=bytes(8)))
    assert head.outputs(half, sample([1], 1.0)) == [1, 0]


def test_a_later_layer_gets_15_bits() -> None:
    # 2^15 + 1 units before: two of them make one of what goes on, and the half is rounded up
    first = NodeLayer(
        relu=False, weights=b"\x01", scales=golden.floats((2**15 + 1) / ONE), bias=golden.floats(0.0)
    )
    second = NodeLayer(relu=False, weights=b"\x01", scales=golden.S, bias=golden.floats(0.0))
    assert head.outputs(layers(first), sample([1], 1.0)) == [2**15 + 1]
    assert head.outputs(layers(first, second), sample([1], 1.0)) == [2**15 + 2]


@pytest.mark.parametrize("value", [1.0, -3.75, 1e-30, 3e38, 2**-149, -(2**-149), 0.0])
def test_a_sample_of_float32_keeps_15_bits_of_its_greatest_value(value: float) -> None:
    values = struct.unpack("<2f", golden.floats(value, value / 3))
    one = golden.sample(1, "float32", golden.floats(*values), None)
    x, mantissa, exponent = head._input(one)
    assert mantissa == 1
    if value:
        assert 2**14 <= abs(x[0]) <= 2**15
    for got, wanted in zip(x, values, strict=True):
        assert abs(got * 2.0**exponent - wanted) <= 2.0**exponent / 2


def test_it_is_near_what_floats_give() -> None:
    random.seed(6)
    for _ in range(100):
        columns, hidden, classes = random.randint(1, 40), random.randint(1, 12), random.randint(1, 8)
        made = [
            NodeLayer(
                relu=relu,
                weights=random.randbytes(rows * width),
                scales=golden.floats(*(random.uniform(0.001, 0.02) for _ in range(rows))),
                bias=golden.floats(*(random.uniform(-1, 1) for _ in range(rows))),
            )
            for relu, rows, width in ((True, hidden, columns), (False, classes, hidden))
        ]
        one = sample([random.randint(-128, 127) for _ in range(columns)], 0.03125)
        x, bound = list(one.values()), 0.0
        for layer in made:
            w = struct.unpack(f"{len(layer.weights)}b", layer.weights)
            scales = struct.unpack(f"<{layer.rows}f", layer.scales)
            bias = struct.unpack(f"<{layer.rows}f", layer.bias)
            rows = [w[at : at + layer.columns] for at in range(0, len(w), layer.columns)]
            # Each value that goes into a layer is off by what the ones before were, and half of its last bit.
            bound = max(
                s * sum(map(abs, row)) * (bound + max(map(abs, x)) / 2**14)
                for s, row in zip(scales, rows, strict=True)
            )
            x = [
                s * sum(a * b for a, b in zip(row, x, strict=True)) + c
                for s, row, c in zip(scales, rows, bias, strict=True)
            ]
            x = [max(0.0, y) for y in x] if layer.relu else x
        for got, wanted in zip(head.outputs(layers(*made), one), x, strict=True):
            assert got / ONE == pytest.approx(wanted, abs=bound + 2 / ONE)


def test_a_sample_of_another_length_is_refused() -> None:
    with pytest.raises(DataError, match="2 values, the head takes 3"):
        head.outputs(golden.HEADS["one layer"], sample([1, 2], 1.0))


def test_a_label_is_one_of_the_heads_names_or_a_number_of_a_class() -> None:
    row = NodeLayer(relu=False, weights=bytes(1), scales=golden.S, bias=bytes(4))
    single = NodeHead(version=NodeHeadVersion(1, 1), layers=(row,), labels=("dry", "wet"))
    labels = ["dry", "wet", "Wet", "", 0, 1, 2]
    assert [head.knows(single, one) for one in labels] == [True, True, False, False, True, True, False]
    three = NodeLayer(relu=False, weights=bytes(3), scales=golden.S * 3, bias=bytes(12))
    assert [head.knows(layers(three), one) for one in ("0", 2, 3)] == [False, True, False]
