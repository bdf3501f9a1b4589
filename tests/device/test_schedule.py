"""What the scheduler remembers comes back as it was, or not at all."""

import hashlib
import json
from math import inf

import pytest

from fedclient.device import schedule
from fedclient.scheduler.history import ClockMark, Cost, History

MARK = ClockMark(elapsed_s=5000.5, boot_id="b", boot_s=120.25, unix_s=None)


def test_a_new_device_remembers_nothing(database) -> None:
    assert schedule.load(database) == (History(), None)


def test_what_is_saved_comes_back(database) -> None:
    history = History().started(10.0).held("owner", inf).held("gateway", 99.0)
    history = history.spend(Cost(training_s=5.0, flash_bytes=4096.0), 20.0)
    with database.transaction():
        schedule.save(database, history, MARK)
    found, mark = schedule.load(database)
    assert found.as_record() == history.as_record()
    assert mark == MARK


@pytest.mark.parametrize(
    "damage", ["substr(record, 2)", "replace(record, '5000', '9000')", "'{}'", "x'ff'", "12", "NULL || ''"]
)
def test_a_damaged_record_counts_as_none_and_is_reported(database, caplog, damage: str) -> None:
    with database.transaction():
        schedule.save(database, History().started(1.0), MARK)
        database.execute(f"UPDATE OR IGNORE schedule SET record = ifnull({damage}, '')")  # noqa: S608 - ours
    assert schedule.load(database) == (History(), None)
    assert "begin anew" in caplog.text


@pytest.mark.parametrize(
    "record",
    [
        "{}",
        "[]",
        '{"history": {}, "clock": [0, "b", 0, null]}',
        '{"history": %s, "clock": [0]}',
        '{"history": %s, "clock": [NaN, "b", 0, null]}',
        '{"history": %s, "clock": [0, "b", "1", null]}',
    ],
)
def test_another_versions_record_does_not_keep_the_agent_from_starting(database, caplog, record) -> None:
    text = record.replace("%s", json.dumps(History().as_record()))
    digest = hashlib.sha256(text.encode()).digest()
    with database.transaction():
        database.execute("INSERT OR REPLACE INTO schedule VALUES (1, ?, ?)", (text, digest))
    assert schedule.load(database) == (History(), None)
    assert "begin anew" in caplog.text
