"""The bench of a node on MicroPython runs; the README's figures are its own."""

from __future__ import annotations

import re

import pytest

from tests.bench.test_bench import module
from tests.micropython.conftest import PACKAGE


def test_a_node_is_measured(micropython: str, mpy_cross: str, mosquitto: str) -> None:
    found = module("micropython").measure(step_kib=64)
    assert found["smallest_heap_kib"] <= 192
    heap = found["heap_bytes"]
    assert 0 < heap["imported"] < heap["made"] < heap["head"] < heap["ring_full"]
    page = (PACKAGE / "README.md").read_text()
    (said,) = re.findall(r"xtensawin alike\) \| ([0-9,]+) \|", page)
    for sizes in found["mpy_bytes"].values():
        # Another release of the compiler differs a little.
        assert sizes["all"] == pytest.approx(int(said.replace(",", "")), rel=0.05), "README.md is old"
