from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from io import StringIO
from pathlib import Path

import pytest

from fedclient.cli import demo
from fedclient.cli.demo import Progress, Report, RoundReport, Traffic, close_enough, plot, summary, verdict
from fedclient.cli.main import main
from fedclient.gateway.store import Round

ROOT = Path(__file__).parents[2]
KEYS = {  # the issue's, letter by letter
    "rounds",
    "devices",
    "final_accuracy",
    "centralised_accuracy",
    "fp32_fedavg_accuracy",
    "fp32_bytes_up_per_round",
    "agent_peak_pss_mib",
    "trainer_peak_pss_mib",
    "updates_counted",
    "updates_lost",
}
ROUND_KEYS = {"round", "accuracy", "bytes_up", "bytes_down", "seconds"}
REPORT = Report(
    rounds=tuple(
        RoundReport(round=n, accuracy=0.5 + n / 100, bytes_up=1300, bytes_down=3900, seconds=0.5)
        for n in range(1, 41)
    ),
    devices=5,
    final_accuracy=0.95,
    centralised_accuracy=0.97,
    fp32_fedavg_accuracy=0.97,
    fp32_bytes_up_per_round=13000,
    agent_peak_pss_mib=18.0,
    trainer_peak_pss_mib=27.0,
    updates_counted=200,
    updates_lost=0,
)
needs_amqtt = pytest.mark.skipif(
    demo.importlib.util.find_spec("amqtt") is None,
    reason="LEFT OUT: amqtt is not installed (pip install 'fedclient[test]')",
)


def start(tmp_path: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "fedclient", "demo", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def descendants(pid: int) -> set[int]:
    """Return the processes below `pid`, in whatever session."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:
            continue
        parents[int(text.split()[0])] = int(text.rpartition(")")[2].split()[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


@pytest.mark.parametrize(
    ("final", "centralised", "fedavg", "enough"),
    [
        (0.94, 0.97, 0.99, True),  # exactly 3 points below centralised
        (0.9399, 0.97, 0.96, False),
        (0.90, 0.97, 0.91, True),  # exactly 1 point below FedAvg
        (0.8999, 0.97, 0.91, False),
        (0.99, 0.97, 0.97, True),  # better than both
    ],
)
def test_close_enough_is_3_points_of_centralised_or_1_of_fedavg(
    final: float, centralised: float, fedavg: float, enough: bool
) -> None:
    assert close_enough(final, centralised, fedavg) is enough


def test_an_update_lost_fails_the_demo_whatever_the_accuracy() -> None:
    assert REPORT.ok
    lost = replace(REPORT, updates_lost=1)
    assert not lost.ok
    assert verdict(lost) == "FAILED: 1 updates were lost"


def test_the_verdict_says_which_of_the_two_was_reached() -> None:
    assert verdict(REPORT) == "ok: within 3 points of centralised"
    near_fedavg = replace(REPORT, final_accuracy=0.9, fp32_fedavg_accuracy=0.905)
    assert verdict(near_fedavg) == "ok: within 1 point of fp32 FedAvg"
    far = replace(REPORT, final_accuracy=0.9)
    assert verdict(far).startswith("FAILED: 7.0 points below centralised")


def test_final_accuracy_is_the_mean_of_the_last_five_rounds() -> None:
    assert demo.final([0.0, 0.1, 0.2, 0.3, 0.4, 0.5]) == 0.3
    assert demo.final([0.2, 0.4]) == pytest.approx(0.3)


def test_the_json_has_the_keys_that_others_rely_on() -> None:
    assert {field.name for field in fields(Report)} == KEYS
    assert {field.name for field in fields(RoundReport)} == ROUND_KEYS


def test_the_plot_puts_each_round_at_its_height() -> None:
    *rows, axis = plot([0.81, 0.9, 0.99, 1.0])
    assert axis == "       +----"
    assert rows == [
        " 97.5% |  **",
        " 95.0% |",
        " 92.5% |",
        " 90.0% | *",
        " 87.5% |",
        " 85.0% |",
        " 82.5% |",
        " 80.0% |*",
    ]


@pytest.mark.parametrize("rounds", [1, 7, 60, 61, 900])
def test_the_plot_fits_a_terminal_whatever_the_rounds(rounds: int) -> None:
    lines = plot([n / rounds for n in range(rounds)])
    assert max(map(len, lines)) <= 68
    assert sum(line.count("*") for line in lines) == min(rounds, 60)


def test_the_summary_is_short_and_says_everything() -> None:
    text = summary(REPORT, Traffic(up=420.4, down=3300.0))
    lines = text.splitlines()
    assert len(lines) <= 25
    assert max(map(len, lines)) <= 90
    for part in (
        "95.0%",
        "97.0%",
        "260 B",
        "2,600 B",
        "420 B up",
        "3,300 B down",
        "18.0 MiB",
        "200 counted, 0 lost",
    ):
        assert part in text


def made(rounds: int) -> list[Round]:
    one = Round(counted=5, accuracy=0.876, bytes_up=1300, bytes_down=3900, seconds=0.61, closed_unix_s=0)
    return [one] * rounds


def test_progress_is_a_line_every_five_rounds_where_there_is_no_terminal() -> None:
    stream = StringIO()
    progress = Progress(12, stream)
    for rounds in (0, 1, 4, 5, 5, 6, 11, 11):
        progress.show(made(rounds), [1])
        progress.tell(made(rounds))
    progress.end()
    assert stream.getvalue().splitlines() == [
        "round 5 of 12  accuracy 87.6 %  up 1300 B  down 3900 B  0.6 s",
        "round 11 of 12  accuracy 87.6 %  up 1300 B  down 3900 B  0.6 s",
    ]


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_one_line_on_a_terminal_and_says_who_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    stream = Terminal()
    progress = Progress(12, stream)
    progress.show([], [])
    progress.show(made(3), [2, 5])
    progress.tell(made(3))
    progress.end()
    first, second = stream.getvalue().split("\r\x1b[K")[1:]
    assert first == "round 0 of 12  training: -"
    assert second == "round 3 of 12  accuracy 87.6 %  up 1300 B  down 3900 B  0.6 s  training: 2, 5\n"
    monkeypatch.setenv("COLUMNS", "30")
    narrow = Terminal()
    Progress(12, narrow).show(made(3), [2, 5])
    assert len(narrow.getvalue().removeprefix("\r\x1b[K")) == 29


@needs_amqtt
def test_a_short_run_prints_one_object_and_nothing_else(tmp_path: Path) -> None:
    with start(tmp_path, "--rounds", "3", "--devices", "3", "--seed", "1", "--json") as process:
        out, err = process.communicate(timeout=120)
    report = json.loads(out)
    assert set(report) == KEYS
    assert [set(one) for one in report["rounds"]] == [ROUND_KEYS] * 3
    assert [one["round"] for one in report["rounds"]] == [1, 2, 3]
    assert report["devices"] == 3
    assert report["fp32_bytes_up_per_round"] == 3 * 2600
    assert all(0 < one["bytes_up"] < 3 * 400 for one in report["rounds"])
    assert all(one["bytes_down"] > 200 and one["seconds"] > 0 for one in report["rounds"])
    assert all(one["bytes_down"] < 2600 for one in report["rounds"][1:]), "deltas, not heads"
    assert report["updates_counted"] >= 9
    assert report["updates_lost"] == 0
    assert 5 < report["agent_peak_pss_mib"] <= 30
    assert 5 < report["trainer_peak_pss_mib"] < 200
    assert report["final_accuracy"] > 0.6
    near = close_enough(
        report["final_accuracy"], report["centralised_accuracy"], report["fp32_fedavg_accuracy"]
    )
    assert process.returncode == (0 if near else 1)
    assert "max_cpu_percent = false" in err
    assert list(tmp_path.iterdir()) == []  # no state is left


@needs_amqtt
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_takes_everything_with_it(tmp_path: Path, number: signal.Signals) -> None:
    with start(tmp_path, "--rounds", "900", "--devices", "2") as process:
        assert process.stderr is not None
        while "round 5 of" not in (line := process.stderr.readline()):
            assert line, "it ended too early"
        below = descendants(process.pid)
        assert len(below) >= 4  # broker, gateway, two devices
        process.send_signal(number)
        began = time.monotonic()
        process.communicate(timeout=30)
        assert time.monotonic() - began < 5
    assert process.returncode == 130
    assert not [pid for pid in below if Path(f"/proc/{pid}/cmdline").exists() and _is_ours(pid)]
    assert list(tmp_path.iterdir()) == []


def _is_ours(pid: int) -> bool:
    try:
        return b"fedclient" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


@pytest.mark.mosquitto
def test_another_broker_is_used_and_the_state_kept(
    mosquitto: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from fedclient.testing.broker import Mosquitto  # noqa: PLC0415 - where the fixture does not skip

    kept = tmp_path / "kept"
    with Mosquitto(mosquitto) as broker:
        words = ["demo", "--broker", f"localhost:{broker.port}", "--devices", "2", "--rounds", "2"]
        code = main([*words, "--keep", str(kept)])
    out, err = capsys.readouterr()
    assert code == (0 if "ok: " in out else 1)
    assert f"localhost:{broker.port}" in err
    assert "2 handwritten" not in out
    assert {path.name for path in kept.iterdir()} >= {"gateway", "gateway.log", "device-2", "device-2.toml"}
    assert main([*words, "--keep", str(kept)]) == 2
    assert "there is something in it already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["--devices", "1"], 2, "--devices 1: give 2 to 30"),
        (["--rounds", "0"], 2, "--rounds 0: give 1 to 900"),
        (["--seed", "-1"], 2, "--seed -1: give 0 or more"),
        (["--broker", "nowhere"], 2, "--broker nowhere: expected HOST:PORT, for example localhost:1883"),
        (["--broker", "localhost:1"], 1, "no broker at localhost:1: Connection refused; is it running?"),
    ],
)
def test_what_cannot_work_is_one_line(
    words: list[str], code: int, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", *words]) == code
    assert capsys.readouterr().err == f"fedclient: {sentence}\n"


def test_a_missing_extra_is_named_with_its_cure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda _: None)
    assert main(["demo"]) == 1
    assert capsys.readouterr().err == (
        "fedclient: the demo needs flatbuffers and amqtt: pip install 'fedclient[demo]'\n"
    )


@needs_amqtt
@pytest.mark.thorough
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_whole_demo_comes_close_enough_in_time(tmp_path: Path, seed: int) -> None:
    began = time.monotonic()
    with start(tmp_path, "--json", "--seed", str(seed)) as process:
        out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert len(json.loads(out)["rounds"]) == 40
    assert time.monotonic() - began < 90
