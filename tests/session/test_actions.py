"""No action is without a rule."""

from __future__ import annotations

from typing import get_args

from fedclient.session import Action
from tests.session.test_rules import TABLE


def test_each_action_has_a_row_in_the_table() -> None:
    assert {type(one) for row in TABLE for one in row[3]} == set(get_args(Action))
