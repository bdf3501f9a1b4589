"""What goes into one training step besides rows and labels: the learning rate of this step, and the rest.

An option of a plan that the head has no input for is an error, never passed over; `momentum` at its
default is no option that somebody chose, so a head without momentum takes such a plan.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Final

from fedclient.errors import ModelError
from fedclient.values import Plan, Schedule

LEARNING_RATE: Final = "learning_rate"
_OPTIONS: Final = ("momentum", "l2", "mu")  # of a plan, and inputs of `train`
_ANEW: Final = {"momentum": "write the head anew with --optimizer momentum"}


def hyper_parameters(plan: Plan, inputs: Collection[str], named: Collection[str] = ()) -> dict[str, float]:
    """Return what `train` takes besides its rows, by name: `inputs` is the model's `hyper_parameters`.

    `named`: options that somebody wrote down, which then count although they have their default value.
    Raises ModelError, with the option named, when the head has no input for what the plan asks.
    """
    usual = Plan()
    for name in _OPTIONS:
        value = getattr(plan, name)
        asked = name in named or value != getattr(usual, name)
        if name not in inputs and value and asked:
            raise ModelError(
                f"{name} is {value:g}, but the model's 'train' has no input {name!r}: "
                f"{_ANEW.get(name, 'a head that fedclient writes has one')}, or leave {name} out"
            )
    if plan.schedule is not Schedule.CONSTANT and LEARNING_RATE not in inputs:
        raise ModelError(
            f"schedule is {plan.schedule.name.lower()}, but the model's learning rate is built in: "
            "leave schedule out"
        )
    options = {name: float(getattr(plan, name)) for name in _OPTIONS if name in inputs}
    return {LEARNING_RATE: plan.learning_rate, **options}


def learning_rate(plan: Plan, epoch: int, part: float, epochs: int) -> float:
    """Return the rate of a step of `epoch` (from 0), of which `part` (0..1) is done, when `epochs` will be.

    When time cuts the epochs, that is known only after the first one: this has then had the first
    part of the plan's whole curve, and those that follow have all the rest of it.
    """
    done = (epoch + part) / plan.epochs
    if epochs < plan.epochs and epoch:
        first = 1 / plan.epochs
        done = first + (1 - first) * (epoch - 1 + part) / (epochs - 1)
    if plan.schedule is Schedule.LINEAR:
        return plan.learning_rate * (1 - done)
    if plan.schedule is Schedule.COSINE:
        return plan.learning_rate * (1 + math.cos(math.pi * done)) / 2
    return plan.learning_rate


def epochs_that_fit(plan: Plan, first_epoch_s: float) -> int:
    """Return how many epochs, the first included, take no longer than the plan's budget: at least one."""
    if not plan.budget_s:
        return plan.epochs
    return max(1, min(plan.epochs, int(plan.budget_s / max(first_epoch_s, 1e-9))))
