"""The golden vectors of nodes, on real MicroPython: the same bytes as CPython's, and what it must refuse."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.micropython.conftest import ROOT, run_program

VECTORS = json.loads((ROOT / "tests" / "vectors" / "nodes.json").read_text())
UP = {"sample", "label"}


@pytest.fixture(scope="module")
def found(micropython, tmp_path_factory) -> dict[str, Any]:
    # The vectors as JSON objects are what takes the room.
    return run_program(micropython, tmp_path_factory.mktemp("vectors"), "vectors.py", VECTORS, heap="2M")


def down(group: str) -> list[dict[str, Any]]:
    return [one for one in VECTORS[group] if one["kind"] not in UP]


def test_keys_and_rfc_4231(found: dict[str, Any]) -> None:
    assert found["keys"] == [VECTORS["keys"]["up"], VECTORS["keys"]["down"]]
    assert found["hmac"] == [one["mac"] for one in VECTORS["hmac"]]


def test_what_a_node_says_is_identical_byte_for_byte(found: dict[str, Any]) -> None:
    wanted = [(one["name"], one["message"]) for one in VECTORS["good"] if one["kind"] in UP]
    assert wanted == [(name, said) for (name, _), said in zip(wanted, found["said"], strict=True)]


def test_what_a_node_is_told_is_read(found: dict[str, Any]) -> None:
    for one, read in zip(down("good"), found["good"], strict=True):
        if one["kind"] == "ack":
            settled = one["ranges"] + [[gone, 1] for gone in one["gone"]]
            assert read == {"nonce": VECTORS["nonce"], "next": one["next"], "settled": settled}, one["name"]
        else:
            assert (read["version"], read["labels"]) == (one["version"], one["labels"]), one["name"]


def test_predictions_are_identical(found: dict[str, Any]) -> None:
    pairs = [pair for pair in zip(down("good"), found["good"], strict=True) if pair[0]["kind"] == "head"]
    assert len(pairs) >= 2
    for one, read in pairs:
        assert read["outputs"] == [[each["outputs"], each["class"]] for each in one["predictions"]]


def test_a_genuine_message_with_a_bad_body_is_refused(found: dict[str, Any]) -> None:
    for one, read in zip(down("bad"), found["bad"], strict=True):
        assert list(read) == ["bad"], (one["kind"], one["name"], read)


def test_a_forged_message_is_refused_by_its_tag_or_length(found: dict[str, Any]) -> None:
    for one, read in zip(down("forged"), found["forged"], strict=True):
        assert list(read) == ["forged"], (one["kind"], one["name"], read)
