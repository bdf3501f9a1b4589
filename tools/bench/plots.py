"""Plots of accuracy against bytes, from the JSON that `tools/bench/run` prints; `tools/bench/draw` starts it.

bytes-digits.png    accuracy on digits against the kilobytes that a device has sent
bytes-budgets.png   accuracy at the end against the bytes of a round: WISDM and Omniglot
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

FP32: Final = "fp32 FedAvg"
DEFAULT: Final = "default plan"
_DOTS_PER_INCH: Final = 80
_DIGITS: Final = {"iid": "every device has all classes", "two_classes": "every device has 2 of 10 classes"}
_BUDGETS: Final = {
    "wisdm": "WISDM, 264 parameters",
    "omniglot": "Omniglot, 33,306 parameters",
}


def digits(found: dict[str, Any]) -> Figure:
    """Draw the courses of the plan as it comes, for two ways to deal the classes."""
    figure = Figure(figsize=(9.5, 3.8), layout="constrained")
    axes = figure.subplots(1, len(_DIGITS), sharey=True)
    for one, (split, title) in zip(axes, _DIGITS.items(), strict=True):
        for name, setting in found["features"][split]["usual"].items():
            if name.endswith("no floor"):
                continue
            course = setting["course"]
            style = {"color": "black", "linestyle": "--"} if name == FP32 else {}
            one.plot(course["kilobytes"], course["accuracy_percent"], label=name, **style)
        one.axhline(95, color="grey", linewidth=0.8)
        one.set(title=title, xscale="log", xlabel="sent by a device so far, kB", ylim=(70, 100))
        _plain_numbers(one)
    axes[0].set_ylabel("accuracy on held-out digits, %")
    axes[-1].legend(fontsize="small", loc="lower right")
    return figure


def budgets(found: dict[str, Any]) -> Figure:
    """Draw the accuracy at the end; bars span the folds of people."""
    figure = Figure(figsize=(9.5, 3.8), layout="constrained")
    axes = figure.subplots(1, len(_BUDGETS), sharey=True)
    for one, (task, title) in zip(axes, _BUDGETS.items(), strict=True):
        settings = found[task]["settings"]
        fitted = [setting for name, setting in settings.items() if name not in {FP32, DEFAULT}]
        _with_bars(one, fitted, label="a byte budget", marker="o")
        _with_bars(one, [settings[DEFAULT]], label="the default plan: int8 at 1 %", marker="s")
        plain = settings[FP32]
        share = 100 * plain["accuracy"]["mean"]
        size = f"{plain['bytes_per_round'] / 1000:.1f} kB"
        one.axhline(share, color="black", linestyle="--", label=f"{FP32}, {size} a round")
        one.set(title=title, xscale="log", xlabel="sent by a device in a round, bytes")
        one.set(xlim=(150, 25_000), ylim=(60, 100))
        _plain_numbers(one)
        one.legend(fontsize="small", loc="lower right")
    axes[0].set_ylabel("accuracy on people not seen, %")
    return figure


def _with_bars(axes: Axes, settings: list[dict[str, Any]], **style: str) -> None:
    accuracy = [setting["accuracy"] for setting in settings]
    middle = [100 * one["mean"] for one in accuracy]
    reach = [
        [100 * (one["mean"] - one["least"]) for one in accuracy],
        [100 * (one["most"] - one["mean"]) for one in accuracy],
    ]
    sizes = [setting["bytes_per_round"] for setting in settings]
    axes.errorbar(sizes, middle, yerr=reach, capsize=3, linewidth=1.2, **style)


def _plain_numbers(axes: Axes) -> None:
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.grid(visible=True, which="major", linewidth=0.4)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="tools/bench/draw", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path, metavar="JSON")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where the PNG files go")
    options = parser.parse_args()
    results = json.loads(options.results.read_text())
    for name, draw, part in (("bytes-digits", digits, "bytes"), ("bytes-budgets", budgets, "budgets")):
        path = options.folder / f"{name}.png"
        draw(results[part]).savefig(path, dpi=_DOTS_PER_INCH, metadata={"Software": None})
        print(path)


if __name__ == "__main__":
    main()
