"""The bench of what heads cost on the way down: it runs, and its bytes add up."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "tools" / "bench"
OWN = ("digits", "downlink", "federation", "linear", "parallel")


@pytest.fixture
def downlink(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(BENCH)
    yield importlib.import_module("downlink")
    for name in OWN:
        sys.modules.pop(name, None)


def test_every_byte_of_a_round_is_accounted_for(downlink, monkeypatch) -> None:
    monkeypatch.setattr(downlink, "JOINS_EVERY", 2)
    case = downlink.Case(split="two_classes", setting="sign 1 %", seed=0, rounds=4)
    found = downlink.run(case)
    parts = found["parts"]
    assert found["total"] == pytest.approx(sum(parts.values()))
    assert 300 < parts["deltas"] < 0.75 * 760, "three of the four rounds are deltas of at most 700 bytes"
    assert parts["head, whole"] > 10, "somebody has joined"
    assert parts["acknowledgement of the update"] == 4
    assert parts["acknowledgements sent"] == 12, "of manifest, delta or head, and receipt"
    manifest = found["manifest"]
    assert manifest["total"] == sum(size for name, size in manifest.items() if name != "total")
    assert manifest["deltas"] > 13
    assert found["some_away"] > 0
    assert found["accuracy"][0] > 0.5


def test_a_smaller_budget_is_kept(downlink) -> None:
    case = downlink.Case(split="two_classes", setting="sign 1 %", seed=0, rounds=3, max_delta_bytes=300)
    assert 250 < downlink.run(case)["delta"] <= 300
