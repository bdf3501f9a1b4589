"""The training loop: stopped at any batch, it goes on to the same bits (PROTOCOL 5.1)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedclient import runtime
from fedclient.errors import ModelError
from fedclient.model.head import HeadOptions, Optimizer, write_head
from fedclient.training.loop import EpochReport, Examples, HeadTraining, accuracy, recalls
from fedclient.values import Plan, Schedule

PLAN = Plan(epochs=3, batch_size=8, learning_rate=0.3)
N = 29  # three full batches and a rest
LINEAR, HIDDEN = write_head(5, 3), write_head(5, 3, hidden=4, seed=1)


def examples(count: int = N) -> Examples:
    generator = np.random.default_rng(4)
    y = generator.integers(0, 3, count).astype(np.int32)
    x = generator.normal(size=(count, 5)).astype(np.float32)
    x[:, 0] += y
    return Examples(x=x, y=y)


def training(
    model: bytes = HIDDEN, plan: Plan = PLAN, seed: int = 9, data: Examples | None = None
) -> HeadTraining:
    return HeadTraining(model=runtime.load(model), examples=data or examples(), plan=plan, seed=seed)


def undisturbed(model: bytes, plan: Plan = PLAN) -> tuple[bytes, list[float]]:
    work = training(model, plan)
    assert work.run(lambda: False, lambda _: None)
    return work.model.get_weights().tobytes(), [report.loss for report in work.reports]


def head(optimizer: Optimizer, hidden: int | None = 4, **options: bool) -> bytes:
    return write_head(5, 3, hidden, seed=1, options=HeadOptions(optimizer=optimizer, **options))


@pytest.mark.parametrize(
    ("model", "plan"),
    [
        (LINEAR, PLAN),
        (HIDDEN, PLAN),
        (HIDDEN, replace(PLAN, balanced=True)),
        (HIDDEN, replace(PLAN, mu=0.5, l2=0.01)),
        (HIDDEN, replace(PLAN, schedule=Schedule.COSINE)),
        (head(Optimizer.MOMENTUM), replace(PLAN, momentum=0.7)),
        (head(Optimizer.MOMENTUM, None), replace(PLAN, mu=0.5, balanced=True)),
        (head(Optimizer.ADAM), PLAN),
        (head(Optimizer.ADAM, normalize=True, personal=True), replace(PLAN, mu=0.5, l2=0.01, balanced=True)),
    ],
    ids=["linear", "hidden", "balanced", "mu", "cosine", "momentum", "momentum mu", "adam", "adam all"],
)
def test_rule_5_1_stopped_at_every_batch_it_resumes_bit_by_bit(model, plan) -> None:
    whole = undisturbed(model, plan)
    for stop_after in range(1, 3 * 4 + 1):
        first, asked = training(model, plan), iter(range(1, 100))
        assert not first.run(lambda asked=asked, last=stop_after: next(asked) == last, lambda _: None)
        then = training(model, plan)  # a new process knows what a checkpoint holds, nothing else
        then.model.set_weights(first.model.get_weights())
        then.model.set_state(first.model.get_state())
        then.epoch, then.step, then.loss_sum = first.epoch, first.step, first.loss_sum
        then.reports = list(first.reports)
        assert then.run(lambda: False, lambda _: None)
        assert (then.model.get_weights().tobytes(), [one.loss for one in then.reports]) == whole, stop_after


def test_rule_5_1_stopped_at_every_single_batch_it_still_ends_the_same() -> None:
    work, turns = training(), 0
    while not work.run(lambda: True, lambda _: None):
        turns += 1
        assert turns <= 12
    assert (work.model.get_weights().tobytes(), [one.loss for one in work.reports]) == undisturbed(HIDDEN)


def test_rule_5_1_the_order_is_a_function_of_seed_and_epoch() -> None:
    work, same, other = training(), training(), training(seed=10)

    def order(one: HeadTraining) -> list[int]:
        return np.concatenate(one._batches()).tolist()

    assert order(work) == order(same) != order(other)
    before = order(work)
    work.epoch = 1
    assert order(work) != before
    assert sorted(order(work)) == list(range(N))


@pytest.mark.parametrize(("size", "sizes"), [(8, [8, 8, 8, 5]), (29, [29]), (100, [29]), (1, [1] * 29)])
def test_every_example_once_an_epoch(size, sizes) -> None:
    work = training(plan=Plan(batch_size=size))
    assert [len(rows) for rows in work._batches()] == sizes


def test_a_model_of_a_fixed_batch_gets_whole_batches(shared: Path) -> None:
    model = runtime.load(shared / "models" / "training_model.tflite")
    data = Examples(x=np.ones((5, 1), np.float32), y=np.zeros(5, np.int32))
    work = HeadTraining(model=model, examples=data, plan=Plan(epochs=2, batch_size=4), seed=1)
    assert [len(rows) for rows in work._batches()] == [model.fixed_batch] * 5
    assert work.run(lambda: False, lambda _: None)
    work.model.fixed_batch = 3  # the last of two batches is filled up from the start
    batches = work._batches()
    assert [len(rows) for rows in batches] == [3, 3]
    assert set(np.concatenate(batches).tolist()) == set(range(5))


def test_it_learns_and_reports_each_epoch() -> None:
    seen: list[EpochReport] = []
    work = training(plan=Plan(epochs=12, batch_size=8, learning_rate=0.5))
    work.holdout = examples(40)
    assert work.run(lambda: False, seen.append)
    assert seen == work.reports
    assert len(seen) == 12
    assert seen[-1].loss < seen[0].loss
    assert seen[-1].accuracy == accuracy(work.model, work.examples)
    assert seen[-1].holdout_accuracy == accuracy(work.model, work.holdout)
    assert seen[-1].worst_recall == recalls(work.model, work.examples).worst
    assert seen[-1].holdout_worst_recall == recalls(work.model, work.holdout).worst
    assert set(seen[0].as_dict()) == {
        "loss", "accuracy", "worst_recall", "holdout_accuracy", "holdout_worst_recall", "seconds"
    }  # fmt: skip


def test_accuracy_counts_all_rows_over_several_calls() -> None:
    model = runtime.load(LINEAR)  # all zero: every row is class 0
    data = examples(2500)
    assert accuracy(model, data) == np.count_nonzero(data.y == 0) / 2500


def test_the_worst_class_is_told_where_an_accuracy_hides_it() -> None:
    model = runtime.load(LINEAR)  # all zero: every row is class 0
    skewed = Examples(x=np.zeros((10, 5), np.float32), y=np.array([0] * 9 + [2], np.int32))
    found = recalls(model, skewed)
    assert (found.accuracy, found.worst) == (0.9, 0.0)
    assert (found.counts.tolist(), found.right.tolist()) == ([9, 1], [9, 0])  # class 1 is not there
    alone = Examples(x=skewed.x[:9], y=skewed.y[:9])
    assert (recalls(model, alone).accuracy, recalls(model, alone).worst) == (1.0, 1.0)


class Recorder:
    """A head that cannot learn, and keeps what it is given."""

    fixed_batch, hyper_parameters = None, ("learning_rate",)

    def __init__(self, *inputs: str) -> None:
        self.hyper_parameters = (*self.hyper_parameters, *inputs)
        self.given: list[dict[str, float]] = []

    def train_step(self, _x, _y, hyper) -> float:
        self.given.append(dict(hyper))
        return 1.0

    def infer(self, x) -> np.ndarray:
        return np.zeros((len(x), 3), np.float32)


def recorded(plan: Plan, *inputs: str, seconds: float = 1.0) -> HeadTraining:
    """A training whose every look at the clock comes `seconds` after the one before."""
    ticks = iter(range(10**6))
    return HeadTraining(
        model=Recorder(*inputs), examples=examples(), plan=plan, seed=3, clock=lambda: next(ticks) * seconds
    )


def test_a_step_gets_the_plans_numbers_that_the_head_has_inputs_for() -> None:
    work = recorded(Plan(learning_rate=0.25, momentum=0.5, mu=2.0), "momentum", "mu", "l2")
    assert work.run(lambda: False, lambda _: None)
    assert work.model.given == [{"learning_rate": 0.25, "momentum": 0.5, "mu": 2.0, "l2": 0.0}] * 2


def test_what_the_head_has_no_input_for_is_refused_before_the_first_step() -> None:
    work = recorded(Plan(mu=0.1))
    with pytest.raises(ModelError, match=r"mu is 0\.1"):
        work.run(lambda: False, lambda _: None)
    assert not work.model.given


def test_the_schedule_goes_over_all_steps_of_the_job_stopped_or_not() -> None:
    plan = Plan(epochs=3, batch_size=8, learning_rate=1.0, schedule=Schedule.LINEAR)
    whole, stops = recorded(plan), recorded(plan)
    assert whole.run(lambda: False, lambda _: None)
    while not stops.run(lambda: True, lambda _: None):
        pass
    rates = [one["learning_rate"] for one in whole.model.given]
    np.testing.assert_allclose(rates, [1 - step / 12 for step in range(12)], atol=1e-12)
    assert stops.model.given == whole.model.given


@pytest.mark.parametrize(("budget", "epochs"), [(0.0, 9), (0.5, 1), (1.0, 1), (3.5, 3), (1000.0, 9)])
def test_as_many_epochs_are_done_as_the_first_one_says_will_fit(budget, epochs) -> None:
    work = recorded(Plan(epochs=9, batch_size=8, budget_s=budget))
    assert work.run(lambda: False, lambda _: None)
    assert (work.epoch, work.epochs, len(work.reports)) == (epochs, epochs, epochs)
    assert len(work.model.given) == 4 * epochs
    assert work.run(lambda: False, lambda _: None)  # done is done
    assert len(work.model.given) == 4 * epochs


def test_the_schedule_goes_all_the_way_over_the_epochs_that_fit() -> None:
    plan = Plan(epochs=10, batch_size=8, learning_rate=1.0, schedule=Schedule.LINEAR, budget_s=2.5)
    work = recorded(plan)
    assert work.run(lambda: False, lambda _: None)
    rates = [one["learning_rate"] for one in work.model.given]
    first = [1 - step / 40 for step in range(4)]  # before anybody knows
    np.testing.assert_allclose(rates, [*first, *(0.9 * (1 - step / 4) for step in range(4))], atol=1e-12)


def test_time_before_a_stop_counts_and_what_fits_is_decided_once() -> None:
    work = recorded(Plan(epochs=9, batch_size=8, budget_s=12.0))
    for _ in range(4):
        assert not work.run(lambda: True, lambda _: None)  # each batch takes a second
    assert (work.epoch, work.step, work.seconds) == (0, 4, 4.0)
    assert not work.run(lambda: True, lambda _: None)
    assert work.reports[0].seconds == 5.0  # the pass over the examples at the end is a part of it
    assert (work.epoch, work.epochs) == (1, 2)
    work.clock = iter(range(0, 10**6, 100)).__next__
    assert work.run(lambda: False, lambda _: None)
    assert work.epoch == 2


def test_balanced_draws_are_what_is_trained_on() -> None:
    work = recorded(Plan(batch_size=30, balanced=True))
    work.examples = Examples(x=np.zeros((30, 5), np.float32), y=np.array([0] * 27 + [1] * 2 + [2], np.int32))
    (rows,) = work._batches()
    assert np.bincount(work.examples.y[rows]).tolist() == [10, 10, 10]


def test_a_model_with_a_single_output_tells_two_classes_apart() -> None:
    class Single:
        def infer(self, x) -> np.ndarray:
            return x[:, :1]

    rows = np.array([[-1], [-2], [1], [2], [3]], np.float32)
    found = recalls(Single(), Examples(x=rows, y=np.array([0, 0, 0, 1, 1], np.int32)))
    assert found.right.tolist() == [2, 2]
    assert (found.accuracy, found.worst) == (4 / 5, 2 / 3)
