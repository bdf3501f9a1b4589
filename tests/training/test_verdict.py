"""The rule of adoption: what never passes, what always does, and on real heads how often."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedclient import runtime
from fedclient.model.head import write_head
from fedclient.testing import digits
from fedclient.training.loop import Examples, HeadTraining, accuracy
from fedclient.training.verdict import Measured, decide, enough_rows, log_probabilities, measure
from fedclient.values import Plan, Verdict

ADOPTED, KEPT = Verdict.ADOPTED, Verdict.KEPT_PREVIOUS
shares = st.floats(0, 1)
losses = st.floats(0, 20)
classes_ = st.integers(2, 50)
margins = st.floats(0, 1)


def found(accuracy: float, loss: float) -> Measured:
    return Measured(accuracy=accuracy, loss=loss)


def verdict(new: Measured, current: Measured | None, classes: int = 10, margin: float = 0.05) -> Verdict:
    return decide(new, current, classes, margin)[0]


@given(shares, st.one_of(st.none(), st.builds(found, shares, losses)), classes_, margins)
def test_what_is_not_finite_is_never_adopted(share, current, classes, margin) -> None:
    for bad in (math.nan, math.inf, -math.inf):
        assert verdict(found(share, bad), current, classes, margin) is KEPT
        assert verdict(found(bad, 0.0), current, classes, margin) is KEPT


@given(shares, losses, classes_, margins)
def test_the_head_in_use_is_adopted_again_and_so_is_a_better_one(share, loss, classes, margin) -> None:
    loss = min(loss, 0.9 * math.log(classes))
    same = found(share, loss)
    assert verdict(same, same, classes, margin) is ADOPTED
    assert verdict(found(min(1.0, share + 0.1), loss * 0.9), same, classes, margin) is ADOPTED


@given(shares, losses, st.one_of(st.none(), st.builds(found, shares, losses)), classes_, margins)
def test_whatever_is_adopted_knows_no_less_than_nothing_and_loses_little(
    share, loss, current, classes, margin
) -> None:
    if verdict(found(share, loss), current, classes, margin) is not ADOPTED:
        return
    nothing = math.log(classes)
    assert loss <= 0.95 * nothing + 1e-4 or loss == pytest.approx(nothing, abs=1e-4)
    if current is not None:
        assert share >= current.accuracy - margin - 1e-4
        assert nothing - loss >= 0.9 * max(0.0, nothing - current.loss) - 1e-4


@given(shares, losses, shares, losses, classes_, margins)
def test_a_smaller_loss_or_a_greater_accuracy_costs_no_adoption(a, b, c, d, classes, margin) -> None:
    if verdict(found(a, b), found(c, d), classes, margin) is ADOPTED:
        assert verdict(found(min(1.0, a + 0.1), b), found(c, d), classes, margin) is ADOPTED
        assert verdict(found(a, 0.9 * b), found(c, d), classes, margin) is ADOPTED


def test_the_margin_is_of_accuracy_and_exact() -> None:
    current = found(0.90, 0.3)
    assert verdict(found(0.85, 0.3), current) is ADOPTED
    assert verdict(found(0.849, 0.3), current) is KEPT
    assert verdict(found(0.849, 0.3), current, margin=0.1) is ADOPTED


def test_what_a_head_knows_must_be_more_than_chance() -> None:
    nothing = math.log(10)
    assert verdict(found(0.5, nothing - 0.2), None) is ADOPTED
    assert decide(Measured(accuracy=0.5, loss=nothing - 0.2, error=0.09), None, 10, 0.05)[0] is ADOPTED
    assert decide(Measured(accuracy=0.5, loss=nothing - 0.2, error=0.11), None, 10, 0.05)[0] is KEPT
    for loss in (nothing - 0.1, nothing - 0.001, nothing + 0.001):
        assert verdict(found(0.5, loss), None) is KEPT
        assert verdict(found(0.5, loss), found(0.5, nothing)) is KEPT
        assert verdict(found(0.5, loss), found(0.5, loss + 1)) is KEPT, "however bad the one in use is"


def test_a_head_that_knows_nothing_is_adopted_where_there_is_none(  # every federation begins with it
) -> None:
    model = runtime.load(write_head(4, 3))
    x = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    nothing = measure(model, Examples(x=x, y=np.arange(30, dtype=np.int32) % 3))
    assert nothing.loss == pytest.approx(math.log(3))
    assert verdict(nothing, None, 3) is ADOPTED
    assert verdict(nothing, nothing, 3) is ADOPTED
    assert verdict(nothing, found(0.9, 0.4), 3) is KEPT


def test_a_single_logit_tells_two_classes_apart() -> None:
    scores = log_probabilities(np.array([[0.0], [3.0], [-800.0]], np.float32))
    assert np.allclose(np.exp(scores).sum(axis=1), 1)
    assert scores[0] == pytest.approx([math.log(0.5)] * 2)
    assert scores[1, 1] > scores[1, 0]
    assert np.isfinite(scores).all()


def test_more_rows_are_enough_for_a_smaller_margin() -> None:
    assert [enough_rows(margin) for margin in (1.0, 0.1, 0.05, 0.01, 0.0)] == [20, 25, 100, 1000, 1000]


# --- on real heads --------------------------------------------------------------------------------------
ROUNDS, SEEDS = 5, 40


@pytest.fixture(scope="module")
def heads() -> tuple[object, digits.Task, list[np.ndarray]]:
    """Heads of a federation on digits after 0 to 5 rounds; a device sees three classes of ten."""
    task = digits.task(5, 0)
    model = runtime.load(task.model)
    head, made = model.get_weights(), []
    for number in range(ROUNDS + 1):
        made.append(head)
        trained = []
        for own in task.devices:
            model.set_weights(head)
            HeadTraining(model=model, examples=own, plan=Plan(learning_rate=0.2), seed=number).run(
                lambda: False, lambda _: None
            )
            trained.append(model.get_weights())
        head = np.mean(trained, axis=0).astype(np.float32)
    return model, task, made


def poisons(head: np.ndarray, source: np.random.Generator) -> dict[str, np.ndarray]:
    """Broken heads; the last axis of kernel [C, D] and bias [C] are the classes' own."""
    kernel, bias = head[10:].reshape(10, 64), head[:10]
    order = (np.arange(10) + source.integers(1, 10)) % 10
    random = {
        f"random {scale:g}": (source.normal(size=head.shape) * scale).astype(np.float32)
        for scale in (0.1, 0.3, 1.0, 10.0)
    }
    return {
        **random,
        "permuted labels": np.concatenate([bias[order], kernel[order].ravel()]),
        "shuffled weights": source.permutation(head),
        "turned round": -head,
        "zeros": np.zeros_like(head),
    }


@pytest.mark.parametrize("rounds", [1, ROUNDS])
@pytest.mark.parametrize("rows", [20, 100])
def test_no_broken_head_replaces_a_trained_one_whatever_the_seed(heads, rounds, rows) -> None:
    model, task, made = heads
    refused = 0
    for seed in range(SEEDS):
        source = np.random.default_rng([seed, rounds, rows])
        own = task.devices[seed % len(task.devices)]
        some = source.permutation(len(own))[:rows]
        judged = Examples(x=own.x[some], y=own.y[some])
        model.set_weights(made[rounds])
        current = measure(model, judged)
        assert current.accuracy == accuracy(model, judged)
        for name, head in poisons(made[rounds], source).items():
            model.set_weights(head)
            assert verdict(measure(model, judged), current) is KEPT, (seed, name)
            refused += 1
    assert refused == SEEDS * 8


def test_honest_heads_follow_each_other(heads) -> None:
    model, task, made = heads
    for own in task.devices:
        current = None
        for head in made:
            model.set_weights(head)
            new = measure(model, own)
            assert verdict(new, current) is ADOPTED
            current = new
