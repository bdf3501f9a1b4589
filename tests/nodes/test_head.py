"""Heads of int8 layers: computed in the order that the page gives."""

from __future__ import annotations

import pytest

from fedclient.errors import DataError
from fedclient.nodes import head
from tests.nodes import golden


def test_one_layer_by_hand() -> None:
    # rows (1, 2, 3) and (-1, -2, -3), scales 0.5 and 0.25, bias 0 and -1
    assert head.logits(golden.HEADS["one layer"], [10, -20, 30], 0.5) == [
        60 * 0.5 * 0.5,
        -60 * 0.5 * 0.25 - 1,
    ]
    assert head.predict(golden.HEADS["one layer"], [10, -20, 30], 0.5) == 0


def test_equal_logits_are_the_first_class() -> None:
    even = golden.NodeHead(
        version=golden.NodeHeadVersion(1, 1),
        layers=(golden.NodeLayer(relu=True, weights=b"\xff" * 3, scales=golden.S * 3, bias=bytes(12)),),
    )
    assert head.logits(even, [5], 1.0) == [0.0, 0.0, 0.0]
    assert head.predict(even, [5], 1.0) == 0


def test_a_sample_of_another_length_is_refused() -> None:
    with pytest.raises(DataError, match="2 values, the head takes 3"):
        head.logits(golden.HEADS["one layer"], [1, 2])
