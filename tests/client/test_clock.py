"""Device time: it only runs forward, over restarts and reboots."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fedclient.client import clock as module
from fedclient.client.clock import DeviceClock, boot_id
from fedclient.scheduler.history import DAY_S, ClockMark

MARK = ClockMark(elapsed_s=5000.0, boot_id="old", boot_s=100.0, unix_s=1_000_000.0)


def test_device_time_begins_with_the_boot_and_goes_on_over_a_restart() -> None:
    assert DeviceClock(None, "b").elapsed_s(70.0, None) == 70.0
    again = DeviceClock(replace(MARK, boot_id="b"), "b")
    assert again.elapsed_s(160.0, None) == 5060.0
    assert again.elapsed_s(161.0, 9e9) == 5061.0  # within a boot no wall clock is asked


def test_over_a_reboot_the_time_off_counts_where_both_clocks_were_right() -> None:
    assert DeviceClock(MARK, "new").elapsed_s(30.0, 1_000_600.0) == 5600.0
    assert DeviceClock(MARK, "new").elapsed_s(30.0, None) == 5030.0
    assert DeviceClock(replace(MARK, unix_s=None), "new").elapsed_s(30.0, 1_000_600.0) == 5030.0


def test_a_clock_that_is_right_only_later_is_caught_up_with_once() -> None:
    clock = DeviceClock(MARK, "new")
    assert clock.elapsed_s(30.0, None) == 5030.0
    assert clock.elapsed_s(40.0, 1_000_600.0) == 5600.0
    assert clock.elapsed_s(50.0, 2_000_000.0) == 5610.0  # a clock set a second time changes nothing
    assert clock.elapsed_s(60.0, None) == 5620.0


@pytest.mark.parametrize("unix_s", [-1e12, 0.0, 999_000.0])
def test_a_wall_clock_that_went_back_takes_no_time_away(unix_s: float) -> None:
    assert DeviceClock(MARK, "new").elapsed_s(30.0, unix_s) == 5030.0


def test_a_wall_clock_that_is_years_ahead_counts_a_month_at_most() -> None:
    assert DeviceClock(MARK, "new").elapsed_s(30.0, 9e9) == 5000.0 + 30 * DAY_S


def test_a_boot_has_a_name_and_a_kernel_that_tells_none_an_empty_one(monkeypatch, tmp_path: Path) -> None:
    assert len(boot_id()) == 36
    assert boot_id() == boot_id()
    monkeypatch.setattr(module, "_BOOT_ID", tmp_path / "none")
    assert boot_id() == ""
