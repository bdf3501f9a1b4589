"""Metrics: a text file that a strict reader of Prometheus' format takes, replaced as one, and rarely."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import replace
from math import inf, nan
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedclient.client import metrics
from fedclient.client.metrics import Metrics, Snapshot, render
from fedclient.config import MetricsSettings, load
from fedclient.errors import ConfigError
from fedclient.scheduler.gates import GATES
from fedclient.values import Phase

SNAPSHOT = Snapshot(
    phase="waiting",
    connected=True,
    eligible=False,
    closed=("temperature", "dwell"),
    decided_unix_s=1_700_000_000.25,
    rounds={"counted": 7, "refused": 1},
    bytes_up=4711,
    bytes_down=123_456_789_012,
    head_bytes=812,
    head_bytes_saved=16_001,
    spent={
        "training_s": 61.5,
        "traffic_bytes": 900.0,
        "energy_j": 0.0,
        "flash_bytes": 2e6,
        "update_bytes": 700.0,
    },
    temp_c=48.3,
    battery_percent=71.0,
    power_w=4.25,
    new_samples=12,
)

NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
SAMPLE = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[^"\\{}]|"(?:[^"\\\n]|\\[\\"n])*")*)\})? (\S+)')
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\"n])*)"')
VALUE = re.compile(r"[+-]?(\d+(\.\d+)?([eE][+-]?\d+)?|Inf)|NaN")


def parse(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Read the format as strictly as its specification: families in one piece, help and type before."""
    assert text.endswith("\n")
    found: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    family, typed, done = "", False, set()
    for line in text[:-1].split("\n"):
        if line.startswith("# HELP "):
            assert family == "" or typed, "a family has a type and samples"
            _, _, family, shown = line.split(" ", 3)
            assert NAME.fullmatch(family)
            assert family not in done, "each family once"
            assert not re.search(r"\\[^\\n]", shown)
            done.add(family)
            typed = False
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert (name, typed) == (family, False)
            assert kind in {"counter", "gauge"}
            assert (kind == "counter") == name.endswith("_total")
            typed = True
        else:
            match = SAMPLE.fullmatch(line)
            assert match, line
            name, labels, value = match.groups()
            assert (name, typed) == (family, True)
            pairs = LABEL.findall(labels or "")
            assert ",".join(f'{label}="{text}"' for label, text in pairs) == (labels or "")
            assert VALUE.fullmatch(value), value
            key = (name, tuple(pairs))
            assert key not in found, "each sample once"
            found[key] = float(value)
    return found


def value(text: str, name: str, **labels: str) -> float | None:
    return parse(text).get((f"fedclient_{name}", tuple(labels.items())))


def settings(path: Path | None, every_s: float = 60.0) -> MetricsSettings:
    return MetricsSettings(file=path, every_s=every_s)


def test_all_figures_are_there() -> None:
    text = render(SNAPSHOT)
    assert value(text, "up") == 1
    assert value(text, "phase", phase="waiting") == 1
    assert value(text, "phase", phase="training") == 0
    assert value(text, "eligible") == 0
    assert value(text, "gate_closed", gate="temperature") == 1
    assert value(text, "gate_closed", gate="power") == 0
    assert value(text, "last_decision_timestamp_seconds") == 1_700_000_000.25
    assert value(text, "rounds_total", result="counted") == 7
    assert value(text, "mqtt_bytes_total", direction="down") == 123_456_789_012
    assert value(text, "head_bytes_total") == 812
    assert value(text, "head_bytes_saved_total") == 16_001
    assert value(text, "training_seconds_24h") == 61.5
    assert value(text, "flash_bytes_24h") == 2e6
    assert value(text, "update_bytes_24h") == 700.0
    assert value(text, "temperature_celsius") == 48.3
    assert value(text, "battery_ratio") == 0.71
    assert value(text, "power_watts") == 4.25
    assert value(text, "new_samples") == 12
    keys = parse(text)
    assert sum(name == "fedclient_gate_closed" for name, _ in keys) == len(GATES)
    assert sum(name == "fedclient_phase" for name, _ in keys) == len(Phase)


def test_what_is_not_known_is_left_out_with_its_help() -> None:
    text = render(Snapshot(phase="idle", connected=False, temp_c=nan))
    for name in ("temperature", "eligible", "gate_closed", "rounds", "battery", "24h", "decision"):
        assert name not in text
    assert value(text, "connected") == 0
    assert parse(text)


texts = st.text(max_size=10).filter(lambda text: "\0" not in text)


@given(st.dictionaries(texts, st.integers(0, 10**15), max_size=4), st.none() | st.floats())
def test_whatever_the_values_the_format_holds(rounds: dict[str, int], temp_c: float | None) -> None:
    text = render(replace(SNAPSHOT, rounds=rounds, temp_c=temp_c))
    found = {dict(labels)["result"]: n for (name, labels), n in parse(text).items() if "rounds" in name}
    unescaped = {
        re.sub(r"\\(.)", lambda one: {"n": "\n"}.get(one[1], one[1]), label): n for label, n in found.items()
    }
    assert unescaped == rounds


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (True, "1"), (1.5, "1.5"), (inf, "+Inf"), (-inf, "-Inf"), (1e6, "1000000")],
)
def test_numbers_are_written_as_go_reads_them(number: float, text: str) -> None:
    assert metrics._number(number) == text


def test_a_file_that_nobody_would_read_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[metrics]\n\nfile = 'fedclient.txt'\n")
    with pytest.raises(ConfigError, match=r"config\.toml:3: .*fedclient\.txt does not end in \.prom"):
        load(config, {})
    config.write_text("[metrics]\nfile = 'fedclient.prom'\n")
    assert load(config, {}).metrics.file == tmp_path / "fedclient.prom"


def test_a_supply_that_sags_is_told_once_and_then_holds_writes_back(tmp_path: Path) -> None:
    path = tmp_path / "f.prom"
    file = Metrics(path, MetricsSettings(file=path, every_s=60))
    sagging = replace(SNAPSHOT, closed=("supply",))
    for minute, snapshot, shown in [
        (0.0, SNAPSHOT, 48.3),
        (0.5, replace(sagging, temp_c=49.0), 48.3),  # too early
        (1.0, replace(sagging, temp_c=50.0), 50.0),
        (2.0, replace(sagging, temp_c=51.0), 50.0),
        (3.0, replace(SNAPSHOT, temp_c=52.0), 52.0),
        (4.0, replace(sagging, temp_c=53.0), 53.0),
    ]:
        file.update(snapshot, 60.0 * minute)
        assert f"fedclient_temperature_celsius {shown:g}\n" in path.read_text()


def test_written_when_something_changed_and_not_too_often(tmp_path: Path) -> None:
    path = tmp_path / "fedclient.prom"
    file = Metrics(path, settings(path, every_s=60.0))
    file.update(SNAPSHOT, 1000.0)
    first = path.stat().st_ino
    file.update(replace(SNAPSHOT, temp_c=50.0), 1059.0)
    assert path.stat().st_ino == first  # too early
    file.update(SNAPSHOT, 1060.0)
    assert path.stat().st_ino == first  # nothing changed
    file.update(replace(SNAPSHOT, temp_c=50.0), 1061.0)
    assert value(path.read_text(), "temperature_celsius") == 50
    assert [one.name for one in tmp_path.iterdir()] == ["fedclient.prom"]


def test_others_may_read_it_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        Metrics(tmp_path / "f.prom", settings(tmp_path / "f.prom")).update(SNAPSHOT, 0.0)
    finally:
        os.umask(before)
    assert (tmp_path / "f.prom").stat().st_mode & 0o777 == 0o644


def test_a_reader_never_sees_half_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f.prom"
    Metrics(path, settings(path)).update(SNAPSHOT, 0.0)
    whole = path.read_text()
    renamed = Path.replace

    def watched(source: Path, target: Path) -> Path:
        assert target == path
        assert source.parent == path.parent  # a rename over file systems is a copy
        assert source.suffix != ".prom"
        assert path.read_text() == whole
        assert parse(source.read_text())  # complete before it takes the other's place
        return renamed(source, target)

    monkeypatch.setattr(Path, "replace", watched)
    Metrics(path, settings(path)).update(replace(SNAPSHOT, temp_c=1.0), 0.0)
    assert value(path.read_text(), "temperature_celsius") == 1


def test_what_a_killed_agent_left_is_no_obstacle(tmp_path: Path) -> None:
    left = tmp_path / ".f.prom.new"
    left.symlink_to(tmp_path / "elsewhere")
    Metrics(tmp_path / "f.prom", settings(tmp_path / "f.prom")).update(SNAPSHOT, 0.0)
    assert not left.is_symlink()
    assert not (tmp_path / "elsewhere").exists()


def test_an_orderly_end_is_said(tmp_path: Path) -> None:
    path = tmp_path / "f.prom"
    file = Metrics(path, settings(path))
    file.update(SNAPSHOT, 0.0)
    file.close()
    assert value(path.read_text(), "up") == 0
    assert value(path.read_text(), "rounds_total", result="counted") == 7


def test_a_folder_that_is_not_there_is_one_warning_until_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "textfile" / "f.prom"
    file = Metrics(path, settings(path))
    for count in range(3):
        file.update(SNAPSHOT, 60.0 * count)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert str(path) in caplog.text
    path.parent.mkdir()
    file.update(SNAPSHOT, 300.0)
    assert path.exists()
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
