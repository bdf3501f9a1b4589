"""The recorder: few writes, bounded, mended after a power cut, and never in the agent's way."""

from __future__ import annotations

import logging
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fedclient.client.trace_file import FLUSH_S, MAX_WAITING_BYTES, PAGE_BYTES, TraceFile
from fedclient.config import TraceSettings
from fedclient.scheduler.check import Now
from fedclient.scheduler.readings import Readings
from fedclient.scheduler.trace import Point, decode
from tests.scheduler.moments import GOOD, but

DAY_S = 86_400.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "readings.trace"


def recorder(path: Path, **settings: Any) -> TraceFile:
    return TraceFile(path, TraceSettings(file=path, **settings), "raspberry-pi-5")


def note(file: TraceFile, at_s: float, readings: Readings = GOOD) -> None:
    file.note(readings, Now(elapsed_s=at_s, minute_of_week=int(at_s // 60) % 10_080))


def read(*paths: Path) -> list[Point]:
    lines = [line for path in paths for line in path.read_text().splitlines(keepends=True)]
    return list(decode(lines).points)


def warm(at_s: float) -> Readings:
    return but(temp_c=40.0 + at_s / 60 % 20, free_memory_mib=500.0 + at_s / 60 % 300)


def test_what_was_noted_is_in_the_file_after_an_orderly_end(path: Path) -> None:
    file = recorder(path)
    for minute in range(5):
        note(file, 1000 + 60 * minute, but(temp_c=50.0 + minute))
    file.close()
    points = read(path)
    assert [point.at_s for point in points] == [0, 60, 120, 180, 240]
    assert [point.readings.temp_c.value for point in points] == [50, 51, 52, 53, 54]
    assert path.stat().st_mode & 0o777 == 0o600


def test_numbers_wait_for_their_time_and_events_do_not(path: Path) -> None:
    file = recorder(path, every_s=60.0)
    assert file.due_in_s(Now(elapsed_s=0.0)) == 0
    note(file, 0)
    assert file.due_in_s(Now(elapsed_s=20.0)) == 40
    note(file, 20, but(temp_c=60.0))
    note(file, 25, but(temp_c=60.0, under_voltage=True))
    note(file, 30, but(temp_c=61.0, under_voltage=True))
    note(file, 35, but(temp_c=61.0, activity={"training": True}))
    note(file, 95, but(temp_c=62.0, activity={"training": True}))
    file.close()
    assert [point.at_s for point in read(path)] == [0, 25, 35, 95]


def test_flash_sees_a_write_every_ten_minutes_or_page(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    pwrite = os.pwrite

    def counted(descriptor: int, data: bytes, offset: int) -> int:
        sizes.append(len(data))
        return pwrite(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", counted)
    file = recorder(path)
    for at_s in range(0, int(DAY_S), 60):
        note(file, at_s, warm(at_s))
    assert len(sizes) == DAY_S / FLUSH_S - 1
    sizes.clear()
    fast = recorder(path.with_name("fast"), every_s=1.0)
    for at_s in range(1, 550):
        note(fast, at_s, but(temp_c=40.0 + at_s % 9))
    assert len(sizes) == 1
    assert PAGE_BYTES <= sizes[0] < PAGE_BYTES + 100


def test_a_restart_goes_on_in_the_same_file(path: Path) -> None:
    first = recorder(path)
    note(first, 100)
    first.close()
    second = recorder(path)
    note(second, 400, but(temp_c=51.0))
    second.close()
    assert [(point.at_s, point.begins) for point in read(path)] == [(0, True), (300, True)]


@pytest.mark.parametrize("tail", ["[60,6,5", "\0" * 5000, '{"fedclient-tr'])
def test_a_line_that_a_power_cut_left_is_taken_away(path: Path, tail: str) -> None:
    first = recorder(path)
    note(first, 100)
    first.close()
    path.write_text(path.read_text() + tail)
    second = recorder(path)
    note(second, 400)
    second.close()
    assert [point.at_s for point in read(path)] == [0, 300]


def test_it_is_bounded_and_both_files_can_be_read_apart_and_together(path: Path) -> None:
    file = recorder(path, max_mib=0.01)
    for at_s in range(0, int(2 * DAY_S), 60):
        note(file, at_s, warm(at_s))
    file.close()
    old = path.with_name("readings.trace.1")
    assert sorted(one.name for one in path.parent.iterdir()) == [path.name, old.name]
    limit = 0.01 * (1 << 20)
    assert path.stat().st_size <= limit
    assert limit / 2 < old.stat().st_size <= limit
    for points in (read(path), read(old), read(old, path)):
        assert [point.begins for point in points] == [True] + [False] * (len(points) - 1)
    together = read(old, path)
    last = warm(2 * DAY_S - 60)
    assert together[-1].readings.temp_c.value == last.temp_c.value
    assert together[-1].at_s == 60 * (len(together) - 2)  # one moment is said twice
    assert together[-1].minute_of_week == int(2 * DAY_S / 60) - 1
    assert read(path)[0].readings.power.value == "battery"  # nothing is lost over the change


def test_a_file_that_was_removed_or_emptied_begins_with_all_that_is_known(path: Path) -> None:
    file = recorder(path)
    note(file, 0)
    note(file, FLUSH_S)
    for number, spoil in enumerate((path.unlink, lambda: path.write_text("")), 1):
        spoil()
        note(file, (2 * number) * FLUSH_S, but(temp_c=50.0 + number))
        note(file, (2 * number + 1) * FLUSH_S, but(temp_c=50.0 + number))
        points = read(path)
        assert points[-1].readings.temp_c.value == 50 + number
        assert points[-1].readings.network.value == "wifi"


@contextmanager
def full_disk(at_bytes: int) -> Iterator[None]:
    """Let no file of this process grow beyond a size: writes come short, then fail, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (at_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_costs_readings_one_warning_and_nothing_else(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    file = recorder(path)
    note(file, 0)
    note(file, FLUSH_S)
    whole = path.read_bytes()
    with full_disk(len(whole) + 10):
        for at_s in range(1200, 12_000, 60):
            note(file, at_s, warm(at_s))
        assert path.read_bytes() == whole  # no half line
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert str(path) in caplog.text
    note(file, 13_000, but(temp_c=33.0))
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    points = read(path)
    assert points[-1].at_s == 13_000
    assert points[-1].readings.temp_c.value == 33
    assert len(points) == 2 + 180 + 1  # what waited in memory is there


def test_what_waits_for_a_full_disk_is_bounded_and_the_gap_is_marked(path: Path) -> None:
    file = recorder(path, every_s=1.0)
    note(file, 0)
    note(file, FLUSH_S)
    size = path.stat().st_size
    most = 0
    with full_disk(size):
        for at_s in range(1000, 20_000):
            note(file, at_s, warm(60 * at_s))
            most = max(most, file._waiting_bytes)
    assert most <= MAX_WAITING_BYTES + PAGE_BYTES
    note(file, 30_000)
    file.close()
    begins = [point.at_s for point in read(path) if point.begins]
    assert begins[0] == 0
    assert len(begins) == 2  # the readings that were dropped are a gap, not a straight line
    assert read(path)[-1].at_s == 30_000


def test_a_supply_that_sags_holds_writes_back_and_what_waits_is_bounded(path: Path) -> None:
    file = recorder(path)
    note(file, 0)
    for minute in range(1, 20):
        note(file, 60.0 * minute, but(temp_c=40.0 + minute, under_voltage=True))
    assert not path.exists(), "a write while the supply sags is what ruins a card"
    note(file, 1200.0)
    assert len(read(path)) == 21
    for minute in range(20, 40_000):
        note(file, 60.0 * minute, but(temp_c=40.0 + minute % 20, under_voltage=True))
        assert file._waiting_bytes <= MAX_WAITING_BYTES + 1000
    note(file, 60.0 * 40_000)
    assert [point.begins for point in read(path)].count(True) == 2, "the gap is marked"


@pytest.mark.parametrize("kind", ["folder", "missing", "pipe", "other"])
def test_a_path_that_cannot_be_used_is_one_warning(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "there"
    if kind == "folder":
        path.mkdir()
    elif kind == "missing":
        path = tmp_path / "no" / "there"
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.write_text("root:x:0:0\nhalf a line")
    file = recorder(path)
    for count in range(5):
        note(file, count * FLUSH_S)
    file.close()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    if kind == "other":
        assert path.read_text() == "root:x:0:0\nhalf a line"
        assert "no trace" in caplog.text
