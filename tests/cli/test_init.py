"""`fedclient init`: makes what is missing, keeps what is there, says what comes next."""

import json
import os
import pwd
import tempfile
from pathlib import Path

import pytest

from fedclient import config, storage
from fedclient.cli import init
from fedclient.cli import main as cli
from fedclient.cli.main import main
from fedclient.device.folder import DeviceFolder


@pytest.fixture(autouse=True)
def nothing_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "DEFAULT", tmp_path / "etc" / "fedclient" / "config.toml")
    monkeypatch.setattr(storage, "DEFAULT_STATE", tmp_path / "var" / "fedclient")
    monkeypatch.setattr(cli.log, "setup", lambda **_: None)
    for name in ("STATE_DIRECTORY", "FEDCLIENT_STATE", "FEDCLIENT_CONFIG"):
        monkeypatch.delenv(name, raising=False)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["init", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_first_time_makes_everything_the_second_keeps_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "--json")
    assert (code, err) == (0, "")
    first = json.loads(out)
    state = tmp_path / "var" / "fedclient"
    assert first == {
        "config": str(config.DEFAULT),
        "config_written": True,
        "state": str(state),
        "key_made": True,
        "device_id": first["device_id"],
    }
    assert len(first["device_id"]) == 16
    assert DeviceFolder(state).key.stat().st_mode & 0o777 == 0o600
    assert config.DEFAULT.stat().st_mode & 0o777 == 0o644
    config.DEFAULT.write_text("[trainer]\nthreads = 2\n")
    code, out, err = run(capsys, "--json")
    assert json.loads(out) == {**first, "config_written": False, "key_made": False}
    assert (code, err) == (0, "")
    assert config.DEFAULT.read_text() == "[trainer]\nthreads = 2\n"


def test_it_says_what_it_did_and_what_comes_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys)
    assert "(written)" in out
    assert "(new key)" in out
    assert out.endswith("next     fedclient enroll INVITATION\n")
    _, out, _ = run(capsys)
    assert "(kept as it was)" in out
    assert "(kept its key)" in out
    assert out.endswith("next     fedclient enroll INVITATION\n")


def test_a_state_folder_given_is_remembered_in_the_config_it_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, state = tmp_path / "own.toml", tmp_path / "dev 1"
    _, out, _ = run(capsys, "--config", str(file), "--state", str(state))
    assert out.endswith(f"next     fedclient --config {file} enroll INVITATION\n")
    assert config.load(file, {}).state == state
    _, out, _ = run(capsys, "--config", str(file))
    assert str(state) in out
    assert "(kept its key)" in out
    # a file that is kept cannot remember another folder: the next command must name it
    _, out, _ = run(capsys, "--config", str(file), "--state", str(tmp_path / "dev2"))
    assert out.endswith(f"next     fedclient --config {file} --state {tmp_path / 'dev2'} enroll INVITATION\n")


def test_a_broken_config_is_kept_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.DEFAULT.parent.mkdir(parents=True)
    config.DEFAULT.write_text("[trainer]\nthread = 2\n")
    code, out, err = run(capsys)
    assert (code, out) == (1, "")
    assert "did you mean threads?" in err
    assert not (tmp_path / "var").exists()


def test_where_nothing_can_be_written_it_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "etc").write_text("a file where a folder should be")
    code, _, err = run(capsys)
    assert code == 1
    assert err.startswith(
        f"fedclient: cannot write {config.DEFAULT}: Not a directory; run as root, or choose"
    )
    code, _, err = run(capsys, "--config", str(tmp_path / "c.toml"), "--state", str(tmp_path / "etc" / "s"))
    assert code == 1
    assert "cannot create the state folder" in err
    assert err.count("\n") == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="LEFT OUT: only root can give a folder away")
@pytest.mark.parametrize("default", [True, False])
def test_root_gives_the_systems_own_folder_to_the_services_user(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], default: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders let no other user through
        top = Path(folder)
        top.chmod(0o755)
        monkeypatch.setattr(config, "DEFAULT", top / "config.toml")
        monkeypatch.setattr(storage, "DEFAULT_STATE", top / "state")
        monkeypatch.setattr(init, "USER", "nobody")
        child = os.fork()
        if child == 0:
            os._exit(main(["init"] if default else ["init", "--state", str(top / "own")]))
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0, capfd.readouterr().err
        made = DeviceFolder(top / ("state" if default else "own"))
        owners = {path.stat().st_uid for path in (made.path, made.key, made.current)}
        assert owners == {pwd.getpwnam("nobody").pw_uid if default else 0}
        assert config.DEFAULT.stat().st_uid == 0
