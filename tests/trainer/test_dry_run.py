"""A dry run: the real stages, nothing sent, one JSON line after another."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedclient.errors import DataError, ModelError
from fedclient.model.head import HeadOptions, Optimizer, write_head
from fedclient.runtime import TrainableModel
from fedclient.trainer.dry_run import DryRunArguments, run
from fedclient.trainer.job import JobRun
from fedclient.values import Codec, HeadVersion, Plan
from tests.runtime.models import Foreign, build
from tests.trainer.setup import CLASSES, FEATURES, bench, samples


@pytest.fixture
def arguments(tmp_path) -> DryRunArguments:
    x, y = samples(100)
    np.savez(tmp_path / "data.npz", x=np.array(x, np.float32), y=np.array(y))
    (tmp_path / "model.tflite").write_bytes(write_head(FEATURES, CLASSES))
    return DryRunArguments(
        parent=os.getppid(), model=str(tmp_path / "model.tflite"), data=str(tmp_path / "data.npz"),
        epochs=3, batch_size=8, learning_rate=0.3, holdout=0.2, seed=1, codec="topk_int8", density=0.3,
        max_bytes=None,
        momentum=None, l2=0.0, mu=0.0, schedule="constant", balanced=False, budget_s=0.0,
        min_per_class=1, threads=1, nice=0, idle=False, memory_mib=None, feature_batch=None,
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
    assert result["peak_pss_mib"] > 1
    assert result["trained_on"] == 80
    assert (result["backbone_samples"], result["backbone_seconds"]) == (0, 0)  # it has none
    assert result["head_seconds"] == sum(line["epoch"]["seconds"] for line in epochs)
    assert not result["standardised"]
    assert sizes["message"] - sizes["sealed"] == 3 + 2 + len("fl/v1/dry-run/up/1234567890123456/update") + 2
    assert [one["message_bytes"] for one in result["rates"] if one["picked"]] == [sizes["message"]]


@pytest.mark.parametrize("max_bytes", [256, 300])
@pytest.mark.parametrize("codec", ["fitted", "topk_int8", "topk_sign"])
def test_a_bound_on_bytes_is_kept_and_the_table_says_what_it_picked(
    arguments, capsys, tmp_path, codec, max_bytes
) -> None:
    x, y = samples(100)
    wide = np.concatenate([np.array(x, np.float32), np.random.default_rng(1).normal(size=(100, 400))], axis=1)
    np.savez(tmp_path / "data.npz", x=wide.astype(np.float32), y=np.array(y))
    model = write_head(FEATURES + 400, CLASSES)
    run(written(arguments, model, codec=codec, density=1.0, max_bytes=max_bytes, epochs=1))
    result = lines(capsys)[-1]["result"]
    assert 0.97 * max_bytes <= result["bytes"]["message"] <= max_bytes
    (picked,) = (one for one in result["rates"] if one["picked"])
    assert picked["message_bytes"] == result["bytes"]["message"]
    if codec == "fitted":
        fits = [one["nmse"] for one in result["rates"] if one["message_bytes"] <= max_bytes]
        assert picked["nmse"] <= 1.01 * min(fits)
    sizes = [one["message_bytes"] for one in result["rates"]]
    assert sizes == sorted(sizes)


def test_the_table_marks_what_was_asked_for(arguments, capsys) -> None:
    """Of a small head 1 % are few elements with few levels: the row is still that of 1 % and 8 bits."""
    run(written(arguments, write_head(400, CLASSES), density=0.01, data=wide(arguments), epochs=1))
    rates = lines(capsys)[-1]["result"]["rates"]
    assert [(one["density"], one["bits"]) for one in rates if one["picked"]] == [(0.01, 8)]
    assert len(rates) == 9


def test_what_cannot_fit_is_said_in_a_line(arguments) -> None:
    sentence = r"--max-bytes is 256, but with --codec dense_int8 an update of this head takes up to \d+ bytes"
    with pytest.raises(ModelError, match=sentence):
        run(
            written(
                arguments, write_head(400, CLASSES), codec="dense_int8", max_bytes=256, data=wide(arguments)
            )
        )


def wide(arguments: DryRunArguments) -> str:
    path = Path(arguments.data).with_name("wide.npz")
    rng = np.random.default_rng(1)
    np.savez(path, x=rng.normal(size=(100, 400)).astype(np.float32), y=np.arange(100) % CLASSES)
    return str(path)


@pytest.mark.parametrize("codec", ["topk_int8", "topk_sign", "dense_int8"])
def test_the_same_seed_gives_the_same_numbers(arguments, capsys, codec) -> None:
    found = []
    for _ in range(2):
        run(replace(arguments, codec=codec))
        *epochs, last = lines(capsys)
        found.append(([line["epoch"]["loss"] for line in epochs], last["result"]["bytes"]))
    assert found[0] == found[1]


def written(arguments: DryRunArguments, model: bytes, **changed: object) -> DryRunArguments:
    Path(arguments.model).write_bytes(model)
    return replace(arguments, **changed)


def losses(capsys) -> list[float]:
    return [line["epoch"]["loss"] for line in lines(capsys)[:-1]]


@pytest.mark.parametrize(
    ("optimizer", "changed"),
    [
        (Optimizer.MOMENTUM, {"momentum": 0.3}), (Optimizer.SGD, {"l2": 0.5}), (Optimizer.SGD, {"mu": 5.0}),
        (Optimizer.ADAM, {"mu": 5.0}), (Optimizer.SGD, {"schedule": "cosine"}),
        (Optimizer.SGD, {"schedule": "linear"}), (Optimizer.SGD, {"balanced": True}),
    ],
    ids=["momentum", "l2", "mu", "mu with adam", "cosine", "linear", "balanced"],
)  # fmt: skip
def test_every_option_of_a_plan_changes_what_is_learnt(arguments, capsys, optimizer, changed) -> None:
    x, y = samples(100)
    save(arguments, np.array(x[:70] + x[70::3], np.float32), np.array(y[:70] + y[70::3]))  # one class more
    head = write_head(FEATURES, CLASSES, options=HeadOptions(optimizer=optimizer))
    arguments = written(arguments, head)
    found = []
    for one in (arguments, replace(arguments, **changed)):
        run(one)
        found.append(losses(capsys))
    assert found[0] != found[1]


def test_the_default_momentum_is_the_plans(arguments, capsys) -> None:
    head = write_head(FEATURES, CLASSES, options=HeadOptions(optimizer=Optimizer.MOMENTUM))
    found = []
    for momentum in (None, 0.9, 0.8):
        run(written(arguments, head, momentum=momentum))
        found.append(losses(capsys))
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"momentum": 0.9}, "momentum is 0.9"), ({"l2": 0.1}, "l2 is 0.1"), ({"mu": 2.0}, "mu is 2"),
        ({"schedule": "linear"}, "schedule is linear"),
    ],
)  # fmt: skip
def test_what_the_model_cannot_do_is_refused_before_the_data_is_read(arguments, changed, said) -> None:
    foreign = build(Foreign(rate=None))  # its learning rate is built in, and it has nothing else
    with pytest.raises(ModelError, match=said):
        run(written(arguments, foreign, data="none.npz", **changed))


def test_a_budget_ends_it_after_the_epochs_that_fit(arguments, capsys) -> None:
    run(replace(arguments, epochs=50, budget_s=1e-6))
    assert len(losses(capsys)) == 1


def test_a_head_that_standardises_gets_the_statistics_of_what_it_trains_on(arguments, capsys) -> None:
    x, y = samples(100)
    save(arguments, np.array(x, np.float32) * 1000 + 5000, np.array(y))
    run(written(arguments, write_head(FEATURES, CLASSES, options=HeadOptions(normalize=True))))
    *epochs, last = lines(capsys)
    assert last["result"]["standardised"]
    assert epochs[-1]["epoch"]["loss"] < epochs[0]["epoch"]["loss"] < 2
    assert epochs[-1]["epoch"]["holdout_accuracy"] > 0.5


def test_the_backbone_is_timed_apart_and_gets_as_many_at_once_as_the_board_says(
    arguments, capsys, monkeypatch
) -> None:
    sizes: list[int] = []
    plain = TrainableModel.extract
    monkeypatch.setattr(TrainableModel, "extract", lambda self, x: sizes.append(len(x)) or plain(self, x))
    x = np.random.default_rng(1).integers(0, 255, (60, 2, 2)).astype(np.uint8)
    save(arguments, x, np.arange(60) % 3)
    run(written(arguments, build(Foreign(features="dynamic")), feature_batch=40))
    result = lines(capsys)[-1]["result"]
    assert sizes == [40, 20]
    assert result["backbone_samples"] == 60
    assert 0 < result["backbone_seconds"] < result["seconds"]
    assert 0 < result["head_seconds"] < result["seconds"]


def test_features_are_those_of_a_job_on_the_same_samples(arguments, tmp_path, capsys) -> None:
    """So are the steps: what a device would learn of them is what is told here."""
    device = bench(tmp_path / "device", count=0, model=build(Foreign(features="dynamic")))
    x = np.random.default_rng(1).integers(0, 255, (60, 2, 2)).astype(np.uint8)
    device.store.append_many(list(x), (np.arange(60) % 3).tolist())
    plan = Plan(epochs=3, batch_size=8, learning_rate=0.3, codec=Codec(density=0.3))
    device.publish(HeadVersion(1, 1), plan=plan)
    device.jobs.new(HeadVersion(1, 1), threads=1)
    device.database.execute("UPDATE job SET seed = 1")
    job = device.jobs.current()
    JobRun(device.arguments(job, min_per_class=1), lambda: False).run()
    report = device.journal.rounds()[0].report
    save(arguments, x[::-1], (np.arange(60) % 3)[::-1])  # a job takes the newest first
    run(written(arguments, device.model, holdout=0.0))
    *epochs, last = lines(capsys)
    assert [line["epoch"]["loss"] for line in epochs] == [epoch["loss"] for epoch in report["epochs"]]
    sizes = last["result"]["bytes"]
    del sizes["message"]  # of a topic that a job has no need of
    assert {**sizes, "sealed": 0} == {**report["bytes"], "sealed": 0}
    device.close()


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
