"""The learning rate of every step, and what a head is asked that it cannot do."""

from __future__ import annotations

import math

import pytest

from fedclient.errors import ModelError
from fedclient.training.schedule import epochs_that_fit, hyper_parameters, learning_rate
from fedclient.values import Plan, Schedule

PLAIN, ALL = ("learning_rate",), ("learning_rate", "l2", "momentum", "mu")


def rates(schedule: Schedule, epochs: int, fit: int, steps: int = 4) -> list[float]:
    plan = Plan(epochs=epochs, learning_rate=2.0, schedule=schedule)
    return [
        learning_rate(plan, epoch, step / steps, epochs if epoch == 0 else fit)
        for epoch in range(fit)
        for step in range(steps)
    ]


def test_constant_linear_and_cosine_go_from_the_plans_rate_to_nothing() -> None:
    assert rates(Schedule.CONSTANT, 2, 2) == [2.0] * 8
    assert rates(Schedule.LINEAR, 2, 2) == pytest.approx([2 * (1 - n / 8) for n in range(8)])
    cosine = [1 + math.cos(math.pi * n / 8) for n in range(8)]
    assert rates(Schedule.COSINE, 2, 2) == pytest.approx(cosine)
    assert rates(Schedule.COSINE, 2, 2)[4] == pytest.approx(1.0)  # half of it in the middle


@pytest.mark.parametrize("schedule", [Schedule.LINEAR, Schedule.COSINE])
@pytest.mark.parametrize("fit", [2, 3, 9])
def test_fewer_epochs_go_the_whole_way_down_too(schedule, fit) -> None:
    found = rates(schedule, 10, fit)
    assert found[:4] == rates(schedule, 10, 10)[:4]  # nobody knew yet
    assert found == sorted(found, reverse=True)
    assert found[4] == pytest.approx(rates(schedule, 10, 10)[4])  # and no jump when it is known
    left = learning_rate(Plan(epochs=10, learning_rate=2.0, schedule=schedule), fit - 1, 1.0, fit)
    assert left == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    ("budget", "first", "epochs"),
    [(0, 5.0, 7), (10, 5.0, 2), (10, 3.0, 3), (10, 11.0, 1), (10, 0.0, 7), (10, 1e-6, 7), (35, 5.0, 7)],
)
def test_what_fits_is_at_least_one_epoch_and_at_most_the_plans(budget, first, epochs) -> None:
    assert epochs_that_fit(Plan(epochs=7, budget_s=budget), first) == epochs


def test_a_head_gets_what_it_has_inputs_for() -> None:
    plan = Plan(learning_rate=0.5, momentum=0.8, l2=0.25, mu=2.0)
    assert hyper_parameters(plan, ALL) == {"learning_rate": 0.5, "momentum": 0.8, "l2": 0.25, "mu": 2.0}
    assert hyper_parameters(Plan(), PLAIN) == {"learning_rate": 0.1}
    assert hyper_parameters(Plan(), ()) == {"learning_rate": 0.1}  # a model's own: the runtime leaves it out
    assert hyper_parameters(Plan(momentum=0.0), PLAIN) == {"learning_rate": 0.1}  # plain SGD has none


@pytest.mark.parametrize(("name", "value"), [("momentum", 0.5), ("l2", 1e-4), ("mu", 0.1)])
def test_what_a_head_would_pass_over_is_an_error_that_names_it(name, value) -> None:
    inputs = tuple(one for one in ALL if one != name)
    with pytest.raises(ModelError, match=rf"{name} is {value:g}, but .* no input '{name}'"):
        hyper_parameters(Plan(**{name: value}), inputs)


def test_the_default_momentum_is_an_error_only_where_somebody_wrote_it_down() -> None:
    assert "momentum" not in hyper_parameters(Plan(), PLAIN)
    with pytest.raises(ModelError, match=r"momentum is 0\.9"):
        hyper_parameters(Plan(), PLAIN, named={"momentum"})
    assert "l2" not in hyper_parameters(Plan(), PLAIN, named={"l2", "mu"})  # nothing asks for nothing


def test_a_schedule_needs_a_learning_rate() -> None:
    with pytest.raises(ModelError, match=r"schedule is cosine, .* built in"):
        hyper_parameters(Plan(schedule=Schedule.COSINE), ())
