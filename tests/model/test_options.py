from __future__ import annotations

from fedclient.model.options import HeadOptions, Optimizer


def test_a_head_is_plain_unless_somebody_asks():
    assert HeadOptions() == HeadOptions(optimizer=Optimizer.SGD, normalize=False, personal=False)


def test_optimisers_have_the_names_that_the_command_line_takes():
    assert [Optimizer(name) for name in ("sgd", "momentum", "adam")] == list(Optimizer)
