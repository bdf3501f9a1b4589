"""The table of what bytes buy: more buy more, and each row is what encoding gives."""

import numpy as np
import pytest

from fedclient.codec import Rate, encode, rate_of, rates
from fedclient.errors import DataError
from fedclient.values import Codec, CodecMode, TensorSpec

TENSORS = (TensorSpec(name="b", shape=(10,)), TensorSpec(name="w", shape=(400, 10)))
VECTOR = np.random.default_rng(1).standard_t(3, size=4010).astype(np.float32)


def test_each_row_is_an_encoding() -> None:
    found = rates(VECTOR, TENSORS)
    assert [(one.density, one.bits) for one in found] == [
        (density, bits) for density in (0.001, 0.01, 0.1) for bits in (1, 4, 8)
    ]
    body = encode(VECTOR, TENSORS, Codec(density=0.1, bits=4)).body
    assert found[7].body_bytes == len(body)
    signs = encode(VECTOR, TENSORS, Codec(mode=CodecMode.TOPK_SIGN))
    error = np.square(VECTOR.astype(float) - signs.decoded).sum() / np.square(VECTOR.astype(float)).sum()
    assert (found[3].body_bytes, found[3].nmse) == (len(signs.body), pytest.approx(error))


def test_more_elements_and_bits_leave_less() -> None:
    errors = np.array([one.nmse for one in rates(VECTOR, TENSORS)]).reshape(3, 3)
    assert (np.diff(errors, axis=0) < 0).all()
    assert (np.diff(errors, axis=1) <= 0).all()


def test_what_a_budget_picked_is_told_in_the_same_words() -> None:
    codec = Codec(mode=CodecMode.FITTED, density=1.0)
    small, large = (encode(VECTOR, TENSORS, codec, max_bytes=most) for most in (30, 1500))
    assert rate_of(VECTOR, small).bits < rate_of(VECTOR, large).bits <= 8
    assert rate_of(VECTOR, large).density == large.content.values.size / 4010
    assert rate_of(VECTOR, large).nmse < 0.1 < rate_of(VECTOR, small).nmse


def test_nothing_to_send() -> None:
    nothing = np.zeros(4010, np.float32)
    assert rate_of(nothing, encode(nothing, TENSORS, Codec())) == Rate(
        density=0.0, bits=1, body_bytes=2, nmse=0.0
    )
    assert all(one.nmse == 0 for one in rates(nothing, TENSORS))
    with pytest.raises(DataError):
        rates(nothing + np.float32("nan"), TENSORS)
