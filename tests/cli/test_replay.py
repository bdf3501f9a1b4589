"""`fedclient replay`: text, JSON and picture say the same; a bad file is one line."""

from __future__ import annotations

import json
import re
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from fedclient.cli.main import main
from fedclient.scheduler.replay import Interval, Totals
from fedclient.testing import week

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trace") / "busy.trace"
    path.write_text("".join(week.lines("busy", days=3)))
    return path


def policy(folder: Path, text: str) -> Path:
    path = folder / "policy.toml"
    path.write_text(text)
    return path


def call(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = main(["replay", *map(str, words)])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def replayed(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    code, out, err = call(capsys, *words, "--json")
    assert (code, err, out.count("\n")) == (0, "", 1)
    found: dict[str, Any] = json.loads(out)
    return found


def test_json_has_intervals_totals_and_closed_gates(busy: Path, capsys) -> None:
    found = replayed(capsys, busy)
    assert set(found) == {"intervals", "totals", "closed"}
    assert set(found["totals"]) == {item.name for item in fields(Totals)}
    assert set(found["intervals"][0]) == {item.name for item in fields(Interval)} | {"local"}
    trained = sum(one["end_s"] - one["begin_s"] for one in found["intervals"])
    assert found["totals"]["training_s"] == pytest.approx(trained)
    assert found["totals"]["traffic_bytes"] == 500 * found["totals"]["jobs"]
    assert found["totals"]["energy_j"] > 0  # by the board's estimate
    assert list(found["closed"].values()) == sorted(found["closed"].values(), reverse=True)
    assert found == replayed(capsys, busy)


def test_the_policy_is_the_schedule_and_the_floor_of_a_config(busy: Path, tmp_path: Path, capsys) -> None:
    nights = policy(tmp_path, '[schedule]\nwindows = ["01:00-02:00"]\nmin_spacing_s = 600\n')
    found = replayed(capsys, busy, "--policy", nights, "--job-s", 30, "--update-bytes", 7000)
    assert found["intervals"]
    assert all(re.fullmatch(r"... 01:\d\d", one["local"]) for one in found["intervals"])
    done = [one for one in found["intervals"] if one["ended"] == "done" and not one["resumed"]]
    assert {round(one["end_s"] - one["begin_s"]) for one in done} == {30}
    assert found["totals"]["traffic_bytes"] == 7000 * found["totals"]["jobs"]
    floor = policy(tmp_path, "[privacy]\nmin_samples = 100000\n")
    assert replayed(capsys, busy, "--policy", floor)["closed"]["distinct_samples"] == 1.0
    assert replayed(capsys, busy, "--policy", floor)["intervals"] == []
    assert replayed(capsys, busy, "--policy", floor, "--ignore-samples")["intervals"]
    assert replayed(capsys, busy, "--config", floor)["intervals"] == [], "a device's own config will do"
    none = tmp_path / "none.toml"
    none.touch()
    assert replayed(capsys, busy, "--config", floor, "--policy", none)["intervals"]


def test_the_board_s_defaults_count_where_the_policy_is_silent(busy: Path, tmp_path: Path, capsys) -> None:
    cool = policy(tmp_path, "[schedule]\npause_temp_c = 50\nresume_temp_c = 45\n")
    hot = replayed(capsys, busy, "--policy", cool)["closed"]["temperature"]
    assert hot > 2 * replayed(capsys, busy)["closed"]["temperature"]
    other = replayed(capsys, busy, "--board", "jetson-orin-nano")
    assert other["closed"] != replayed(capsys, busy)["closed"]


def test_the_text_shows_days_totals_gates_and_times(busy: Path, capsys) -> None:
    code, out, err = call(capsys, busy)
    assert (code, err) == (0, "")
    rows = re.findall(r"^(\w{3}) +\|([*. ]{72})\|$", out, re.MULTILINE)
    assert [day for day, _ in rows] == ["Mon", "Tue", "Wed"]
    assert all("*" in row for _, row in rows)
    assert set(rows[2][1][38:50]) == {"."}  # Wednesday afternoon is too hot
    for words in ("trained", "MQTT", "energy", "closed, of the time", "load", "when it would have trained"):
        assert words in out
    assert "Mon 00:00" in out
    assert "--json has all" in out
    assert all(len(line) <= 100 for line in out.splitlines())


def test_a_policy_that_never_trains_says_never_and_why(busy: Path, tmp_path: Path, capsys) -> None:
    never = policy(tmp_path, "[schedule]\npause_temp_c = 21\nresume_temp_c = 20\n")
    _, out, _ = call(capsys, busy, "--policy", never)
    assert "  never\n" in out
    assert re.search(r"temperature +100.0%", out)
    assert "*" not in out.split("trained")[0].replace("* ", "")


def test_a_week_takes_seconds(tmp_path: Path, capsys) -> None:
    path = tmp_path / "week.trace"
    path.write_text("".join(week.lines("battery")))
    begun = time.process_time()
    replayed(capsys, path)
    took_s = time.process_time() - begun
    print(f"{took_s:.1f} s of processor time for a week")
    assert took_s < 20


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "it cannot be read: No such file"),
        ("", "line 1: there is no header"),
        ("hello\n", "line 1: this is not a line of a trace"),
        ("\0" * 9000, "line 1: this is not a line of a trace"),
        (b"\xff\xfe\x00" * 9, "line 1: this is not a line of a trace"),
        ("HEADER", "fewer than two readings"),
        ('HEADER[0,0,"mains"]\n[60,6,"hot"]\n[60]\n', "line 3: 'hot' is no value of temp_c"),
    ],
)
def test_a_bad_trace_is_one_line_that_names_it(
    tmp_path: Path, capsys, content: str | bytes | None, words: str
) -> None:
    path = tmp_path / "bad.trace"
    header = next(week.lines("calm"))
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        path.write_text(content.replace("HEADER", header))
    code, out, err = call(capsys, path)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert f"{path}: " in err
    assert words in err


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["--board", "raspberry-pi-9"], 2, "there is no profile raspberry-pi-9: --board takes one of"),
        (["--job-s", "0"], 2, "--job-s is 0: choose 1 to 86400"),
        (["--job-s", "nan"], 2, "--job-s is nan"),
        (["--update-bytes", "-1"], 2, "--update-bytes is -1"),
        (["--policy", "nowhere.toml"], 1, "nowhere.toml: it cannot be read"),
        (["--svg", "no/such/folder.svg"], 2, "--svg no/such/folder.svg: there is no folder no/such"),
    ],
)
def test_a_bad_call_is_one_line(busy: Path, capsys, words: list[str], code: int, sentence: str) -> None:
    found, out, err = call(capsys, busy, *words)
    assert (found, out, err.count("\n")) == (code, "", 1)
    assert sentence in err


def test_a_bad_policy_is_named_with_line_and_key(busy: Path, tmp_path: Path, capsys) -> None:
    path = policy(tmp_path, "[schedule]\npause_temp_c = 60\nresume_temp_c = 65\n")
    code, _, err = call(capsys, busy, "--policy", path)
    assert code == 1
    assert f"{path}:" in err
    assert "resume_temp_c" in err
    assert err.count("\n") == 1


def test_the_page_explains_each_field() -> None:
    section = PAGE.split("\n## JSON\n")[1]
    for kind in (Interval, Totals):
        for item in fields(kind):
            assert f"`{item.name}`" in section, item.name


def test_nothing_is_read_but_what_was_given(busy: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay of another device's trace does not depend on this machine's own config."""
    monkeypatch.setenv("FEDCLIENT_CONFIG", "/nowhere/at/all.toml")
    assert call(capsys, busy)[0] == 0
