"""The ring of what is not settled: bounded, in RAM and in a file that outlives a power cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def numbers(state: dict[str, Any]) -> list[int]:
    return [entry[0] for entry in state["entries"]]


def test_full_it_lets_the_oldest_go_and_counts_it(on_node) -> None:
    states = on_node("rings.py", [["boot", 3], ["begin", 100]] + [["push", n, 0, "x"] for n in range(1, 6)])
    assert numbers(states[-1]) == [3, 4, 5]
    assert states[-1]["counters"] == [103, 104, 105]
    assert states[-1]["dropped"] == 2


def test_what_is_below_or_in_a_range_is_settled(on_node) -> None:
    pushed = [["push", n, 0, "x"] for n in range(1, 9)]
    states = on_node("rings.py", [["boot", 9], ["begin", 0], *pushed, ["settle", 3, [[5, 2], [8, 1]], False]])
    assert numbers(states[-1]) == [3, 4, 7]


def test_numbers_wait_for_the_base(on_node) -> None:
    states = on_node("rings.py", [["boot", 9], ["push", 1, 0, "a"], ["push", 2, 1, "b"], ["begin", 2000]])
    assert states[2]["counters"] is None
    assert states[3]["counters"] == [2001, 2002]


def test_a_file_brings_entries_over_a_boot_with_their_counters(on_node, tmp_path: Path) -> None:
    states = on_node(
        "rings.py",
        [
            ["boot", 4, "ring"],
            ["begin", 10],
            ["push", 1, 0, "a"],
            ["push", 2, 1, "b"],
            ["settle", 12, [], False],
            ["boot", 4, "ring"],
            ["begin", 300],
            ["push", 1, 0, "c"],
            # What this boot pushed stays where an ack is about an earlier life.
            ["settle", 1000, [], True],
        ],
    )
    assert states[5]["entries"] == [[-11, 0, "a"], [-12, -11, "b"]]  # settled again by the next ack
    assert states[7]["counters"] == [11, 12, 301]
    assert states[8]["counters"] == [301]


def test_the_file_stays_small(on_node, tmp_path: Path) -> None:
    pushed = [["push", n, 0, "x" * 20] for n in range(1, 200)]
    on_node("rings.py", [["boot", 8, "ring"], ["begin", 0], *pushed], heap="4M")
    record = 18 + 20 + 4
    assert (tmp_path / "ring").stat().st_size <= 17 * record
    states = on_node("rings.py", [["boot", 8, "ring"]])
    assert numbers(states[0]) == [-n for n in range(192, 200)]


def test_a_record_cut_short_or_damaged_ends_the_file(on_node, tmp_path: Path) -> None:
    on_node("rings.py", [["boot", 8, "ring"], ["begin", 0]] + [["push", n, 0, "abc"] for n in range(1, 6)])
    whole = (tmp_path / "ring").read_bytes()
    record = len(whole) // 5
    for cut in (record - 1, 3 * record + 1, 5 * record - 2):
        (tmp_path / "ring").write_bytes(whole[:cut])
        # The next boot appends after the last good record.
        states = on_node(
            "rings.py", [["boot", 8, "ring"], ["begin", 50], ["push", 1, 0, "new"], ["boot", 8, "ring"]]
        )
        assert numbers(states[-1]) == [-n for n in range(1, cut // record + 1)] + [-51]
    for byte in (0, 5, 17, record - 5, record - 1):  # size, counters, tail, checksum
        flipped = bytearray(whole)
        flipped[2 * record + byte] ^= 1
        (tmp_path / "ring").write_bytes(flipped)
        assert numbers(on_node("rings.py", [["boot", 8, "ring"]])[0]) == [-1, -2]
