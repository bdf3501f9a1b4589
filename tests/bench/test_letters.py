"""The parts of the bench with a MobileNet below the head; their figures are judged by the bench itself."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest

BENCH = Path(__file__).parents[2] / "tools" / "bench"


@pytest.fixture
def part(shared: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that imports a part of the bench as the bench does."""
    monkeypatch.setenv("FEDCLIENT_SHARED", str(shared))
    monkeypatch.syspath_prepend(BENCH)
    return importlib.import_module


def test_drawers_federate_with_the_codec_and_without(part) -> None:
    found = part("omniglot").measure(folds=1, rounds=1)
    assert found["privacy_floor"]["min_per_class"] == 1
    (fold,) = found["folds"]
    assert fold["devices"] == 16
    assert 0.3 < fold["accuracy"] < fold["fp32_fedavg_accuracy"] <= 1
    assert 0.85 < fold["centralised_accuracy"] < 0.95
    assert found["bytes_up_total"] == pytest.approx(16 * found["bytes_up_per_device_and_round"], abs=2)
    assert 50 * found["bytes_up_total"] < found["fp32_bytes_up_total"]


def test_letters_are_scaled_by_the_area_that_a_pixel_covers(part) -> None:
    scaled = part("omniglot").scaled
    ink = np.random.default_rng(0).random((2, 192, 192)).astype(np.float32)
    halved = ink.reshape(2, 96, 2, 96, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(scaled(ink), halved, rtol=1e-5)
    page = np.zeros((1, 105, 105), np.float32)
    page[0, 50:, :] = 1
    np.testing.assert_allclose(scaled(page).mean(), 55 / 105, rtol=1e-5)
    assert set(np.unique(np.round(scaled(page), 3))) == {0, 1, np.float32(0.286)}


def test_a_job_with_a_backbone_is_measured_from_outside(part, amqtt: None) -> None:
    found = part("backbone").measure(samples=52, broker_kind="embedded")
    assert found["samples"] == 52
    assert found["cached_pass_cpu_s"] < found["backbone_pass_cpu_s"]
    assert 4 * 1280 < found["cache_bytes_per_sample"] < 4 * 4 * 1280
    trainer = found["trainer"]
    assert trainer["peak_rss_mib"] >= trainer["peak_pss_as_only_python_mib"] >= trainer["peak_pss_mib"] > 20
    assert trainer["peak_pss_mib"] == max(trainer["peak_pss_mib_by_verb"].values())
    assert "job" in trainer["peak_pss_mib_by_verb"]
    assert found["file"]["growth_percent"] < 1
