"""What may leave: the norm bound, and no row of a class with too few samples (PROTOCOL 5.4, 8)."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedclient import runtime
from fedclient.errors import PrivacyFloor
from fedclient.model.head import HeadOptions, write_head
from fedclient.training.delta import clip, kept_back, output_mask, rare_classes
from fedclient.training.loop import Examples
from fedclient.values import TensorSpec

EXTRAS = HeadOptions(personal=True, normalize=True)


@given(
    values=st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=30),
    bound=st.floats(1e-3, 1e3),
)
def test_rule_5_4_a_clipped_vector_is_within_the_bound_and_points_the_same_way(values, bound) -> None:
    vector = np.array(values, np.float32)
    clipped = clip(vector, bound)
    norm = float(np.linalg.norm(vector.astype(np.float64)))
    assert float(np.linalg.norm(clipped.astype(np.float64))) <= bound * (1 + 1e-6)
    if norm <= bound:
        assert clipped is vector
    else:
        np.testing.assert_allclose(clipped, vector * (bound / norm), rtol=1e-5, atol=1e-30)
    assert clipped.dtype == np.float32


def labelled(labels: list[int], *, same: bool = False) -> Examples:
    rows = np.arange(len(labels), dtype=np.float32) * (not same)
    return Examples(x=np.stack([rows, rows + 1], axis=1), y=np.array(labels, np.int32))


@pytest.mark.parametrize(
    ("labels", "classes", "minimum", "rare"),
    [
        ([0] * 8 + [1] * 7 + [2] * 9, 4, 8, [False, True, False, True]),
        ([0] * 8 + [1] * 7, 2, 1, [False, False]),
        ([1] * 8, 2, 8, [True, False]),
        ([0] * 8 + [1] * 8, 1, 8, [False]),  # a single output: both classes are on one row
        ([0] * 8 + [1] * 7, 1, 8, [True]),
        ([0] * 8, 1, 8, [True]),
    ],
)
def test_rule_8_a_class_below_the_minimum_is_rare(labels, classes, minimum, rare) -> None:
    assert rare_classes(labelled(labels), classes, minimum).tolist() == rare


def test_rule_8_one_sample_recorded_eight_times_is_one_sample() -> None:
    assert rare_classes(labelled([0] * 20, same=True), 2, 8).tolist() == [True, True]


def names(model, mask) -> dict[str, list[list[int]]]:
    found, at = {}, 0
    for tensor in model.tensors:
        part = mask[at : at + tensor.size].reshape(tensor.shape)
        found[tensor.name] = np.argwhere(part).tolist()
        at += tensor.size
    return found


@pytest.mark.parametrize(
    ("features", "classes", "hidden"),
    [(5, 3, None), (3, 3, None), (4, 3, 3), (3, 3, 3), (7, 4, 4), (4, 4, 6), (2, 10, None), (6, 2, 5)],
)
def test_rule_8_exactly_the_rare_classes_rows_of_the_output_layer(features, classes, hidden) -> None:
    """Also where other dimensions happen to be as long as there are classes."""
    model = runtime.load(write_head(features, classes, hidden, seed=3))
    before = model.get_weights()
    rare = np.zeros(classes, bool)
    rare[[1]] = True
    found = names(model, output_mask(model, rare))
    width = hidden or features
    assert found.pop("output/bias") == [[1]]
    assert found.pop("output/kernel") == [[1, column] for column in range(width)]
    assert not any(found.values())
    assert model.get_weights().tobytes() == before.tobytes()


@pytest.mark.parametrize("hidden", [None, 3], ids=["linear", "hidden"])
def test_rule_8_a_personal_layer_and_statistics_hide_no_class(hidden) -> None:
    """As many features as classes, so that every axis is tried."""
    model = runtime.load(write_head(3, 3, hidden, seed=3, options=EXTRAS))
    found = names(model, output_mask(model, np.array([False, True, False])))
    for layer in ("output", "personal"):
        assert found.pop(f"{layer}/bias") == [[1]]
        assert found.pop(f"{layer}/kernel") == [[1, 0], [1, 1], [1, 2]]
    assert not any(found.values())


def test_rule_8_where_only_the_personal_layer_has_rows_of_classes_nothing_is_missing() -> None:
    """Hidden layers are shared, the output layer is each device's own (Arivazhagan et al. 2019)."""
    head = runtime.load(write_head(5, 3))
    model = SimpleNamespace(
        tensors=(TensorSpec(name="personal/bias", shape=(3,)), TensorSpec(name="personal/k", shape=(3, 5))),
        get_weights=head.get_weights, set_weights=head.set_weights, infer=head.infer,
        x_shape=head.x_shape, fixed_batch=None,
    )  # fmt: skip
    assert output_mask(model, np.array([True, False, False])).any()


def test_personal_layers_and_statistics_are_kept_back() -> None:
    model = runtime.load(write_head(5, 3, 4, options=EXTRAS))
    found = names(model, kept_back(model.tensors))
    assert {name for name, marks in found.items() if marks} == {
        "normalize/mean", "normalize/mean_square", "personal/bias", "personal/kernel",
    }  # fmt: skip
    assert all(len(found[tensor.name]) in {0, tensor.size} for tensor in model.tensors)
    assert not kept_back(runtime.load(write_head(5, 3)).tensors).any()


def test_rule_8_where_nothing_can_be_told_too_much_is_withheld() -> None:
    model = runtime.load(write_head(3, 3, 3, seed=3))
    dead = model.get_weights()
    dead[:3] = -1e3  # hidden/bias: no unit ever fires, so no trial moves anything below the output
    model.set_weights(dead)
    found = names(model, output_mask(model, np.array([True, False, False])))
    assert found["output/bias"] == [[0]]
    assert [0, 0] in found["output/kernel"]
    assert found["hidden/kernel"]


def test_rule_8_the_shared_models_only_row_is_withheld_as_a_whole(shared: Path) -> None:
    model = runtime.load(shared / "models" / "training_model.tflite")
    assert output_mask(model, np.array([True])).all()
    assert not output_mask(model, np.array([False])).any()


def test_rule_8_a_model_whose_classes_cannot_be_found_fails_closed() -> None:
    head = runtime.load(write_head(5, 3))
    model = SimpleNamespace(  # as another author might have written it
        tensors=(TensorSpec(name="flat", shape=(18,)),),
        get_weights=head.get_weights, set_weights=head.set_weights, infer=head.infer,
        x_shape=head.x_shape, fixed_batch=None,
    )  # fmt: skip
    with pytest.raises(PrivacyFloor, match="cannot be told"):
        output_mask(model, np.array([True, False, False]))
    assert not output_mask(model, np.zeros(3, bool)).any()
