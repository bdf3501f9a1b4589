"""The tables of docs/bytes.md, from the JSON that `tools/bench/run` prints: tables.py docs/bytes.json."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_CODECS = {"sign_0.2%": "signs, 0.2 %", "sign_1%": "signs, 1 %"}


def tables(results: dict[str, Any]) -> dict[str, str]:
    """Return every table as Markdown, by name."""
    found = {}
    digits = results["bytes"]
    for head in ("features", "pixels"):
        for split, plans in digits[head].items():
            rows = [
                (f"{plan}, {digits['learning_rates'][plan]:g}", name, *_digits(one))
                for plan, settings in plans.items()
                for name, one in settings.items()
            ]
            found[f"{head} {split}"] = _table(_DIGITS, rows)
    for task in ("wisdm", "omniglot"):
        settings = results["budgets"][task]["settings"]
        found[task] = _table(_BUDGETS, [(name, *_budget(one)) for name, one in settings.items()])
    for codec, title in _CODECS.items():
        for share, rates in results["feedback"][codec].items():
            found[f"feedback {title}, {share}"] = _feedback(rates)
    found["tuning"] = _tuning(results["tuning"]["tried"])
    return found


_DIGITS = (
    "plan, learning rate",
    "codec",
    "rounds until 95 %",
    "kB up until 95 %",
    "B up a round",
    "B down a round",
    "final accuracy, %",
    "points below fp32",
    "times fewer B up",
)


def _digits(one: dict[str, Any]) -> list[str]:
    kilobytes = one["kilobytes_until_95"]
    return [
        "not reached" if one["rounds_until_95"] is None else _spread(one["rounds_until_95"], 1, 0),
        "" if kilobytes is None else _spread(kilobytes, 1, 1),
        f"{one['bytes_per_round']:,}",
        f"{one['bytes_down_per_round']:,}",
        _spread(one["final_accuracy"], 100, 1),
        f"{one['points_below_fp32']:.2f}",
        f"{one['times_fewer_bytes']:g}",
    ]


_BUDGETS = ("budget", "B up a round", "B down a round", "accuracy, %", "points below fp32")


def _budget(one: dict[str, Any]) -> list[str]:
    return [
        f"{one['bytes_per_round']:,}",
        f"{one['bytes_down_per_round']:,}",
        _spread(one["accuracy"], 100, 1),
        f"{one['points_below_fp32']:.2f}",
    ]


def _feedback(rates: dict[str, Any]) -> str:
    """Final accuracy, and the mean over all rounds, which says how soon it got there."""
    rows = [
        (name, *(_two(variants[name]) for variants in rates.values())) for name in next(iter(rates.values()))
    ]
    return _table(("variant", *rates), rows)


def _two(one: dict[str, Any]) -> str:
    return f"{100 * one['final_accuracy']['mean']:.1f} ({100 * one['mean_of_all_rounds']['mean']:.1f})"


def _tuning(found: list[dict[str, Any]]) -> str:
    """The plan of the fewest rounds of fp32, and of the fewest kilobytes of each codec."""
    best: dict[tuple[str, str], dict[str, Any]] = {}
    for one in found:
        key = (one["split"], one["setting"])
        if one["kilobytes"] and (key not in best or _cost(one) < _cost(best[key])):
            best[key] = one
    rows = [
        (*key, *(f"{one[name]:g}" for name in ("learning_rate", "epochs", "batch_size")), *_reached(one))
        for key, one in best.items()
    ]
    return _table(
        ("split", "codec", "learning rate", "epochs", "batch", "rounds until 95 %", "kB up until 95 %"), rows
    )


def _cost(one: dict[str, Any]) -> tuple[float, int]:
    return one["kilobytes"]["mean"], one["epochs"]


def _reached(one: dict[str, Any]) -> tuple[str, str]:
    return _spread(one["rounds"], 1, 0), _spread(one["kilobytes"], 1, 1)


def _spread(one: dict[str, float], factor: int, digits: int) -> str:
    least, most = (f"{factor * one[name]:,.{digits}f}" for name in ("least", "most"))
    return least if least == most else f"{factor * one['mean']:,.1f} ({least} to {most})"


def _table(titles: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    titles = list(titles)
    lines = [titles, ["---"] * len(titles), *map(list, rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Print the tables of docs/bytes.md.")
    parser.add_argument("results", type=Path, metavar="JSON")
    for name, text in tables(json.loads(parser.parse_args().results.read_text())).items():
        print(f"{name}\n\n{text}")
