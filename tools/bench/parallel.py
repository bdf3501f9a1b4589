"""Many federations at once, one for each processor, each of them single-threaded."""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

Case = TypeVar("Case")
Found = TypeVar("Found")

_SAID_EVERY = 20


def together(function: Callable[[Case], Found], cases: Sequence[Case]) -> list[Found]:
    """Call `function` for each case, in new processes; the results have the order of `cases`."""
    # matrices of a head are small: threads of a BLAS would spend their time waiting for each other
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    found = []
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        for number, one in enumerate(pool.map(function, cases), 1):
            found.append(one)
            if number % _SAID_EVERY == 0:
                print(f"{number} of {len(cases)}", file=sys.stderr, flush=True)
    return found


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return mean, least and most."""
    return {
        "mean": round(statistics.mean(values), 4),
        "least": round(min(values), 4),
        "most": round(max(values), 4),
    }
