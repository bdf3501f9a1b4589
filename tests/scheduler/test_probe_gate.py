"""The owner's own gate may fail in any way, and takes nothing down."""

import sys
from pathlib import Path

import pytest

from fedclient.scheduler.probe_gate import RETRY_S, OwnGate

MODULE = """
import asyncio
import sys

def open_(readings): return True
def closed(readings): return (False, "the pump\\nruns")
def warm(readings): return readings["temp_c"]["value"] > 30
def fails(readings): raise RuntimeError("no pump")
def leaves(readings): sys.exit(3)
def number(readings): return 1
def pair(readings): return (True, 5)
def nothing(readings): pass
def takes_none(): return True
class Strange(Exception):
    def __str__(self): raise ValueError
def strange(readings): raise Strange
def cancelled(readings): raise asyncio.CancelledError("too slow")
class Text(str):
    def __iter__(self): raise ValueError("no letters")
def odd_text(readings): return (True, Text("x"))
constant = 5
calls = []
def recovers(readings):
    calls.append(1)
    return len(calls) > 1 or 1 / 0
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_gate_under_test.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield "own_gate_under_test"
    sys.modules.pop("own_gate_under_test", None)


def ask(name: str, **readings):
    return OwnGate(name).read(readings, 0.0)


def test_none_is_set() -> None:
    assert OwnGate(None).read({}, 0.0).reason == "no [schedule] gate is set"


def test_it_answers(module: str) -> None:
    found = ask(f"{module}:open_")
    assert (found.value, found.source) == (True, "own_gate_under_test:open_")
    found = ask(f"{module}:closed")
    assert (found.value, found.source) == (False, "own_gate_under_test:closed: the pump runs")
    assert ask(f"{module}:warm", temp_c={"value": 31.5}).value is True


@pytest.mark.parametrize(
    ("function", "why"),
    [
        ("fails", "failed: RuntimeError: no pump"),
        ("leaves", "failed: SystemExit: 3"),
        ("cancelled", "failed: CancelledError: too slow"),  # no Exception
        ("odd_text", "failed: ValueError: no letters"),
        ("number", "returned int, not a bool or (bool, sentence)"),
        ("pair", "returned tuple, not"),
        ("nothing", "returned NoneType, not"),
        ("takes_none", "failed: TypeError"),
        ("constant", "failed: TypeError: constant is no function"),
        ("absent", "failed: AttributeError"),
        ("strange", "failed: Strange"),
    ],
)
def test_what_goes_wrong_is_a_reason(module: str, function: str, why: str) -> None:
    found = ask(f"{module}:{function}")
    assert found.value is None
    assert why in found.reason


@pytest.mark.parametrize("name", ["no_such_module:f", "", ":", "a b:c", "os.:f", ".os:f"])
def test_a_module_that_is_not_there(name: str) -> None:
    found = ask(name)
    assert found.value is None
    assert found.reason.startswith(f"[schedule] gate {name} failed: ")


def test_a_function_that_failed_once_is_asked_again(module: str) -> None:
    gate = OwnGate(f"{module}:recovers")
    assert [gate.read({}, 0.0).value, gate.read({}, 0.0).value] == [None, True]


def test_a_missing_module_is_not_tried_at_each_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    gate = OwnGate("own_gate_later:f")
    assert gate.read({}, 0.0).value is None
    (tmp_path / "own_gate_later.py").write_text("def f(readings): return True\n")
    try:
        assert gate.read({}, RETRY_S - 1).value is None
        assert gate.read({}, RETRY_S).value is True
    finally:
        sys.modules.pop("own_gate_later", None)
