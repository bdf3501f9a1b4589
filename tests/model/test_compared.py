"""The comparison with the reference can fail: a graph with one operation changed is found out."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from fedclient.errors import ModelError
from fedclient.model import ops, optimizers, passes
from fedclient.model.compared import largest_error, steps_of
from fedclient.model.head import HeadGraphs, HeadOptions, Optimizer, metadata, write_head
from fedclient.model.layers import Head
from fedclient.model.optimizers import Steps
from fedclient.model.proof import TOLERANCE, prove
from fedclient.runtime import load

KINDS = [
    HeadOptions(optimizer=optimizer, normalize=normalize, personal=personal)
    for optimizer, normalize, personal in itertools.product(Optimizer, (False, True), (False, True))
]


@pytest.mark.parametrize("options", KINDS, ids=str)
@pytest.mark.parametrize("hidden", [None, 7])
def test_heads_with_any_options_match_the_reference(hidden, options):
    assert largest_error(load(write_head(4, 3, hidden, options=options)), metadata(hidden, options)) < 5e-5


def test_a_head_of_version_1_still_checks_out():
    report = prove(Path(__file__).with_name("head_v1.tflite").read_bytes())
    assert report.ok, report.reason
    assert report.max_relative_error < 1e-5
    assert report.signatures == ("get_weights", "infer", "set_weights", "train")


def no_mask(patch):
    patch.setattr(ops, "positive", lambda _graph, value, _shape: value)


def other_decay_of_squares(patch):
    patch.setattr(optimizers, "ADAM_SECOND", 0.99)


def other_epsilon(patch):
    patch.setattr(optimizers, "ADAM_EPSILON", 0.1)


def l2_for_mu(patch):
    patch.setattr(optimizers, "L2", "mu")


def pulled_nowhere(patch):
    patch.setattr(optimizers, "anchor", lambda name: name)


def forgetful(patch):
    patch.setattr(Steps, "_gathered", lambda _self, _slot, _keep, new, _shape: new)


def not_normalized(patch):
    patch.setattr(passes, "_normalized", lambda _graph, _head, x: x)


@pytest.mark.parametrize(
    ("broken", "options"),
    [
        (no_mask, HeadOptions()),
        (other_decay_of_squares, HeadOptions(optimizer=Optimizer.ADAM)),
        (other_epsilon, HeadOptions(optimizer=Optimizer.ADAM)),
        (l2_for_mu, HeadOptions()),
        (pulled_nowhere, HeadOptions()),
        (pulled_nowhere, HeadOptions(optimizer=Optimizer.ADAM)),
        (forgetful, HeadOptions(optimizer=Optimizer.MOMENTUM)),
        (not_normalized, HeadOptions(normalize=True)),
    ],
)
def test_a_graph_that_computes_something_else_is_found_out(broken, options, monkeypatch):
    with monkeypatch.context() as patch:
        broken(patch)
        data = write_head(6, 3, 7, options=options)
    report = prove(data)
    assert not report.ok
    assert report.max_relative_error > 10 * TOLERANCE
    assert "differ from the NumPy reference" in report.reason


def test_a_state_that_is_not_all_is_found_out(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Head, "state", property(lambda head: head.slots))
        data = write_head(6, 3, 7, options=HeadOptions(optimizer=Optimizer.MOMENTUM))
    assert "state is not what" in prove(data).reason


def test_a_state_that_is_not_put_back_is_found_out(monkeypatch):
    def deaf(heads, graph):
        heads._begin_with_state(graph)
        for name, shape in heads.head.state.items():
            graph.input(name, shape)
        graph.output("nothing", ops.number(graph, 0))

    with monkeypatch.context() as patch:
        patch.setattr(HeadGraphs, "_set_state", deaf)
        data = write_head(6, 3, 7, options=HeadOptions(optimizer=Optimizer.MOMENTUM))
    assert "get_state does not return what set_state was given" in prove(data).reason


def test_what_a_step_depends_on_beyond_weights_and_state_is_found_out(monkeypatch):
    model = load(write_head(6, 3, 7))
    steps = []

    def drifting(x, y, hyper):
        steps.append(hyper)
        return train_step(x, y, hyper | {"learning_rate": hyper["learning_rate"] * (1 + 1e-6 * len(steps))})

    train_step = model.train_step
    monkeypatch.setattr(model, "train_step", drifting)
    with pytest.raises(ModelError, match="resumed from get_weights and get_state is not the same"):
        largest_error(model, metadata(7))


@pytest.mark.parametrize(
    "options",
    [HeadOptions(normalize=True), HeadOptions(personal=True), HeadOptions(optimizer=Optimizer.ADAM)],
)
def test_metadata_with_other_options_is_refused(options):
    with pytest.raises(ModelError, match="not what the metadata"):
        largest_error(load(write_head(4, 3)), metadata(None, options))


def test_the_largest_heads_take_fewer_steps():
    assert [steps_of(size) for size in (15, 1_000_000, 2_000_000, 4_000_000)] == [20, 20, 10, 5]
