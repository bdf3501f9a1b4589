"""`fedclient dry-run`: what it reports is what would happen, and nothing else is said."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fedclient.cli import dry_run, main
from fedclient.model.head import HeadOptions, Optimizer, write_head
from fedclient.scheduler.check import Now
from fedclient.scheduler.history import History
from fedclient.scheduler.policy import decide
from fedclient.scheduler.profile import UNKNOWN_BOARD
from fedclient.scheduler.readings import Readings
from fedclient.scheduler.schedule import Policy
from tests.runtime.models import Foreign, build

FEATURES, CLASSES, ROWS = 20, 3, 120
HEADER_BYTES = 200  # what signature, key, box and envelope take at most


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main.log, "setup", lambda **_: None)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head and data that it can learn: class c has a high feature c."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "model.tflite").write_bytes(write_head(FEATURES, CLASSES))
    (folder / "backbone.tflite").write_bytes(build(Foreign(features="dynamic", rate=None)))
    momentum, normalize = HeadOptions(optimizer=Optimizer.MOMENTUM), HeadOptions(normalize=True)
    (folder / "momentum.tflite").write_bytes(write_head(FEATURES, CLASSES, options=momentum))
    (folder / "normalize.tflite").write_bytes(write_head(FEATURES, CLASSES, options=normalize))
    y = np.arange(ROWS) % CLASSES
    x = np.random.default_rng(1).normal(size=(ROWS, FEATURES)).astype(np.float32)
    x[np.arange(ROWS), y] += 3
    np.savez(folder / "data.npz", x=x, y=y)
    return folder


Result = tuple[int, str, str]


@pytest.fixture
def run(files: Path, capsys: pytest.CaptureFixture[str]):
    """Run the verb with the files above unless the words say others."""

    def call(*words: object, model: str = "model.tflite", data: object = None) -> Result:
        data = files / "data.npz" if data is None else data
        given = ["--model", files / model, "--data", data, *words]
        code = main.main(["dry-run", *map(str, given)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


@pytest.fixture
def report(run):
    def call(*words: object, **files: object) -> dict:
        code, out, err = run("--json", *words, **files)
        assert code == 0, err
        assert out.count("\n") == 1
        return json.loads(out)

    return call


@pytest.fixture
def no_trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prove that a refusal comes before anything is started."""
    monkeypatch.setattr(subprocess, "Popen", None)


def save(folder: Path, x: np.ndarray, y: object) -> Path:
    np.savez(folder / "d.npz", x=x, y=y)
    return folder / "d.npz"


# --- what it reports ----------------------------------------------------------------------------------
def test_the_json_has_exactly_the_keys_that_others_rely_on(report) -> None:
    found = report("--epochs", 3, "--learning-rate", 0.3)
    assert list(found) == [
        "decision", "samples", "epochs", "seconds", "trainer_peak_pss_mib", "bytes", "rates",
        "backbone_seconds",
        "head_seconds", "backbone_seconds_per_sample", "head_seconds_per_sample", "standardised",
    ]  # fmt: skip
    assert list(found["decision"]) == ["eligible", "at_s", "next_s", "gates"]
    keys = ["loss", "accuracy", "holdout_accuracy", "worst_recall", "holdout_worst_recall"]
    assert [list(epoch) for epoch in found["epochs"]] == [keys] * 3
    assert list(found["bytes"]) == ["fp32", "sparsified", "quantized", "encoded", "sealed", "message"]
    assert found["samples"] == ROWS
    assert found["bytes"]["fp32"] == 4 * (FEATURES + 1) * CLASSES
    assert 0 < found["seconds"] < 60
    assert 10 < found["trainer_peak_pss_mib"] < 500
    assert 0 < found["head_seconds"] < found["seconds"]
    assert found["head_seconds_per_sample"] == found["head_seconds"] / (
        3 * 96
    )  # epochs, rows that are not held out
    assert (found["backbone_seconds"], found["backbone_seconds_per_sample"]) == (0.0, None)


def test_it_really_trains(report) -> None:
    epochs = report("--epochs", 4, "--learning-rate", 0.3)["epochs"]
    losses = [epoch["loss"] for epoch in epochs]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > 2 * losses[-1]
    assert epochs[-1]["accuracy"] > 0.9
    assert epochs[-1]["holdout_accuracy"] > 0.8


def test_the_same_seed_gives_the_same_epochs(report) -> None:
    first, again, other = (report("--epochs", 1, "--seed", seed) for seed in (7, 7, 8))
    assert first["epochs"] == again["epochs"] != other["epochs"]


def test_batch_size_and_learning_rate_are_used(report) -> None:
    plain, large, slow = (
        report("--epochs", 1, *words)["epochs"]
        for words in ((), ("--batch-size", 96), ("--learning-rate", 0.001))
    )
    assert plain != large
    assert plain[0]["loss"] < slow[0]["loss"]


def test_what_a_plan_may_ask_reaches_the_trainer(run, monkeypatch: pytest.MonkeyPatch) -> None:
    """What each does there is for tests/trainer/test_dry_run.py."""
    asked: list[dict] = []
    monkeypatch.setattr(
        subprocess, "Popen", lambda command, **_: asked.append(json.loads(command[-1])) or sys.exit(9)
    )
    names = ("momentum", "l2", "mu", "schedule", "balanced", "budget_s", "codec", "density", "max_bytes")
    given = ("--momentum", 0.2, "--l2", 0.5, "--mu", 5, "--schedule", "cosine", "--balanced", "--budget-s", 9)
    given += ("--max-bytes", 300)
    for words, wanted in (
        ((), (None, 0.0, 0.0, "constant", False, 0.0, "topk_int8", 0.01, None)),
        (given, (0.2, 0.5, 5.0, "cosine", True, 9.0, "fitted", 1.0, 300)),
        (
            ("--codec", "topk-sign", "--max-bytes", 256),
            (*[None, 0.0, 0.0, "constant", False, 0.0], "topk_sign", 0.01, 256),
        ),
    ):
        assert run(*words)[0] == 9
        assert tuple(asked[-1][name] for name in names) == wanted


def test_a_budget_ends_it_early_and_that_is_said(run) -> None:
    wanted = ("--epochs", 50, "--budget-s", 1e-6, "--schedule", "cosine", "--json")
    _, out, err = run(*wanted, model="momentum.tflite")
    assert len(json.loads(out)["epochs"]) == 1
    assert err == "1 of 50 epochs: no more fit into --budget-s\n"


@pytest.mark.parametrize(
    ("option", "value", "name"), [("--momentum", 0.9, "momentum"), ("--schedule", "linear", "schedule")]
)
def test_what_the_head_cannot_do_is_one_sentence(run, files: Path, option, value, name) -> None:
    code, out, err = run(option, value, model="backbone.tflite" if name == "schedule" else "model.tflite")
    assert (code, out) == (1, "")
    assert f": {name} is {value}, but the model's " in err
    assert err.count("\n") == 1


def test_a_head_that_standardises_says_by_what(run) -> None:
    code, out, err = run("--epochs", 1, "--json", model="normalize.tflite")
    assert code == 0
    assert json.loads(out)["standardised"] is True
    assert err == (
        "the head standardises its input: here by the statistics of these samples alone, "
        "in a federation by those of all devices\n"
    )


def test_the_decision_has_every_gate_of_the_default_policy(report) -> None:
    decision = report("--epochs", 1)["decision"]
    wanted = decide(Readings(), Policy(), UNKNOWN_BOARD, History(), Now(elapsed_s=0.0))
    assert [gate["name"] for gate in decision["gates"]] == [gate.name for gate in wanted.gates]
    assert all(gate["sentence"] for gate in decision["gates"])
    assert decision["eligible"] == all(gate["ok"] for gate in decision["gates"])


@pytest.mark.parametrize("codec", ["topk_int8", "topk-sign", "dense_int8"])  # a hyphen will do
def test_each_stage_makes_it_smaller_and_sealing_adds_a_constant(report, codec: str) -> None:
    # enough elements that the codec's own header does not count
    sizes = report("--epochs", 1, "--codec", codec, "--density", 0.3)["bytes"]
    stages = [sizes[name] for name in ("fp32", "sparsified", "quantized", "encoded")]
    if codec.startswith("topk"):
        assert all(before > after for before, after in itertools.pairwise(stages)), stages
    else:
        assert stages[0] == stages[1] > stages[2]
    assert 0 < sizes["sealed"] - sizes["encoded"] < HEADER_BYTES


def test_sealed_is_the_envelope_that_a_device_would_send(report) -> None:
    """The overhead is the same whatever the body is, but for the bytes of its length."""
    sizes = [report("--epochs", 1, "--density", density)["bytes"] for density in (0.05, 1.0)]
    small, large = (one["sealed"] - one["encoded"] for one in sizes)
    assert sizes[0]["encoded"] < sizes[1]["encoded"]
    assert 0 <= large - small <= 4


def test_the_decision_counts_the_data_at_hand(report, tmp_path: Path) -> None:
    x = np.repeat(np.arange(20, dtype=np.float32)[:, None], FEATURES, axis=1) / 20
    data = save(tmp_path, np.concatenate([x, x]), np.arange(40) % CLASSES)
    gates = {gate["name"]: gate for gate in report("--epochs", 1, data=data)["decision"]["gates"]}
    assert gates["distinct_samples"]["ok"] is False
    assert " is 20, but must be at least 32" in gates["distinct_samples"]["sentence"]


def test_without_a_holdout_there_is_no_accuracy_on_one(report) -> None:
    found = report("--epochs", 1, "--holdout", 0)
    assert found["samples"] == ROWS
    assert found["epochs"][0]["holdout_accuracy"] is None


def test_rare_classes_are_withheld_by_the_default_privacy_floor(run, tmp_path: Path) -> None:
    x = np.random.default_rng(1).normal(size=(40, FEATURES)).astype(np.float32)
    y = np.array([0] * 16 + [1] * 16 + [2] * 8)
    words = ("--epochs", 1, "--holdout", 0, "--json")
    code, out, err = run(*words, data=save(tmp_path, x, y))
    assert (code, err) == (0, "")
    y[-1] = 1
    code, out, err = run(*words, data=save(tmp_path, x, y))
    assert (code, json.loads(out)["samples"]) == (0, 40)
    assert err == (
        "class 2: fewer than 8 distinct samples, so what was learnt of it would not be sent "
        "([privacy] min_per_class)\n"
    )


def test_the_text_says_it_all(run) -> None:
    code, out, err = run("--epochs", 2, "--learning-rate", 0.3)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() in (["eligible", "now", "yes"], ["eligible", "now", "no"])
    assert sum(line.strip().startswith("epoch") for line in lines) == 2
    assert f"samples         {ROWS}" in lines
    assert [line.split()[0] for line in lines if "ms a sample" in line] == ["head"]  # it has no backbone
    (update,) = (line for line in lines if line.startswith("update"))
    assert {"fp32", "sparsified", "quantized", "encoded", "sealed", "message"} <= set(update.split())
    table = lines[lines.index(update) + 2 :]
    assert 5 <= len(table) <= 10  # what comes to the same as this update is not said twice
    (picked,) = (line for line in table if line.endswith("<- this update"))
    assert picked.split("%")[1].split()[1] in update.split("message")[1]


def test_bytes_pick_an_update_and_what_cannot_be_is_a_line(run, report, no_trainer) -> None:
    for words, said in (
        (("--codec", "fitted"), "--codec fitted needs --max-bytes: they decide how much is sent"),
        (("--max-bytes", 255), "--max-bytes is 255: choose 256 to 4194304"),
    ):
        assert run(*words)[0::2] == (2, f"fedclient: {said}\n")


# --- data ---------------------------------------------------------------------------------------------
def test_words_are_classes_in_their_order(report, tmp_path: Path) -> None:
    x = np.eye(3, FEATURES, dtype=np.float32).repeat(20, axis=0)
    found = report(
        "--epochs", 3, "--learning-rate", 1, data=save(tmp_path, x, np.repeat(["a", "b", "c"], 20))
    )
    assert found["epochs"][-1]["accuracy"] == 1.0


def test_a_backbone_gets_the_raw_samples(report, run, tmp_path: Path) -> None:
    x = np.random.default_rng(1).integers(0, 255, (60, 2, 2)).astype(np.uint8)
    path = save(tmp_path, x, np.arange(60) % 3)
    found = report("--epochs", 1, model="backbone.tflite", data=path)
    assert found["samples"] == 60
    assert 0 < found["backbone_seconds"] < found["seconds"]
    assert found["backbone_seconds_per_sample"] == found["backbone_seconds"] / 60
    scaled = save(tmp_path, x / np.float32(255), np.arange(60) % 3)
    code, out, err = run(model="backbone.tflite", data=scaled)
    assert (code, out) == (1, "")
    told = "samples are kept as float32, the model takes uint8: give what the app gives the model"
    assert err == f"fedclient: {scaled}: {told}\n"  # a device would skip them


def test_a_function_of_the_users_own(tmp_path: Path, files: Path) -> None:
    """Found in the current folder; what it prints, and however much, is no part of the report."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").write_text("")
    (tmp_path / "mine" / "data.py").write_text(
        "import sys\n"
        "def rows():\n"
        "    print('loading', 'x' * 1000)\n"
        "    for _ in range(200): print('y' * 1000, file=sys.stderr)\n"  # more than a pipe holds
        f"    for row in range(60): yield [row % 3] * {FEATURES}, row % 3\n"
    )
    command = ["dry-run", "--model", str(files / "model.tflite"), "--data", "mine.data:rows", "--epochs", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "fedclient", *command, "--json"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["samples"] == 60


@pytest.mark.parametrize(
    ("x", "y", "said"),
    [
        (np.ones((9, FEATURES + 1)), np.zeros(9, int), "a sample has shape [21], the model takes [20]"),
        (np.ones((9, FEATURES)), np.full(9, 3), "row 0: label 3 is not one of the model's classes, 0 to 2"),
        (np.ones((9, FEATURES)), np.full(9, -1), "row 0: label -1 is not one of the model's classes"),
        (np.full((9, FEATURES), np.nan), np.zeros(9, int), "row 0: it holds NaN"),
        (np.ones((0, FEATURES)), np.zeros(0, int), "there are no samples in it"),
        (np.ones((9, FEATURES)), np.zeros(8, int), "x has 9 rows but y has 8"),
    ],
)
def test_data_that_does_not_fit_is_one_sentence(run, tmp_path: Path, x, y, said: str) -> None:
    path = save(tmp_path, x.astype(np.float32), y)
    code, out, err = run("--json", data=path)
    assert (code, out) == (1, "")
    assert err.startswith(f"fedclient: {path}: ")
    assert said in err
    assert err.count("\n") == 1


def test_more_words_than_classes_do_not_fit(run, tmp_path: Path) -> None:
    path = save(tmp_path, np.ones((4, FEATURES), np.float32), np.array(["a", "b", "c", "d"]))
    assert "row 3: label 'd' is not one of the model's classes" in run(data=path)[2]


def test_a_holdout_that_takes_all_is_refused(run, tmp_path: Path) -> None:
    path = save(tmp_path, np.ones((4, FEATURES), np.float32), np.arange(4) % 3)
    code, out, err = run("--holdout", 0.99, data=path)
    assert (code, out) == (1, "")
    assert "--holdout 0.99 leaves nothing to train on" in err


def test_a_training_that_diverges_is_one_sentence(run, tmp_path: Path) -> None:
    x = np.random.default_rng(1).normal(size=(60, FEATURES)).astype(np.float32) * 1e30
    code, out, err = run("--learning-rate", 1000, data=save(tmp_path, x, np.arange(60) % 3))
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert "learning rate" in err or "too large" in err


# --- what cannot work ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--epochs", "0", "--epochs is 0: choose 1 to 100"),
        ("--epochs", "101", "--epochs is 101: choose 1 to 100"),
        ("--batch-size", "0", "--batch-size is 0"),
        ("--batch-size", "4097", "--batch-size is 4097"),
        ("--learning-rate", "0", "--learning-rate is 0.0"),
        ("--learning-rate", "-1", "--learning-rate is -1.0"),
        ("--learning-rate", "nan", "--learning-rate is nan"),
        ("--learning-rate", "inf", "--learning-rate is inf"),
        ("--density", "0", "--density is 0.0"),
        ("--density", "1.1", "--density is 1.1"),
        ("--seed", "-1", "--seed is -1"),
        ("--holdout", "1", "--holdout is 1.0: choose a share from 0 to below 1"),
        ("--holdout", "-0.1", "--holdout is -0.1"),
        ("--holdout", "nan", "--holdout is nan"),
        ("--epochs", "many", "invalid int value"),
        ("--momentum", "1", "--momentum is 1.0: choose 0.0 to 0.9999"),
        ("--momentum", "-0.1", "--momentum is -0.1"),
        ("--l2", "nan", "--l2 is nan"),
        ("--mu", "1001", "--mu is 1001.0"),
        ("--budget-s", "-1", "--budget-s is -1.0"),
        ("--budget-s", "86401", "--budget-s is 86401.0"),
        ("--schedule", "step", "invalid choice"),
        ("--codec", "zip", "invalid choice"),
    ],
)
def test_bad_arguments_are_usage(run, no_trainer, option: str, value: str, said: str) -> None:
    code, out, err = run(option, value)
    assert (code, out) == (2, "")
    assert said in err


def test_model_and_data_must_be_given(capsys) -> None:
    assert main.main(["dry-run"]) == 2
    assert "--model, --data" in capsys.readouterr().err


@pytest.mark.parametrize("model", ["none.tflite", "."])
def test_a_model_that_is_not_there_is_one_sentence(run, files: Path, no_trainer, model: str) -> None:
    assert run(model=model) == (1, "", f"fedclient: {files / model}: this is not a file\n")


def test_a_file_that_is_no_model_is_one_sentence(run, files: Path) -> None:
    code, out, err = run(model="data.npz")
    assert (code, out) == (1, "")
    assert err.startswith(f"fedclient: {files / 'data.npz'}: ")
    assert err.count("\n") == 1


def test_data_that_is_not_there_is_one_sentence(run, tmp_path: Path) -> None:
    code, out, err = run(data=tmp_path / "none.npz")
    assert (code, out, err) == (1, "", f"fedclient: {tmp_path}/none.npz: No such file or directory\n")


def test_a_trainer_that_crashes_is_one_sentence(run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\nkill -9 $$\n")
    fake.chmod(0o755)
    monkeypatch.setattr(dry_run.sys, "executable", str(fake))
    assert run() == (1, "", "fedclient: the trainer crashed (exit -9)\n")
