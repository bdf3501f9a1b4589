"""The training loop: stopped at any batch, it goes on to the same bits (PROTOCOL 5.1)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedclient import runtime
from fedclient.model.head import write_head
from fedclient.training.loop import EpochReport, Examples, HeadTraining, accuracy
from fedclient.values import Plan

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


def undisturbed(model: bytes) -> tuple[bytes, list[float]]:
    work = training(model)
    assert work.run(lambda: False, lambda _: None)
    return work.model.get_weights().tobytes(), [report.loss for report in work.reports]


@pytest.mark.parametrize("model", [LINEAR, HIDDEN], ids=["linear", "hidden"])
def test_rule_5_1_stopped_at_every_batch_it_resumes_bit_by_bit(model) -> None:
    whole = undisturbed(model)
    for stop_after in range(1, 3 * 4 + 1):
        first, asked = training(model), iter(range(1, 100))
        assert not first.run(lambda asked=asked, last=stop_after: next(asked) == last, lambda _: None)
        then = training(model)  # a new process knows what a checkpoint holds, nothing else
        then.model.set_weights(first.model.get_weights())
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
    assert set(seen[0].as_dict()) == {"loss", "accuracy", "holdout_accuracy", "seconds"}


def test_accuracy_counts_all_rows_over_several_calls() -> None:
    model = runtime.load(LINEAR)  # all zero: every row is class 0
    data = examples(2500)
    assert accuracy(model, data) == np.count_nonzero(data.y == 0) / 2500
