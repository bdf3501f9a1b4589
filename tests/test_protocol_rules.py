"""Every numbered rule of the protocol has a test that names it: `test_rule_4_2_...`."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
# PROTOCOL's sections; where one has numbered rules, each of them
RULES = [
    "2",
    "3",
    *(f"4_{number}" for number in range(1, 8)),
    *(f"5_{number}" for number in range(1, 7)),
    "6",
    "7",
    "8",
]
NAMED = [
    name
    for path in TESTS.rglob("test_*.py")
    for name in re.findall(r"^ *def (test_rule_\w+)\(", path.read_text(), re.MULTILINE)
]


@pytest.mark.parametrize("rule", RULES)
def test_a_test_names_the_rule(rule) -> None:
    naming = [name for name in NAMED if re.match(rf"test_rule_{rule}(?!\d)", name)]
    print(f"rule {rule.replace('_', '.')}: {len(naming)} tests")
    assert naming
