"""The rule of adoption: what never passes, what always does, and on real heads how often."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedclient import runtime
from fedclient.model.head import write_head
from fedclient.runtime import TrainableModel
from fedclient.testing import digits
from fedclient.training.loop import Examples, HeadTraining
from fedclient.training.verdict import (
    Measured,
    Overlap,
    decide,
    enough_rows,
    log_probabilities,
    loses_classes,
    measure,
)
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
ROUNDS, SEEDS = (1, 5, 40), 3


@dataclass(frozen=True)
class Fleet:
    """A federation that was run (McMahan et al. 2017): its devices, and the head of every round."""

    model: TrainableModel
    devices: list[Examples]
    heads: list[np.ndarray]

    def measured(self, head: np.ndarray, examples: Examples) -> Measured:
        self.model.set_weights(head)
        return measure(self.model, examples)


def run(model: bytes, devices: list[Examples], plan: Plan) -> Fleet:
    loaded = runtime.load(model)
    heads = [loaded.get_weights()]
    for number in range(max(ROUNDS)):
        trained = []
        for own in devices:
            loaded.set_weights(heads[-1])
            HeadTraining(model=loaded, examples=own, plan=plan, seed=number).run(
                lambda: False, lambda _: None
            )
            trained.append(loaded.get_weights())
        weights = [len(own) for own in devices]
        heads.append(np.average(trained, axis=0, weights=weights).astype(np.float32))
    return Fleet(loaded, devices, heads)


@pytest.fixture(scope="module")
def digit_fleet() -> Fleet:
    """Handwritten digits: a device sees three classes of ten."""
    task = digits.task(5, 0)
    return run(task.model, list(task.devices), Plan(learning_rate=0.2))


@pytest.fixture(scope="module")
def people(shared) -> Fleet:
    """WISDM: every third person, with habits of their own; the others were never seen."""
    with np.load(shared / "data" / "wisdm" / "har.npz", allow_pickle=False) as data:
        x, y, person = data["x"], data["y"].astype(np.int32), data["client"]
    x = ((x - x.mean(axis=0)) / (x.std(axis=0) + 1e-6)).astype(np.float32)
    devices = [Examples(x=x[person == one], y=y[person == one]) for one in np.unique(person)]
    fleet = run(write_head(x.shape[1], 6), devices[::3], Plan())
    return Fleet(fleet.model, [own for own in devices if len(own) >= 40], fleet.heads)


@pytest.fixture(params=["digit_fleet", "people"])
def fleet(request) -> Fleet:
    return request.getfixturevalue(request.param)


def broken(head: np.ndarray, classes: int, source: np.random.Generator) -> dict[str, np.ndarray]:
    """Heads that do harm: random weights of any size, and the classes of a good head in another order."""
    bias, kernel = head[:classes], head[classes:].reshape(classes, -1)
    order = (np.arange(classes) + source.integers(1, classes)) % classes
    random = {
        f"random {scale:g}": (source.normal(size=head.shape) * scale).astype(np.float32)
        for scale in (0.01, 0.1, 0.3, 1.0, 10.0)
    }
    return {
        **random,
        "permuted labels": np.concatenate([bias[order], kernel[order].ravel()]),
        "shuffled weights": source.permutation(head),
        "turned round": -head,
        "zeros": np.zeros_like(head),
    }


def harms(new: Measured, current: Measured, classes: int) -> bool:
    """Whether it is worse, beyond the margin: right less often, or with a loss that anybody would notice."""
    known = max(0.0, math.log(classes) - current.loss)
    return new.accuracy < current.accuracy - 0.05 or new.loss > current.loss + max(0.05, 0.1 * known)


@pytest.mark.parametrize("rounds", ROUNDS)
@pytest.mark.parametrize("rows", [20, enough_rows(0.05)])
def test_no_broken_head_that_does_harm_replaces_one_whatever_the_seed(fleet, rounds, rows, thorough) -> None:
    """A device holds 20 samples and judges on them, or holds any number and judges on as many as it does.

    Its present head is one that it adopted.  On 20 samples a device that would know better with more of
    them can be wrong; that is rare, and `tools/bench/adoption.py` counts it.
    """
    tried, classes, head = 0, fleet.model.classes, fleet.heads[rounds]
    adopted = 0
    for number, own in enumerate(fleet.devices):
        for seed in range(40 if thorough else SEEDS):
            source = np.random.default_rng([seed, rounds, number])
            some = source.permutation(len(own))[:rows]
            judged = Examples(x=own.x[some], y=own.y[some])
            current = fleet.measured(head, judged)
            if verdict(current, None, classes) is KEPT:
                continue  # it would not be in use
            for name, bad in broken(head, classes, source).items():
                tried += 1
                if verdict(fleet.measured(bad, judged), current, classes) is ADOPTED:
                    adopted += 1
                    held = judged if rows == 20 else own
                    both = fleet.measured(bad, held), fleet.measured(head, held)
                    assert not harms(*both, classes), (number, seed, name)
    print(f"{tried} broken heads against the head of round {rounds}, {adopted} adopted, none of them harmful")
    assert tried > 100
    assert adopted <= tried / 100


def test_honest_heads_follow_each_other(fleet) -> None:
    """In their order, each device against the head that it adopted last, on all that it has."""
    refused = judged = 0
    for own in fleet.devices:
        current = None
        for head in fleet.heads:
            new = fleet.measured(head, own)
            judged += 1
            if verdict(new, current, fleet.model.classes) is ADOPTED:
                current = new
            else:
                refused += 1
    print(f"{refused} of {judged} honest heads refused")
    assert refused <= 0.1 * judged


@given(shares, shares, st.integers(1, 1000), margins)
def test_where_both_have_all_classes_accuracy_and_margin_decide(new, used, both, margin) -> None:
    rows = Overlap(both=both, only_used=0, only_new=0)
    if abs(used - new - margin) > 1e-4:
        assert bool(loses_classes(found(new, 0), found(used, 0), rows, margin)) is (new < used - margin)


@pytest.mark.parametrize(
    ("both", "only_used", "only_new", "lost"),
    [(34, 66, 0, True), (0, 60, 100, False), (0, 100, 60, True), (97, 3, 0, False), (90, 10, 0, True)],
)
def test_a_sample_without_a_class_is_a_wrong_one(both, only_used, only_new, lost) -> None:
    rows = Overlap(both=both, only_used=only_used, only_new=only_new)
    assert bool(loses_classes(found(1, 0), found(1, 0), rows, 0.05)) is lost
