"""`fedclient boards`: a table of what is known, and what one board tells of itself."""

import json
from pathlib import Path

import pytest

from fedclient import boards
from fedclient.cli.main import main
from fedclient.scheduler.readings import SENSORS

PROFILES = {one.name: one for one in boards.load_all()}


@pytest.fixture(autouse=True)
def no_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It works before `fedclient init`, and makes nothing."""
    monkeypatch.setenv("FEDCLIENT_STATE", str(tmp_path / "none" / "yet"))
    monkeypatch.setenv("FEDCLIENT_CONFIG", str(tmp_path / "absent.toml"))
    yield
    assert not (tmp_path / "none").exists()


def ran(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def capture(name: str) -> str:
    return str(boards.installed() / name / "capture")


def test_the_table_has_every_board(capsys: pytest.CaptureFixture[str]) -> None:
    head, *rows = ran(capsys, "boards").splitlines()
    assert head.split() == ["name", "title", "evidence", "threads", "memory_mib", "pause_temp_c"]
    assert [row.split()[0] for row in rows] == list(PROFILES)
    nano = next(row for row in rows if row.startswith("jetson-nano "))
    profile = PROFILES["jetson-nano"]
    last = [profile.evidence, str(profile.threads), str(profile.memory_mib), "85"]
    assert nano.split()[-4:] == last
    assert profile.title in nano


def test_the_table_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(ran(capsys, "boards", "--json"))["boards"]
    assert rows[0] == {
        "name": "generic-aarch64",
        "title": PROFILES["generic-aarch64"].title,
        "evidence": PROFILES["generic-aarch64"].evidence,
        "threads": PROFILES["generic-aarch64"].threads,
        "memory_mib": PROFILES["generic-aarch64"].memory_mib,
        "pause_temp_c": 75.0,  # it names none: the policy's default
    }


def test_a_capture_is_detected_with_each_reading(capsys: pytest.CaptureFixture[str]) -> None:
    for order in (["boards", "detect", "--json"], ["boards", "--json", "detect"]):
        found = json.loads(ran(capsys, *order, "--root", capture("raspberry-pi-4b")))
        assert list(found) == ["board", "profile", "readings"]
        assert found["board"].startswith("Raspberry Pi 4 Model B Rev")
        assert found["profile"] == "raspberry-pi-4b"
        assert tuple(found["readings"]) == SENSORS
        for reading in found["readings"].values():
            other = "reason" if reading["value"] is None else "source"
            assert set(reading) == {"value", other}
            assert reading[other]


def test_the_profiles_zones_and_rails_are_read(capsys: pytest.CaptureFixture[str]) -> None:
    """Without the profile the constant 100 degrees of a zone that is no sensor would be the hottest."""
    found = json.loads(ran(capsys, "boards", "detect", "--json", "--root", capture("jetson-nano")))[
        "readings"
    ]
    assert found["temp_c"]["value"] < 95
    assert "POM_5V_IN" in found["power_w"]["source"]


def test_detect_prints_a_line_for_each_reading(capsys: pytest.CaptureFixture[str]) -> None:
    text = ran(capsys, "boards", "detect", "--root", capture("raspberry-pi-zero-2-w"))
    board, profile, _, *rows = text.splitlines()
    assert board.startswith("board    Raspberry Pi Zero 2 W Rev")
    assert profile.startswith("profile  raspberry-pi-zero-2-w: Raspberry Pi Zero 2 W (made from ")
    assert tuple(row.split()[0] for row in rows) == SENSORS
    lines = dict(row.split(maxsplit=1) for row in rows)
    assert lines["under_voltage"].startswith("-  ")
    assert "detector" in lines["under_voltage"]
    assert lines["throttled"].startswith("no  ")
    assert "cpu-thermal" in lines["temp_c"]


def test_this_machine_has_a_profile_and_room_where_the_state_would_be(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found = json.loads(ran(capsys, "boards", "detect", "--json"))
    assert found["profile"] == boards.here().name
    assert found["readings"]["free_memory_mib"]["value"] > 0
    assert found["readings"]["free_disk_mib"]["value"] > 0


def test_an_empty_tree_is_an_unknown_board(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    found = json.loads(ran(capsys, "boards", "detect", "--json", "--root", str(tmp_path)))
    assert (found["board"], found["profile"]) == (None, "unknown")
    assert ran(capsys, "boards", "detect", "--root", str(tmp_path)).startswith("board    it does not say\n")


@pytest.mark.parametrize("root", ["absent", "file"])
def test_a_root_that_is_no_folder_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, root: str
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["boards", "detect", "--root", str(tmp_path / root)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(
        f"fedclient: --root {tmp_path / root} is no folder: name one that holds proc and sys"
    )
    assert err.count("\n") == 1


def test_a_broken_installation_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(boards, "__file__", str(tmp_path / "fedclient" / "boards.py"))
    for words in (["boards"], ["boards", "detect"]):
        assert main(words) == 1
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert "boards' profiles cannot be read: No such file" in err
