"""The last verdict: kept whole, or as if there were none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fedclient.device.judgement import Judgements, Told
from fedclient.values import HeadVersion, Judgement, Verdict

TOLD = Told(
    judgement=Judgement(head_version=HeadVersion(2, 7), verdict=Verdict.KEPT_PREVIOUS),
    why="it is worse",
    report={"accuracy": 0.25, "rows": 20},
)


@pytest.fixture
def judgements(database) -> Judgements:
    return Judgements(database)


def test_what_was_told_comes_back(judgements) -> None:
    assert judgements.load() is None
    judgements.save(TOLD)
    assert judgements.load() == TOLD
    newer = replace(TOLD, judgement=replace(TOLD.judgement, head_version=HeadVersion(3, 8)))
    judgements.save(newer)
    assert judgements.load() == newer


def test_a_child_that_was_forgotten_does_not_overwrite_a_newer_verdict(judgements) -> None:
    judgements.save(TOLD)
    judgements.save(replace(TOLD, judgement=replace(TOLD.judgement, head_version=HeadVersion(1, 9))))
    assert judgements.load() == TOLD


@pytest.mark.parametrize("column", ["generation = 3", "version = 8", "verdict = 1", "report = '{}'"])
def test_a_damaged_verdict_counts_as_none(judgements, database, column, caplog) -> None:
    judgements.save(TOLD)
    database.execute(f"UPDATE judgement SET {column}")  # noqa: S608
    assert judgements.load() is None
    assert "not what was written" in caplog.text
