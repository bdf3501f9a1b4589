"""A federation of linear heads in NumPy is the federation in TFLite, to rounding."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from fedclient.model.head import HeadOptions, Optimizer, write_head
from fedclient.values import Codec, Plan

BENCH = Path(__file__).parents[2] / "tools" / "bench"
SGD = Plan(learning_rate=0.2, momentum=0.0, epochs=2, codec=Codec(density=0.1))
MOMENTUM = Plan(learning_rate=0.02, momentum=0.9, l2=0.03, norm_bound=0.5, codec=Codec(density=0.1))


@pytest.fixture
def part(monkeypatch: pytest.MonkeyPatch):
    """Return a function that imports a part of the bench as the bench does."""
    monkeypatch.syspath_prepend(BENCH)
    yield importlib.import_module
    for name in ("digits", "federation", "feedback", "linear", "parallel"):
        sys.modules.pop(name, None)


def course(kind, plan: Plan, task, part, **more) -> list[np.ndarray]:
    options = HeadOptions(optimizer=Optimizer.MOMENTUM if plan.momentum else Optimizer.SGD)
    people = part("federation").above_the_floor(task.devices)
    federation = kind.of(write_head(64, 10, options=options), plan, people)
    for name, value in more.items():
        setattr(federation, name, value)
    heads = []
    for _ in range(3):
        federation.run(1)
        heads.append(federation.head)
    return heads


@pytest.mark.parametrize("split", ["iid", "two_classes", "dirichlet"])
@pytest.mark.parametrize("plan", [SGD, MOMENTUM], ids=["sgd", "momentum"])
def test_it_makes_the_heads_of_the_real_training_and_packing(part, plan: Plan, split: str) -> None:
    task = part("digits").task("pixels", split, 0)
    real, fast = (
        course(kind, plan, task, part)
        for kind in (part("federation").Federation, part("linear").LinearFederation)
    )
    for one, other in zip(real, fast, strict=True):
        assert np.abs(one).max() > 0.01
        # an element in a thousand may fall on the other side of a rounding
        assert np.linalg.norm(one - other) < 0.01 * np.linalg.norm(one)
