from __future__ import annotations

import numpy as np
import pytest

from fedclient.errors import ModelError
from fedclient.runtime.interpreter import Port
from fedclient.runtime.matching import features_ports, match

F, I = np.float32, np.int32  # noqa: E741


class Fake:
    def __init__(self, name, inputs, outputs):
        self.name = name
        self.inputs, self.outputs = (
            tuple(Port(name=n, shape=s, dtype=np.dtype(d)) for n, s, d in ports)
            for ports in (inputs, outputs)
        )


def roles(*train, infer=(("x", (-1, 4), F),), loss=(("loss", (), F),), logits=(("logits", (-1, 3), F),)):
    return match({"train": Fake("train", train, loss), "infer": Fake("infer", infer, logits)})


def test_names_come_first():
    found = roles(("y", (1, 4), F), ("x", (1, 4), F), ("learning_rate", (1,), F), infer=(("in", (1, 4), F),))
    assert (found.x.name, found.y.name, list(found.hyper)) == ("x", "y", ["learning_rate"])
    assert found.infer_x.name == "in"


@pytest.mark.parametrize(
    ("train", "x", "y", "hyper"),
    [
        ([("a", (-1, 4), F), ("b", (-1,), I)], "a", "b", []),
        ([("b", (-1,), I), ("a", (-1, 4), F), ("lr", (1,), F)], "a", "b", ["learning_rate"]),
        ([("a", (-1, 4), F), ("b", (-1, 3), F), ("mu", (), F)], "a", "b", ["mu"]),
        ([("a", (1, 4), F), ("b", (1,), I), ("momentum", (1,), F)], "a", "b", ["momentum"]),
        ([("a", (-1, 4), F), ("b", (-1,), F), ("learning_rate", (), F)], "a", "b", ["learning_rate"]),
        ([("a", (1, 4), F), ("y", (1,), F), ("rate", (1,), F)], "a", "y", ["rate"]),
    ],
)
def test_then_type_and_rank(train, x, y, hyper):
    found = roles(*train)
    assert (found.x.name, found.y.name, list(found.hyper)) == (x, y, hyper)


@pytest.mark.parametrize(
    "train",
    [
        [],
        [("x", (-1, 4), F)],
        [("a", (-1, 4), F), ("b", (-1, 4), F)],
        [("a", (-1, 4), F), ("b", (-1,), I), ("c", (-1,), I)],
        [("x", (-1, 4), F), ("b", (-1, 3), F), ("c", (-1, 3), F)],
        [("x", (-1, 4), F), ("y", (-1,), I), ("mask", (-1, 4), F)],
        [("x", (-1, 4), F), ("y", (-1,), I), ("steps", (1,), I)],
        [("x", (-1, 4), F), ("y", (-1,), I), ("lr", (1,), F), ("learning_rate", (1,), F)],
        [("x", (-1, 5), F), ("y", (-1,), I)],
        [("x", (-1, -1), F), ("y", (-1,), I)],
        [("x", (-1, 4), I), ("y", (-1,), I)],
        [("x", (4,), F), ("y", (-1,), I)],
    ],
)
def test_what_is_unclear_or_impossible_is_refused(train):
    with pytest.raises(ModelError) as caught:
        roles(*train)
    assert "\n" not in str(caught.value)


def test_outputs_are_matched_by_name_then_alone():
    assert roles(("x", (-1, 4), F), ("y", (-1,), I), loss=(("cost", (), F),)).loss == "cost"
    two = (("probabilities", (-1, 3), F), ("logits", (-1, 3), F))
    assert roles(("x", (-1, 4), F), ("y", (-1,), I), logits=two).logits == "logits"
    with pytest.raises(ModelError, match="one output"):
        roles(("x", (-1, 4), F), ("y", (-1,), I), logits=(("p", (-1, 3), F), ("q", (-1, 3), F)))
    with pytest.raises(ModelError, match="nothing but"):
        roles(("x", (-1, 4), F), ("y", (-1,), I), infer=(("x", (-1, 4), F), ("temperature", (1,), F)))


def test_features_takes_any_type_of_sample():
    signature = Fake("features", [("image", (1, 8, 8, 3), np.uint8)], [("embedding", (1, 4), F)])
    raw, output = features_ports(signature)
    assert (raw.shape, raw.dtype, output) == ((1, 8, 8, 3), np.uint8, "embedding")
