from __future__ import annotations

import numpy as np
import pytest

from fedclient.errors import ModelError
from fedclient.model.origin import Input, Origin
from fedclient.model.packaged import Preprocessing
from fedclient.model.synthetic import ROWS, noise, pictures
from tests.model.test_origin import PLAIN

FLOAT, PICTURE = np.dtype(np.float32), (9, 8, 3)


def origin(preprocessing: Preprocessing | None = None, **input_: object) -> Origin:
    return Origin(
        tap=PLAIN.tap, tap_scale=(), tap_zero_point=(), labels=(), preprocessing=preprocessing,
        input=Input(index=0, **input_), parent=PLAIN.parent,
    )  # fmt: skip


@pytest.mark.parametrize("make", [noise, pictures])
@pytest.mark.parametrize(
    ("shape", "known", "low", "high"),
    [
        (PICTURE, origin(), 0, 1),
        ((40,), origin(), -1, 1),
        (PICTURE, origin(range=(-2.0, 5.0)), -2, 5),
        (PICTURE, origin(Preprocessing(scale=(1 / 127.5,), offset=(-1.0,))), -1, 1),
    ],
)
def test_values_fill_the_range_of_the_input(make, shape, known, low, high):
    rows = make(shape, FLOAT, known)
    assert rows.shape == (ROWS, *shape)
    assert rows.dtype == np.float32
    assert low <= rows.min() < low + 0.2 * (high - low)
    assert high >= rows.max() > high - 0.2 * (high - low)
    assert len({row.tobytes() for row in rows}) == ROWS
    np.testing.assert_array_equal(rows, make(shape, FLOAT, known))


def test_each_channel_has_its_own_preprocessing():
    known = origin(Preprocessing(scale=(1.0, 0.01, 1.0), offset=(0.0, 5.0, -255.0)))
    highest = noise(PICTURE, FLOAT, known).max(axis=(0, 1, 2))
    assert 240 < highest[0] <= 255
    assert 7 < highest[1] <= 7.55
    assert -15 < highest[2] <= 0


@pytest.mark.parametrize("make", [noise, pictures])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16])
def test_quantised_inputs_take_all_their_numbers(make, dtype):
    rows = make(PICTURE, np.dtype(dtype), origin(scale=(1.0,), zero_point=(0,)))
    limits = np.iinfo(dtype)
    spread = limits.max - limits.min
    assert rows.dtype == dtype
    assert rows.min() < limits.min + 0.2 * spread
    assert rows.max() > limits.max - 0.2 * spread


@pytest.mark.parametrize("make", [noise, pictures])
def test_numbers_that_stand_for_something_are_not_invented(make):
    with pytest.raises(ModelError, match=r"input is int32 and not quantised.* --data"):
        make((5,), np.dtype(np.int32), origin())


def test_pictures_are_smooth():
    assert np.abs(np.diff(pictures((64, 64, 3), FLOAT, origin()), axis=1)).max() < 0.1
