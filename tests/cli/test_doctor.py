"""`fedclient doctor`: one line per check, an exit code, and nothing written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedclient import boards
from fedclient.cli import doctor
from fedclient.cli.doctor_finding import Verdict, fail, ok, warning
from fedclient.cli.main import main
from fedclient.device import folder as folders
from fedclient.device.database import open_database
from fedclient.errors import ConfigError
from fedclient.samples.store import SampleStore
from tests.system.commands import environment

CAPTURES = boards.installed()


@pytest.fixture(autouse=True)
def quiet(monkeypatch, tmp_path: Path) -> None:
    """No handler that outlives a test's standard error, and no settings of this machine."""
    monkeypatch.setattr("fedclient.cli.main.log.setup", lambda **_: None)
    (tmp_path / "config.toml").touch()
    monkeypatch.setenv("FEDCLIENT_CONFIG", str(tmp_path / "config.toml"))


@pytest.fixture
def quick(monkeypatch) -> None:
    """Without a child process that trains."""
    monkeypatch.setitem(doctor.CHECKS, "runtime", lambda _: ok("not tried"))


def report(capsys, *words: str) -> tuple[int, dict[str, dict]]:
    code = main(["doctor", "--json", *words])
    said = json.loads(capsys.readouterr().out)
    assert said["ok"] == (code == 0)
    return code, {one["check"]: one for one in said["checks"]}


def test_a_machine_without_a_device_passes_and_is_told_to_init(capsys, tmp_path: Path) -> None:
    code, found = report(capsys, "--state", str(tmp_path / "none"))
    assert code == 0
    assert list(found) == list(doctor.CHECKS)
    assert found["state folder"]["verdict"] == "warning"
    assert "init` makes it" in found["state folder"]["remedy"]
    assert found["runtime"]["verdict"] == "ok"
    assert not (tmp_path / "none").exists()


def test_every_line_that_is_not_ok_has_a_remedy(capsys, quick, tmp_path: Path) -> None:
    assert main(["--state", str(tmp_path / "none"), "doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(doctor.CHECKS)
    for line, name in zip(lines, doctor.CHECKS, strict=True):
        assert line[9:].startswith(name)
        assert line.startswith(("ok ", "warning "))
        assert ("; to do: " in line) == line.startswith("warning ")


def test_a_failure_is_exit_code_1_and_hides_no_other_line(capsys, quick, monkeypatch, tmp_path: Path) -> None:
    def broken(_patient: object) -> object:
        raise ZeroDivisionError("division by zero")

    def refused(_patient: object) -> object:
        raise ConfigError("no such thing")

    monkeypatch.setitem(doctor.CHECKS, "power", broken)
    monkeypatch.setitem(doctor.CHECKS, "clock", refused)
    code, found = report(capsys, "--state", str(tmp_path / "none"))
    assert code == 1
    assert found["power"]["verdict"] == found["clock"]["verdict"] == "fail"
    assert found["power"]["found"] == "ZeroDivisionError: division by zero"
    assert found["clock"]["found"] == "no such thing"
    assert found["service"]["verdict"] in {"ok", "warning"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[broker]\nhots = 'x'\n", "hots"),
        ("[broker\n", "config.toml"),
        ("[schedule]\nresume_temp_c = 99.0\n", "resume_temp_c"),
    ],
)
def test_bad_settings_are_a_line_and_the_others_go_on(capsys, quick, tmp_path: Path, text, words) -> None:
    (tmp_path / "config.toml").write_text(text)
    code, found = report(capsys, "--state", str(tmp_path / "none"))
    assert code == 1
    assert found["settings"]["verdict"] == "fail"
    assert words in found["settings"]["found"]
    assert [name for name, one in found.items() if one["verdict"] == "fail"] == ["settings"]
    assert str(tmp_path / "none") in found["state folder"]["found"]


def test_a_profile_that_does_not_parse_is_a_line(capsys, quick, monkeypatch, tmp_path: Path) -> None:
    def damaged(_root: Path) -> object:
        raise ConfigError("profile.toml, line 2: no")

    monkeypatch.setattr(boards, "here", damaged)
    code, found = report(capsys, "--state", str(tmp_path / "none"))
    assert (code, found["board"]["verdict"]) == (1, "fail")


def contents(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    return {
        str(path): (path.stat().st_mode, path.stat().st_mtime_ns, b"" if path.is_dir() else path.read_bytes())
        for path in folder.rglob("*")
    }


def test_nothing_is_written_to_the_state_folder(capsys, quick, tmp_path: Path) -> None:
    folder = folders.create(tmp_path / "state")
    open_database(folder).close()
    with SampleStore(folder.samples) as store:
        store.append([1.0], 0)
    before = contents(folder.path)
    code, found = report(capsys, "--state", str(folder.path))
    assert code == 0
    assert found["database"]["verdict"] == found["key"]["verdict"] == "ok"
    assert contents(folder.path) == before


@pytest.mark.parametrize("name", sorted(path.parent.name for path in CAPTURES.glob("*/capture")))
def test_a_recorded_board_is_named_and_nothing_fails(capsys, quick, tmp_path: Path, name) -> None:
    capture = CAPTURES / name / "capture"
    code, found = report(capsys, "--root", str(capture), "--state", str(tmp_path / "none"))
    assert code == 0
    assert f"(profile {name}, " in found["board"]["found"]
    assert found["power"]["verdict"] == found["temperature"]["verdict"] == found["clock"]["verdict"] == "ok"


def test_a_root_that_is_none_is_a_usage_error(capsys) -> None:
    assert main(["doctor", "--root", "/nowhere"]) == 2
    assert "--root /nowhere is no folder" in capsys.readouterr().err


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that anybody may enter: pytest's own are closed."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="LEFT OUT: becoming somebody else takes root")
def test_as_root_it_looks_as_the_folders_owner_does(public: Path) -> None:
    """In a process of its own, which does not get root back."""
    folder = folders.create(public / "state")
    for path in (folder.path, *folder.path.rglob("*")):
        os.chown(path, 54321, 54321)
    os.chown(folder.key, 0, 0)
    program = (
        "import sys; from fedclient.cli import doctor, main; from fedclient.cli.doctor_finding import ok;"
        "doctor.CHECKS['runtime'] = lambda _: ok('not tried');"
        f"sys.exit(main.main(['--state', {str(folder.path)!r}, 'doctor', '--json']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, check=False, cwd="/"
    )
    found = {one["check"]: one for one in json.loads(done.stdout)["checks"]}
    assert done.returncode == 1
    assert found["state folder"]["found"].endswith("of 54321, mode 0750")
    assert found["key"]["verdict"] == "fail"  # the owner may not read root's file
    python = Path(sys.executable).resolve()
    if not all(path.stat().st_mode & 0o001 for path in (python, *python.parents)):
        assert found["installation"]["verdict"] == "fail"


def test_a_line_has_verdict_name_what_was_found_and_the_remedy() -> None:
    assert doctor._line("clock", ok("fine")) == "ok       clock           fine"
    assert doctor._line("clock", warning("off", "set it")) == "warning  clock           off; to do: set it"
    assert doctor._line("clock", fail("off", "set it")).startswith("FAIL     clock")
    assert doctor._as_dict("a", ok("b")) == {"check": "a", "verdict": "ok", "found": "b", "remedy": None}
    assert {one.value for one in Verdict} == {"ok", "warning", "FAIL"}
