"""What a log line looks like, for a person and for journald."""

import io
import logging
import os
from pathlib import Path

import pytest

from fedclient.cli.log import Formatter, setup, under_journald


def record(level: int, message: str) -> logging.LogRecord:
    return logging.LogRecord("fedclient.client", level, "file.py", 1, message, (), None)


def test_a_message_cannot_forge_a_line() -> None:
    line = Formatter(journald=True).format(record(logging.INFO, "update\n<0>x counter=7"))
    assert line == "<6>fedclient.client: update\\n<0>x counter=7"


@pytest.mark.parametrize(("level", "priority"), [(50, 2), (40, 3), (30, 4), (20, 6), (10, 7)])
def test_each_level_has_its_priority(level: int, priority: int) -> None:
    assert Formatter(journald=True).format(record(level, "x")) == f"<{priority}>fedclient.client: x"


def test_every_line_of_a_traceback_has_the_priority() -> None:
    def fail() -> None:
        raise ValueError("one\ntwo")

    made = record(logging.ERROR, "failed")
    try:
        fail()
    except ValueError as error:
        made.exc_info = (type(error), error, error.__traceback__)
    lines = Formatter(journald=True).format(made).splitlines()
    assert len(lines) > 3
    assert all(line.startswith("<3>") for line in lines)


def test_a_person_gets_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    line = Formatter(journald=False).format(record(logging.INFO, "ready version=1.2"))
    assert line[2] == line[5] == ":"
    assert line[8:] == " fedclient.client: ready version=1.2"


def test_setup_shows_ours_from_info_and_others_from_warning() -> None:
    before = io.StringIO()
    setup(verbose=True, env={}, stream=before)
    for verbose, expected in ((False, ["info", "other"]), (True, ["debug", "info", "other"])):
        stream = io.StringIO()
        setup(verbose=verbose, env={}, stream=stream)
        logging.getLogger("fedclient.x").debug("debug")
        logging.getLogger("fedclient.x").info("info")
        logging.getLogger("paho").info("hidden")
        logging.getLogger("paho").warning("other")
        assert [line.split()[-1] for line in stream.getvalue().splitlines()] == expected
    assert before.getvalue() == ""  # a second setup replaces the first


def test_the_journal_is_recognised_by_device_and_inode(tmp_path: Path) -> None:
    with (tmp_path / "stream").open("w") as stream:
        found = os.fstat(stream.fileno())
        assert under_journald({"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}, stream)
        assert not under_journald({"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino + 1}"}, stream)
        assert not under_journald({}, stream)
    assert not under_journald({"JOURNAL_STREAM": "1:2"}, io.StringIO())
