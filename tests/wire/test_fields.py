"""Each check returns the value with its type, or raises WireError that names the field."""

from __future__ import annotations

import math

import pytest

from fedclient.errors import WireError
from fedclient.limits import COUNTER_MAX
from fedclient.values import HeadVersion
from fedclient.wire import fields

GOOD = [
    (lambda: fields.typed("x", str, "f"), "x"),
    (lambda: fields.typed(True, bool, "f"), True),  # noqa: FBT003
    (lambda: fields.integer(0, "f", 0, 5), 0),
    (lambda: fields.integer(5, "f", 0, 5), 5),
    (lambda: fields.number(0.5, "f", 0.5, 1.0), 0.5),
    (lambda: fields.octets(b"ab", "f", 2), b"ab"),
    (lambda: fields.text("ü", "f", 2), "ü"),
    (lambda: fields.array([1, 2], "f", 2), [1, 2]),
    (lambda: fields.array([], "f", max_size=2), []),
    (lambda: fields.head_version(1, COUNTER_MAX), HeadVersion(1, COUNTER_MAX)),
]
BAD = [
    lambda: fields.typed(1, str, "f"),
    lambda: fields.typed(True, int, "f"),  # noqa: FBT003
    lambda: fields.typed(None, bytes, "f"),
    lambda: fields.integer(-1, "f", 0, 5),
    lambda: fields.integer(6, "f", 0, 5),
    lambda: fields.integer(1.0, "f", 0, 5),
    lambda: fields.integer(True, "f", 0, 5),  # noqa: FBT003
    lambda: fields.number(1, "f", 0.0, 2.0),  # an integer is written as other bytes than a float
    lambda: fields.number(math.nan, "f", 0.0, 2.0),
    lambda: fields.number(math.inf, "f", 0.0, math.inf),
    lambda: fields.number(2.5, "f", 0.0, 2.0),
    lambda: fields.octets(b"a", "f", 2),
    lambda: fields.octets("ab", "f", 2),
    lambda: fields.text("", "f", 2),
    lambda: fields.text("üb", "f", 2),
    lambda: fields.text(b"x", "f", 2),
    lambda: fields.array([1], "f", 2),
    lambda: fields.array([1, 2, 3], "f", max_size=2),
    lambda: fields.array((1, 2), "f", 2),
]


@pytest.mark.parametrize(("check", "value"), GOOD)
def test_a_good_field_comes_back(check, value) -> None:
    assert check() == value


@pytest.mark.parametrize("check", BAD)
def test_a_bad_field_is_named(check) -> None:
    with pytest.raises(WireError, match=r"^f "):
        check()


@pytest.mark.parametrize("pair", [(-1, 0), (0, COUNTER_MAX + 1), (True, 0), (0, None)])
def test_a_head_version_is_two_counters(pair) -> None:
    with pytest.raises(WireError, match=r"generation|version"):
        fields.head_version(*pair)
