"""No event is without a rule."""

from __future__ import annotations

from typing import get_args

from fedclient.session import Event
from tests.session.test_rules import TABLE


def test_each_event_has_a_row_in_the_table() -> None:
    assert {type(row[1]) for row in TABLE} == set(get_args(Event))
