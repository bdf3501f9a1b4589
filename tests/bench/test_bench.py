"""The bench runs, and says in one JSON object what the issues ask for; its figures are not judged here."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCH = Path(__file__).parents[2] / "tools" / "bench"


def bench(*arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(BENCH / "bench.py"), *arguments], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)  # one object, and nothing else
    return found


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, BENCH / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[name] = loaded  # dataclasses look their module up
    sys.path.insert(0, str(BENCH))  # where what it shares with others is found
    try:
        spec.loader.exec_module(loaded)
    finally:
        sys.path.remove(str(BENCH))
    return loaded


def test_an_idle_agent_is_measured_with_nothing_of_numpy_or_tflite_in_it(mosquitto: str) -> None:
    idle = bench("--only", "idle", "--idle-s", "1", "--starts", "1")["idle"]
    for found in (idle["tcp"], idle["equipped"], idle["tls"]):
        assert found["forbidden_files"] == 0
        assert 5 < found["uss_mib"] <= found["pss_as_only_python_mib"] <= found["rss_mib"]
        assert found["pss_mib"] <= found["pss_as_only_python_mib"]
        assert found["ready_ms"]["min"] > 0
    assert idle["tls"]["rss_mib"] > idle["tcp"]["rss_mib"]


@pytest.mark.parametrize("broker", ["mosquitto", "embedded"])
def test_a_round_is_split_into_stages_that_add_up(
    broker: str, mosquitto: str, request: pytest.FixtureRequest
) -> None:
    if broker == "embedded":
        request.getfixturevalue("amqtt")
    found = bench("--only", "round", "--rounds", "2", "--broker", broker)
    disk = found["round"]["disk"]
    assert all(ms >= 0 for ms in disk["stages_ms"].values())
    assert 0 < disk["without_training_and_start_ms"] < disk["total_ms"]
    assert disk["cpu_ms"]["trainer"] > 0
    assert disk["bytes_up"] > disk["update_bytes"]["most"]
    assert 300 < disk["bytes_down"] < 4 * 12_810  # a manifest, a delta and a receipt, and no whole head
    targets = {one["name"]: one for one in found["targets"]}
    assert targets["update of 12,810 parameters at 1 %, bytes"][
        "met"
    ]  # of all targets, no machine changes it


def test_the_gateway_part_judges_its_targets() -> None:
    found = bench("--only", "gateway", "--updates", "50")
    assert found["gateway"]["updates"] == 50
    assert {one["target"] for one in found["targets"]} == {">= 4000", ">= 1000"}


def test_a_federation_of_people_is_measured_with_codec_and_without(shared: Path) -> None:
    found = module("wisdm").measure(folds=1, rounds=2)
    assert 0.4 < found["accuracy"]["mean"] <= 1
    assert 0.4 < found["fp32_fedavg_accuracy"]["mean"] <= 1
    assert found["bytes_up_total"] < found["fp32_bytes_up_total"]
    assert found["rounds"] == 2


def test_heads_of_ones_own_are_measured_beside_the_global_one(shared: Path) -> None:
    found = module("personal").measure(folds=1, rounds=3, others=False)
    assert set(found["seen"]) == {"global", "local_only", "fine_tuned", "personal_layer"}
    assert set(found["unseen"]) == {"global", "personal_layer"}
    for score in (*found["seen"].values(), *found["unseen"].values()):
        assert 0 <= score["worst_user"] <= score["mean_of_users"] <= 1
        assert 0.2 < score["accuracy"] <= 1
        assert len(score["recall_by_class"]) == 6
    assert found["gain_of_fine_tuning"] > 0  # three rounds leave much to gain
    accuracy = {name: score["accuracy"] for name, score in found["seen"].items()}
    assert found["gain_of_fine_tuning"] == round(accuracy["fine_tuned"] - accuracy["global"], 4)


def test_a_way_to_federate_is_measured_beside_fedavg(shared: Path) -> None:
    part = module("personal")
    recordings = part.Recordings.load(part.data_path())
    test = part.test_windows(recordings, shuffled=False)
    assert 0.25 < test.mean() < 0.35
    fold = part.Fold.of(recordings, test, next(recordings.folds()))
    seen, unseen = part.compared(fold, part.OTHERS["fedprox_5_epochs"], 4)
    assert len(seen.users) + len(unseen.users) == 36  # nobody is below the privacy floor
    for score in (seen, unseen):
        assert 0.2 < score.accuracy <= 1
        assert score.counts.sum() > 1000
    assert part.Score.of([seen, unseen]).right.sum() == seen.right.sum() + unseen.right.sum()


def test_a_recorded_week_is_replayed_in_far_less_time(monkeypatch: pytest.MonkeyPatch) -> None:
    part = module("replay")
    monkeypatch.setattr(part, "DAYS", 1)
    found = part.measure("busy")
    assert found["always"]["training_s"] > found["defaults"]["training_s"] > 0
    assert found["defaults"]["seconds"] < 60
    assert found["bytes_per_line"] <= 40


def test_without_the_data_that_part_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDCLIENT_SHARED", str(tmp_path))
    found = bench("--only", "wisdm")
    assert found["wisdm"] is None
    assert found["targets"] == []


def test_switches_are_read_for_all_threads() -> None:
    process = module("process")
    voluntary, involuntary = process.switches(1)
    assert voluntary > 0
    assert involuntary >= 0


def test_an_unknown_part_is_a_usage_error() -> None:
    done = subprocess.run(
        [sys.executable, str(BENCH / "bench.py"), "--only", "speed"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "the parts are idle, round" in done.stderr


def test_the_gate_is_tried_with_honest_and_with_broken_heads() -> None:
    found = bench("--only", "adoption", "--wisdm-rounds", "2", "--adoption-seeds", "1")
    part = found["adoption"]
    assert part["harmful_heads_adopted"] <= part["broken_heads"]
    for task in ("digits", "wisdm"):
        if task in part:
            for judged in part[task].values():
                assert judged["broken_heads"] > judged["honest_heads"] == 3 * judged["devices"]
                assert judged["broken_heads_adopted"] == sum(judged["adopted_by_kind"].values())
    assert {one["name"] for one in found["targets"]} == {
        "broken heads adopted in place of a head, that do harm",
        "ditto, or where there was none, %",
        "honest heads refused, %",
    }


def test_a_heads_step_is_measured_beside_numpys_products(monkeypatch: pytest.MonkeyPatch) -> None:
    head_step = module("head_step")
    for name, value in (("FEATURES", 8), ("HIDDEN", 4), ("TURNS", 1)):
        monkeypatch.setattr(head_step, name, value)
    for optimizer in head_step.Optimizer:
        found = head_step.measure(optimizer)
        assert found.keys() == {"matmul_ms", "numpy_step_ms", "plain", "l2_and_mu"}
        assert all(found[kind]["head_ms"] > 0 for kind in ("plain", "l2_and_mu"))


def test_heads_of_two_runtimes_are_compared_tensor_by_tensor(tmp_path: Path) -> None:
    """Here the installed runtime with itself, and with one that is a little off."""
    runtimes = module("runtimes")
    runtimes.FEATURES, runtimes.STEPS = 16, 4
    runtimes.write_heads(tmp_path / "heads")
    one, two = (runtimes.train(tmp_path / "heads") for _ in range(2))
    heads = {key.split(":")[0] for key in one}
    assert heads == set(runtimes.kinds())
    for head in heads:
        assert runtimes.difference(one, two, head) == {"weights": 0.0, "state": 0.0, "bit_for_bit": True}
    name = "adam hidden:weights"
    two[name] = two[name] * (1 + 1e-3)
    found = runtimes.difference(one, two, "adam hidden")
    assert found["weights"] == pytest.approx(1e-3, rel=0.01)
    assert (found["state"], found["bit_for_bit"]) == (0.0, False)


@pytest.mark.thorough
def test_a_head_is_the_same_on_both_runtimes() -> None:
    found = module("runtimes").measure()
    if found is None:
        pytest.skip("LEFT OUT: the two runtimes cannot be installed here")
    assert {found["runtimes"][name]["runtime"] for name in ("one", "two")} == {
        "tflite_runtime",
        "ai_edge_litert",
    }
    assert found["weights"] <= 1e-5
