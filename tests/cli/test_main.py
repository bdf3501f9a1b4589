"""The command line: verbs, options before and after them, exit codes, one line per error."""

from __future__ import annotations

import argparse
import gc
import os
import pwd
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

import fedclient
from fedclient import config, errors
from fedclient.cli import main as module
from fedclient.cli.main import VERBS, Verb, become_owner, main

ROOT = Path(__file__).parent.parent.parent
Plant = Callable[..., list[argparse.Namespace]]


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Plant:
    """Put a verb `probe` in the table that raises or returns what the test says."""
    monkeypatch.setattr(config, "DEFAULT", tmp_path / "absent.toml")
    monkeypatch.setattr(module.log, "setup", lambda **_: None)
    monkeypatch.delenv("FEDCLIENT_DEBUG", raising=False)
    seen: list[argparse.Namespace] = []

    def put(
        outcome: int | BaseException = 0, *, settings: bool = False, device: bool = False
    ) -> list[argparse.Namespace]:
        def run(args: argparse.Namespace) -> int:
            seen.append(args)
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
            inner = subparsers.add_parser("probe").add_subparsers(required=True)
            child = inner.add_parser("deep")
            child.add_argument("--json", action="store_true")
            child.set_defaults(run=run)

        planted = ModuleType("planted_verb")
        planted.add_parser = add_parser  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "planted_verb", planted)
        monkeypatch.setitem(VERBS, "probe", Verb("planted_verb", "a test", settings=settings, device=device))
        return seen

    return put


def cli(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("FEDCLIENT")}
    return subprocess.run(
        [sys.executable, "-m", "fedclient", *arguments],
        capture_output=True, text=True, check=False, cwd=ROOT, env={**clean, **env},
    )  # fmt: skip


@pytest.mark.parametrize(
    "line",
    [
        "--config C --state S -v probe deep",
        "probe --config C deep --state=S -v",
        "probe deep -v --state S --config=C",
    ],
)
def test_global_options_are_understood_anywhere(plant: Plant, line: str) -> None:
    seen = plant()
    assert main(line.split()) == 0
    assert (seen[0].config, seen[0].state, seen[0].verbose) == (Path("C"), Path("S"), True)
    assert not hasattr(seen[0], "settings")


def test_without_them_they_are_none(plant: Plant) -> None:
    seen = plant()
    assert main(["probe", "deep", "--json"]) == 0
    assert (seen[0].config, seen[0].state, seen[0].verbose, seen[0].json) == (None, None, False, True)


def test_a_verb_with_settings_gets_them(plant: Plant, tmp_path: Path) -> None:
    seen = plant(settings=True)
    (tmp_path / "c.toml").write_text("[trainer]\nthreads = 3")
    assert main(["probe", "deep", "--config", str(tmp_path / "c.toml"), "--state", str(tmp_path)]) == 0
    assert seen[0].settings.trainer.threads == 3
    assert seen[0].settings.state == tmp_path


@pytest.mark.parametrize(
    ("outcome", "code", "said"),
    [
        (0, 0, ""),
        (1, 1, ""),
        (errors.StorageFull("disk full: make room"), 1, "fedclient: disk full: make room\n"),
        (errors.ConfigError("set [broker] host"), 1, "fedclient: set [broker] host\n"),
        (errors.UsageError("give one of --a, --b"), 2, "fedclient: give one of --a, --b\n"),
        (errors.ConditionsNotMet("on battery"), 75, "fedclient: on battery\n"),
        (KeyboardInterrupt(), 130, ""),
        (SystemExit(3), 3, ""),
    ],
)
def test_exit_codes_and_one_line(
    plant: Plant, capsys: pytest.CaptureFixture[str], outcome: int | BaseException, code: int, said: str
) -> None:
    plant(outcome)
    assert main(["probe", "deep"]) == code
    assert capsys.readouterr() == ("", said)


def test_a_defect_is_one_line_with_its_place(plant: Plant, capsys: pytest.CaptureFixture[str]) -> None:
    plant(ZeroDivisionError("division by zero"))
    assert main(["probe", "deep"]) == 1
    said = capsys.readouterr().err
    assert said.startswith(
        "fedclient: a defect in fedclient: ZeroDivisionError: division by zero (test_main.py:"
    )
    assert said.count("\n") == 1


def test_the_traceback_is_there_on_request(
    plant: Plant, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(errors.StorageFull("disk full"))
    monkeypatch.setenv("FEDCLIENT_DEBUG", "1")
    assert main(["probe", "deep"]) == 1
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert said.endswith("fedclient: disk full\n")


@pytest.mark.parametrize(
    "line", ["", "probe", "probe nonsense", "probe deep --jsn", "probe deep --stat S", "--config"]
)
def test_usage_is_2_and_says_how(plant: Plant, capsys: pytest.CaptureFixture[str], line: str) -> None:
    plant()
    assert main(line.split()) == 2
    assert "usage: fedclient" in capsys.readouterr().err


def test_an_unknown_verb_is_2_and_lists_the_known(plant: Plant, capsys: pytest.CaptureFixture[str]) -> None:
    plant()
    assert main(["--state", "run", "stats"]) == 2
    assert capsys.readouterr().err.startswith("fedclient: there is no verb stats, did you mean status?: ")


def test_a_verb_with_a_slip_is_guessed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["enrol"]) == 2
    assert "there is no verb enrol, did you mean enroll?: " in capsys.readouterr().err


@pytest.mark.parametrize("line", ["--stat x status", "--jsn status", "-x"])
def test_an_unknown_option_before_the_verb_is_named(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 2
    assert f"there is no option {line.split()[0]} before a verb" in capsys.readouterr().err


def test_help_lists_every_verb_and_loads_none_of_them() -> None:
    done = cli("--help", PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0
    for name, verb in VERBS.items():
        assert f"\n    {name} " in done.stdout
        assert verb.help.split()[0] in done.stdout
        assert f" {verb.module}\n" not in done.stderr
    for heavy in ("numpy", "psutil", "nacl", "sqlite3"):
        assert f" {heavy}\n" not in done.stderr


def test_version_and_module_entry() -> None:
    done = cli("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"fedclient {fedclient.__version__}\n", "")


def test_a_verbs_help_names_the_global_options(plant: Plant, capsys: pytest.CaptureFixture[str]) -> None:
    plant()
    assert main(["probe", "--help"]) == 0
    assert "--state DIR" in capsys.readouterr().out


@pytest.mark.parametrize("size", [1, 200_000])  # found out at the last flush, and while printing
def test_a_closed_pipe_is_quiet(size: int) -> None:
    code = (
        "import sys, types; from fedclient.cli import main as m;"
        "mod = types.ModuleType('planted');"
        "mod.add_parser = lambda s: s.add_parser('probe').set_defaults("
        f"run=lambda a: print('x' * {size}) or 0);"
        "sys.modules['planted'] = mod;"
        "m.VERBS['probe'] = m.Verb('planted', '', settings=False, device=False);"
        "sys.exit(m.main(['probe']))"
    )
    read_end, write_end = os.pipe()
    os.close(read_end)
    buffered = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=write_end, stderr=subprocess.PIPE,
        text=True, check=False, cwd=ROOT, env=buffered,
    )  # fmt: skip
    os.close(write_end)
    assert (done.returncode, done.stderr) == (141, "")


# --- root --------------------------------------------------------------------------------------------


def in_child(action: Callable[[], str]) -> str:
    """Run `action` in a forked child, where giving up root harms nobody."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write_end, action().encode())
        except BaseException as error:  # noqa: BLE001 - the parent asserts on it
            os.write(write_end, repr(error).encode())
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A folder that other users can reach, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="LEFT OUT: only root can become another user")


@needs_root
@pytest.mark.parametrize(("uid", "gid"), [(65534, None), (54321, 54322)])
def test_root_becomes_the_owner_of_the_state_folder(open_path: Path, uid: int, gid: int | None) -> None:
    group = pwd.getpwuid(uid).pw_gid if gid is None else gid
    os.chown(open_path, uid, group)

    def act() -> str:
        os.setgroups([0, 7])
        become_owner(open_path)
        (open_path / "file").touch()
        try:
            os.seteuid(0)
            back = "root again"
        except PermissionError:
            back = "for good"
        return f"{os.getresuid()} {os.getresgid()} {0 in os.getgroups()} {back}"

    assert in_child(act) == f"{(uid,) * 3} {(group,) * 3} False for good"
    made = (open_path / "file").stat()
    assert (made.st_uid, made.st_gid, made.st_mode & 0o777) == (uid, group, 0o660)


@needs_root
def test_root_stays_root_for_its_own_folder_and_for_none(open_path: Path) -> None:
    for state in (open_path, open_path / "absent"):

        def act(state: Path = state) -> str:
            os.umask(0o022)
            become_owner(state)
            return f"{os.geteuid()} {os.umask(0):o}"

        assert in_child(act) == "0 22"


@needs_root
def test_only_verbs_of_the_devices_folder_give_up_root(plant: Plant, open_path: Path) -> None:
    os.chown(open_path, 54321, 54322)
    for device, uid in ((True, "54321"), (False, "0")):
        seen = plant(settings=True, device=device)

        def act() -> str:
            main(["probe", "deep", "--state", str(open_path)])
            return f"{os.geteuid()}"

        assert in_child(act) == uid
        assert seen == []  # it ran in the child


def test_another_user_is_never_changed(open_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("not root")

    if os.geteuid() == 0:
        os.chown(open_path, 54321, 54321)  # root's own folder would be left alone anyway
    monkeypatch.setattr(module.os, "geteuid", lambda: 1000)
    for change in ("setgroups", "setgid", "setuid"):
        monkeypatch.setattr(module.os, change, refuse)
    become_owner(open_path)
    assert open_path.is_dir()


def test_garbage_is_collected_while_a_verb_runs_and_after_it(tmp_path) -> None:
    assert main(["--state", str(tmp_path / "nobody"), "status"]) == 1
    assert gc.isenabled()


def test_in_the_journal_the_one_line_is_an_error(plant, monkeypatch, capsys) -> None:
    plant(errors.ConfigError("config.toml: unknown key"))
    monkeypatch.setattr(module.log, "under_journald", lambda *_: True)
    assert main(["probe", "deep"]) == 1
    assert capsys.readouterr().err == "<3>fedclient: config.toml: unknown key\n"


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("output", "code", "says"),
    [
        (">/dev/full", 1, "fedclient: standard output cannot be written: the disk that it goes to is full\n"),
        (">&-", 0, ""),
    ],
)
def test_an_output_that_takes_nothing_is_one_line_at_most(
    output: str, code: int, says: str, unbuffered: str
) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", f'"$0" -m fedclient boards {output}', sys.executable],
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (code, says)
