"""A reading says where it is from, or why it is not known."""

from math import inf, nan

import pytest

from fedclient.scheduler.readings import SENSORS, Reading, Readings, unknown


def test_a_value_comes_with_its_source() -> None:
    assert Reading(48.31649, "cpu-thermal").as_dict() == {"value": 48.316, "source": "cpu-thermal"}
    assert Reading(False, "hwmon0").as_dict() == {"value": False, "source": "hwmon0"}  # noqa: FBT003


def test_an_unknown_value_comes_with_its_reason() -> None:
    assert unknown("permission denied").as_dict() == {"value": None, "reason": "permission denied"}


@pytest.mark.parametrize("value", [nan, inf, -inf])
def test_what_is_no_number_is_no_value(value: float) -> None:
    assert Reading(value, "somewhere").as_dict() == {"value": None, "reason": "not a number"}


def test_whatever_was_not_read_is_unknown() -> None:
    found = Readings().as_dict()
    assert tuple(found) == SENSORS
    assert all(one == {"value": None, "reason": "not read"} for one in found.values())
