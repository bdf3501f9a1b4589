"""The bench of a node on MicroPython runs; the README's figures are its own."""

from __future__ import annotations

import re

import pytest

from tests.bench.test_bench import module
from tests.micropython.conftest import PACKAGE


def test_a_node_is_measured(micropython: str, mpy_cross: str, mosquitto: str) -> None:
    found = module("micropython").measure(step_kib=96)
    assert set(found["smallest_heap_kib"].values()) == {96}
    for heap in found["heap_bytes"].values():
        assert 0 < heap["imported"] < heap["made"] < heap["ring_full"] < 60_000
        assert heap["head"] < heap["ring_full"] + 3000, "the ring's memory is kept, and a head is small"
    assert all(us >= 0 for us in found["speed"].values())
    wakes = found["wakes"]
    assert wakes["keep False"] == wakes["keep flush"], "the file is for what could not be sent"
    assert wakes["keep True"]["flash_bytes"] > 2 * wakes["keep flush"]["flash_bytes"] > 0
    assert {one["messages"] for one in wakes.values()} == {2}, "it asks, and it says"
    page = (PACKAGE / "README.md").read_text()
    (said,) = re.findall(r"xtensawin alike\) \| ([0-9,]+) \|", page)
    for sizes in found["mpy_bytes"].values():
        # Another release of the compiler differs a little.
        assert sizes["all"] == pytest.approx(int(said.replace(",", "")), rel=0.05), "README.md is old"
