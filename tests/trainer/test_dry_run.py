"""A dry run: the real stages, nothing sent, one JSON line after another."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import numpy as np
import pytest

from fedclient.errors import DataError, ModelError
from fedclient.model.head import write_head
from fedclient.trainer.dry_run import DryRunArguments, run
from tests.trainer.setup import CLASSES, FEATURES, samples


@pytest.fixture
def arguments(tmp_path) -> DryRunArguments:
    x, y = samples(100)
    np.savez(tmp_path / "data.npz", x=np.array(x, np.float32), y=np.array(y))
    (tmp_path / "model.tflite").write_bytes(write_head(FEATURES, CLASSES))
    return DryRunArguments(
        parent=os.getppid(), model=str(tmp_path / "model.tflite"), data=str(tmp_path / "data.npz"),
        epochs=3, batch_size=8, learning_rate=0.3, holdout=0.2, seed=1, codec="topk_int8", density=0.3,
        min_per_class=1, threads=1, nice=0, idle=False, memory_mib=None,
    )  # fmt: skip


def lines(capsys) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_each_epoch_and_the_result_are_told(arguments, capsys) -> None:
    assert run(arguments) == 0
    *epochs, last = lines(capsys)
    assert [set(line) for line in epochs] == [{"epoch"}] * 3
    assert epochs[-1]["epoch"]["loss"] < epochs[0]["epoch"]["loss"]
    assert epochs[-1]["epoch"]["holdout_accuracy"] > 0.5
    result = last["result"]
    assert result["samples"] == 100
    sizes = result["bytes"]
    assert sizes["fp32"] == 4 * (FEATURES + 1) * CLASSES
    assert sizes["fp32"] > sizes["quantized"] > 0
    assert sizes["sealed"] > sizes["encoded"] > 0
    assert result["seconds"] > 0
    assert result["trainer_peak_pss_mib"] > 1


@pytest.mark.parametrize("codec", ["topk_int8", "topk_sign", "dense_int8"])
def test_the_same_seed_gives_the_same_numbers(arguments, capsys, codec) -> None:
    found = []
    for _ in range(2):
        run(replace(arguments, codec=codec))
        *epochs, last = lines(capsys)
        found.append(([line["epoch"]["loss"] for line in epochs], last["result"]["bytes"]))
    assert found[0] == found[1]


def test_without_holdout_all_samples_train(arguments, capsys) -> None:
    run(replace(arguments, holdout=0.0))
    *epochs, _ = lines(capsys)
    assert epochs[0]["epoch"]["holdout_accuracy"] is None


def test_rule_8_rare_classes_are_named(arguments, capsys) -> None:
    run(replace(arguments, min_per_class=30))
    suppressed = lines(capsys)[-1]["result"]["suppressed_classes"]
    assert suppressed
    assert set(suppressed) <= {0, 1, 2}


def save(arguments: DryRunArguments, x, y) -> DryRunArguments:
    np.savez(arguments.data, x=x, y=y)
    return arguments


def test_data_that_does_not_fit_is_said_with_the_row(arguments) -> None:
    x = np.zeros((40, FEATURES), np.float32)
    with pytest.raises(DataError, match="row 7"):
        run(save(arguments, x, np.array([0] * 7 + [9] + [0] * 32)))
    with pytest.raises(DataError, match=r"shape \[3\]"):
        run(save(arguments, np.zeros((40, 3), np.float32), np.zeros(40, int)))
    with pytest.raises(DataError, match="NaN"):
        run(save(arguments, np.full((40, FEATURES), np.nan, np.float32), np.zeros(40, int)))
    with pytest.raises(DataError):
        run(save(arguments, x[:0], np.zeros(0, int)))
    with pytest.raises(DataError, match="holdout"):
        run(replace(save(arguments, x[:1], np.zeros(1, int)), holdout=0.9))


def test_a_model_that_cannot_be_trained_is_said(arguments, tmp_path) -> None:
    (tmp_path / "model.tflite").write_bytes(b"no model")
    with pytest.raises(ModelError):
        run(arguments)


def test_what_the_users_function_prints_does_not_mix_with_ours(
    arguments, tmp_path, capsys, monkeypatch
) -> None:
    (tmp_path / "noisy_data.py").write_text(
        "import numpy as np\n"
        "def load():\n"
        "    print('loading...')\n"
        f"    yield from ((np.ones({FEATURES}, np.float32) * n, n % 3) for n in range(60))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert run(replace(arguments, data="noisy_data:load")) == 0
    assert lines(capsys)[-1]["result"]["samples"] == 60
