"""Files of heads: whole or none."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from fedclient.nodes import headfile
from fedclient.nodes.headfile import POOLED, HeadFile
from fedclient.nodes.messages import encode_head
from tests.nodes import golden

MADE = HeadFile(adopted_sha256="ab", revision=2, why="", body=encode_head(golden.HEADS["two layers"]))


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    folder = tmp_path / "nodes"
    assert headfile.load(folder, "shed") is None
    MADE.save(folder, "shed")
    assert headfile.load(folder, "shed") == MADE
    none = HeadFile(adopted_sha256="ab", revision=0, why="a backbone", body=b"")
    none.save(folder, "shed")
    assert headfile.load(folder, "shed") == none


@pytest.mark.parametrize("name", ["adopted_sha256", "revision", "why", "labels", "examples"])
def test_a_field_of_another_kind_is_damage_too(tmp_path: Path, name: str) -> None:
    replace(MADE, **{name: None}).save(tmp_path, "shed")
    assert headfile.load(tmp_path, "shed") is None


def test_a_file_from_before_labels_were_counted_is_taken(tmp_path: Path) -> None:
    line = b'{"adopted_sha256": "ab", "revision": 2, "why": ""}\n'
    (tmp_path / "shed").write_bytes(line + MADE.body)
    assert headfile.load(tmp_path, "shed") == MADE


@pytest.mark.parametrize(
    ("labels", "examples", "given", "outgrown"),
    [
        (0, 0, 19, False),
        (0, 0, 20, True),
        (500, 30, 519, False),  # half as many would be 15, but that is too few
        (500, 300, 649, False),
        (500, 300, 650, True),  # of 300 samples that are kept, whatever came and went before
        (500, 300, 499, True),  # another store
    ],
)
def test_when_a_head_is_outgrown(labels: int, examples: int, given: int, outgrown: bool) -> None:
    made = replace(MADE, labels=labels, examples=examples)
    assert made.is_outgrown(given, 20) is outgrown


@pytest.mark.parametrize("damage", [b"", b"{}\n", b"\n", b"[" * 9999, b'{"adopted_sha256": "ab"}\nxx'])
def test_a_damaged_file_is_as_good_as_none(tmp_path: Path, damage: bytes) -> None:
    MADE.save(tmp_path, "shed")
    (tmp_path / "shed").write_bytes(damage)
    assert headfile.load(tmp_path, "shed") is None


def test_a_damaged_body_is_as_good_as_none(tmp_path: Path) -> None:
    MADE.save(tmp_path, "shed")
    data = (tmp_path / "shed").read_bytes()
    (tmp_path / "shed").write_bytes(data[:-1])
    assert headfile.load(tmp_path, "shed") is None


def test_heads_of_nobody_are_removed(tmp_path: Path) -> None:
    headfile.remove_others(tmp_path / "nodes", set())
    for name in ("shed", "barn"):
        MADE.save(tmp_path, name)
    headfile.remove_others(tmp_path, {"barn"})
    assert [path.name for path in tmp_path.iterdir()] == ["barn"]
    assert headfile.load(tmp_path, "barn") == MADE


@pytest.mark.parametrize(
    ("before", "after"), [({POOLED}, {"shed", "barn"}), ({"shed", "barn"}, {POOLED})], ids=["own", "common"]
)
def test_between_one_head_for_all_and_one_for_each_the_count_goes_on(
    tmp_path: Path, before: set[str], after: set[str]
) -> None:
    for name, revision in zip(sorted(before), (7, 9), strict=False):
        replace(MADE, revision=revision).save(tmp_path, name)
    headfile.remove_others(tmp_path, after)
    assert {path.name for path in tmp_path.iterdir()} == after
    for name in after:
        found = headfile.load(tmp_path, name)
        assert found is not None
        assert (found.adopted_sha256, found.revision, found.body) == ("", 5 + 2 * len(before), b"")


def test_what_is_forgotten_keeps_its_count(tmp_path: Path) -> None:
    headfile.forget(tmp_path / "nodes")
    MADE.save(tmp_path, "shed")
    (tmp_path / "barn").write_bytes(b"damaged")
    headfile.forget(tmp_path)
    assert headfile.load(tmp_path, "shed") == HeadFile(adopted_sha256="", revision=2, why="", body=b"")
    assert [path.name for path in tmp_path.iterdir()] == ["shed"]


def test_a_purge_waits_for_who_writes(tmp_path: Path) -> None:
    """Else a head that was tuned on what is purged could be written after it."""
    purge = threading.Thread(target=headfile.forget, args=(tmp_path,))
    with headfile.alone(tmp_path):
        purge.start()
        purge.join(0.05)
        MADE.save(tmp_path, "shed")
    purge.join()
    found = headfile.load(tmp_path, "shed")
    assert found is not None
    assert found.body == b""
