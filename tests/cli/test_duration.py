from __future__ import annotations

import pytest

from fedclient.cli.duration import parse, spell
from fedclient.errors import UsageError

MONTH_S = 30 * 24 * 3600


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1s", 1), ("90s", 90), ("30m", 1800), ("2h", 7200), ("30d", MONTH_S), (" 5m ", 300)],
)
def test_a_length_is_a_number_and_a_unit(text, seconds) -> None:
    assert parse(text, "--for", MONTH_S) == seconds


@pytest.mark.parametrize(
    "text", ["", "30", "m", "30 m", "1h30m", "-5m", "+5m", "1.5h", "30M", "30min", "٣m", "²s", "9" * 30 + "s"]
)
def test_anything_else_is_refused_with_an_example(text) -> None:
    with pytest.raises(UsageError, match=r"--for .*for example 30m"):
        parse(text, "--for", MONTH_S)


@pytest.mark.parametrize("text", ["0s", "0d", "31d", "721h"])
def test_a_length_has_bounds(text) -> None:
    with pytest.raises(UsageError, match="expected 1s to 30d"):
        parse(text, "--for", MONTH_S)


@pytest.mark.parametrize(
    ("seconds", "text"), [(1, "1s"), (90, "90s"), (1800, "30m"), (7200, "2h"), (MONTH_S, "30d")]
)
def test_a_length_is_written_as_it_is_read(seconds, text) -> None:
    assert spell(seconds) == text
    assert parse(text, "--for", MONTH_S) == seconds
