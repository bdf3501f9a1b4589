from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from fedclient.testing import digits

NOTICE = digits.DATA.with_suffix(".md").read_text()


def test_the_data_is_what_its_notice_says() -> None:
    with np.load(digits.DATA) as data:
        x, y = data["x"], data["y"]
    assert (x.shape, x.dtype, y.dtype, x.max(), len(y)) == ((1797, 64), np.uint8, np.uint8, 16, 1797)
    assert hashlib.sha256(x.tobytes() + y.tobytes()).hexdigest() in NOTICE
    assert "10.24432/C50P49" in NOTICE
    assert "Creative Commons Attribution 4.0" in NOTICE


@pytest.mark.parametrize("devices", [2, 3, 4, 5, 7, 10, 30])
def test_every_device_sees_three_classes_and_enough_of_each_for_the_privacy_floor(devices: int) -> None:
    task = digits.task(devices, seed=1)
    for own in task.devices:
        _, counts = np.unique(own.y, return_counts=True)
        assert len(counts) == 3
        assert counts.min() >= 8
        assert len(own) >= 32
    seen = {digit for own in task.devices for digit in own.y.tolist()}
    assert set(task.holdout.y.tolist()) == seen
    assert len(seen) == 10 or devices <= 3


def test_no_sample_is_in_two_places_and_the_seed_decides_where() -> None:
    task = digits.task(5, seed=2)
    rows = [row.tobytes() for part in (*task.devices, task.holdout) for row in part.x]
    assert len(rows) == 1797
    assert len(set(rows)) == 1797
    assert np.array_equal(digits.task(5, seed=2).holdout.x, task.holdout.x)
    assert not np.array_equal(digits.task(5, seed=3).holdout.y, task.holdout.y)


def test_held_out_samples_are_written_as_a_gateway_reads_them(tmp_path: Path) -> None:
    task = digits.task(5, seed=0)
    task.save_holdout(tmp_path / "holdout.npz")
    with np.load(tmp_path / "holdout.npz") as data:
        assert np.array_equal(data["x"], task.holdout.x)
        assert np.array_equal(data["y"], task.holdout.y)


def test_both_comparisons_learn() -> None:
    task = digits.task(5, seed=0)
    central, fedavg = digits.centralised(task, 8), digits.fp32_fedavg(task, 8)
    assert len(central) == len(fedavg) == 8
    assert central[-1] > 0.95
    assert fedavg[0] < 0.9 < fedavg[-1]
