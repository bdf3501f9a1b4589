"""The contributor's commands: they parse everywhere, say what is wrong in one line, and set themselves up."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOOLS = ("demo", "test", "check", "boot_check", "arm_check", "export_keras", "get_micropython")
SHELL = (
    "tools/setup.sh",
    "tools/make_rootfs.sh",
    "tools/binfmt_register.sh",
    "tools/emulation/in_userland.sh",
    ".ci/run",
)
SCRIPTS = [ROOT / name for name in (*SHELL, *(f"tools/{tool}" for tool in TOOLS))]
COMMANDS = [script for script in SCRIPTS if script.suffix != ".sh"]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def run(command: Path, *words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in an environment with little but PATH and what says where packages come from."""
    kept = {key: value for key, value in os.environ.items() if key.startswith(("PIP_", "LANG"))}
    return subprocess.run(
        [command, *words],
        cwd=cwd,
        env={**kept, "PATH": os.environ["PATH"], "HOME": "", **environment},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What tools need of a repository, elsewhere, in a folder with a space in its name."""
    made = tmp_path / "a clone"
    for part in ("tools", "fedclient", "hardware", "pyproject.toml", "README.md", "LICENSE"):
        source, target = ROOT / part, made / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    return made


@pytest.mark.parametrize("shell", ["sh", "bash", "dash"])
@pytest.mark.parametrize("script", SCRIPTS, ids=name)
def test_every_shell_can_read_it(script: Path, shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"LEFT OUT: no {shell} here")
    checked = subprocess.run([shell, "-n", script], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize("command", COMMANDS, ids=name)
def test_it_is_a_command_for_the_plainest_shell(command: Path) -> None:
    assert os.access(command, os.X_OK)
    text = command.read_text()
    assert text.startswith("#!/bin/sh\n# ")
    assert re.search(r"^set -e?u$", text, re.MULTILINE)
    assert not re.search(r"\[\[|^\s*(local|function)\s|https?://", text, re.MULTILINE)


@pytest.mark.parametrize("tool", ["demo", "test", "check"])
def test_no_suitable_python_is_one_line_that_says_what_to_do(tool: str, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for program in ("sh", "dirname", "cat", "cksum", "mkdir"):
        (programs / program).symlink_to(shutil.which(program) or "")
    (programs / "python3").write_text("#!/bin/sh\nexit 1\n")  # as one that is too old
    (programs / "python3").chmod(0o755)
    venv = str(tmp_path / "venv")
    found = run(ROOT / "tools" / tool, cwd=tmp_path, PATH=str(programs), FEDCLIENT_VENV=venv)
    expected = "no Python >= 3.10 with venv found: install python3 and python3-venv, or set PYTHON"
    assert (found.returncode, found.stderr) == (1, f"{tool}: {expected}\n")
    wrong = run(ROOT / "tools" / tool, cwd=tmp_path, PYTHON="/bin/false", FEDCLIENT_VENV=venv)
    assert wrong.returncode == 1
    assert wrong.stderr == f"{tool}: PYTHON=/bin/false is not Python 3.10 or newer with venv and pip\n"


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    venv = tmp_path / "file" / "venv"
    found = run(ROOT / "tools/demo", cwd=tmp_path, PYTHON=sys.executable, FEDCLIENT_VENV=str(venv))
    assert found.returncode == 1
    assert found.stderr.splitlines()[-1] == (
        f"demo: cannot write {venv}: set FEDCLIENT_VENV to a folder of yours"
    )


def test_an_environment_that_is_ready_is_used_at_once_with_all_arguments(tmp_path: Path, clone: Path) -> None:
    venv = clone / ".venv"
    (venv / "bin").mkdir(parents=True)
    for program, script in (("fedclient", 'printf "%s|" "$0" "$@"'), ("python", "exit 0")):
        (venv / "bin" / program).write_text(f"#!/bin/sh\n{script}\n")
        (venv / "bin" / program).chmod(0o755)
    stamp = 'tool=x; . "$1/tools/setup.sh"; stamp'
    ready = subprocess.run(
        ["sh", "-c", stamp, f"{clone}/tools/x", clone], capture_output=True, text=True, check=True
    )
    (venv / ".ready-demo").write_text(ready.stdout)
    found = run(clone / "tools/demo", "--rounds", "3", "two words", "", cwd=tmp_path)
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout == f"{venv}/bin/fedclient|demo|--rounds|3|two words||"
    with (clone / "pyproject.toml").open("a") as file:
        file.write("\n# changed\n")
    again = run(clone / "tools/demo", cwd=tmp_path, PYTHON="/bin/false")
    assert again.returncode == 1  # it wants to install again


@pytest.mark.parametrize(("tool", "words"), [("export_keras", ("m.keras",)), ("test", ("--keras",))])
def test_keras_has_an_environment_of_its_own_for_the_pythons_that_tensorflow_knows(
    tmp_path: Path, tool: str, words: tuple[str, ...]
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for program in ("sh", "dirname", "cat", "cksum"):
        (programs / program).symlink_to(shutil.which(program) or "")
    asked = programs / "asked"
    (programs / "python3").write_text(f'#!/bin/sh\necho "$*" >>"{asked}"\nexit 1\n')
    (programs / "python3").chmod(0o755)
    venv = str(tmp_path / "venv")
    found = run(ROOT / "tools" / tool, *words, cwd=tmp_path, PATH=str(programs), FEDCLIENT_VENV=venv)
    assert found.returncode == 1
    assert found.stderr.startswith(f"{tool}: no Python >= 3.10 and <= 3.13 with venv found")
    assert "(3, 10) <= sys.version_info[:2] <= (3, 13)" in asked.read_text()


def test_floors_and_keras_are_not_for_one_run(tmp_path: Path) -> None:
    found = run(ROOT / "tools/test", "--floors", "--keras", cwd=tmp_path)
    assert found.returncode == 1
    assert found.stderr == "test: --floors and --keras are two environments: one at a time\n"


def test_check_knows_one_option(tmp_path: Path) -> None:
    found = run(ROOT / "tools/check", "--fast", cwd=tmp_path)
    assert (found.returncode, found.stderr) == (1, "check: --fast: the only option is --fix\n")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["buster"], "buster: there are bookworm, trixie, all, --cpu CPU and --wheel WHEEL"),
        (["--cpu", "z80"], "--cpu z80: there are cortex-a53, cortex-a57, cortex-a72 and cortex-a76"),
        (["bookworm", "--cpu"], "--cpu: which one?"),
        (["--wheel", "none.whl"], "--wheel none.whl: there is no such file"),
    ],
)
def test_arm_check_refuses_what_it_does_not_know(tmp_path: Path, words: list[str], sentence: str) -> None:
    found = run(ROOT / "tools/arm_check", *words, cwd=tmp_path)
    assert (found.returncode, found.stderr) == (1, f"arm_check: {sentence}\n")


def test_get_micropython_takes_no_arguments(tmp_path: Path) -> None:
    there = str(tmp_path / "there")
    found = run(ROOT / "tools/get_micropython", str(tmp_path), cwd=tmp_path, FEDCLIENT_MICROPYTHON=there)
    assert (found.returncode, found.stderr) == (1, "get_micropython: takes no arguments\n")
    assert not Path(there).exists()


def test_get_micropython_leaves_what_works_as_it_is(tmp_path: Path) -> None:
    tools = tmp_path / "there" / "bin"
    tools.mkdir(parents=True)
    for name in ("micropython", "mpy-cross", "mpremote"):
        (tools / name).write_text("#!/bin/sh\necho 42\n")
        (tools / name).chmod(0o755)
    before = {path.name: path.read_text() for path in tools.iterdir()}
    found = run(ROOT / "tools/get_micropython", cwd=tmp_path, FEDCLIENT_MICROPYTHON=str(tools.parent))
    assert found.returncode == 0, found.stderr
    assert {path.name: path.read_text() for path in tools.iterdir()} == before


def test_the_boards_of_arm_check_have_a_profile() -> None:
    boards = re.findall(r"board=([a-z0-9-]+)", (ROOT / "tools/arm_check").read_text())
    assert len(boards) == 4
    assert all((ROOT / "hardware/boards" / board / "capture").is_dir() for board in boards)


def test_the_floors_are_those_of_pyproject() -> None:
    text = (ROOT / "tools/test").read_text()
    (body,) = re.findall(r"^lowest\(\) \{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL)
    found = subprocess.run(
        ["sh", "-c", body], env={**os.environ, "root": str(ROOT)}, capture_output=True, text=True, check=True
    )
    asked = (ROOT / "pyproject.toml").read_text().partition("\ndependencies = [\n")[2].partition("\n]")[0]
    lowest = [
        re.sub(r">=([^,;]+)[^;]*", r"==\1", line.strip().strip(',"'), count=1) for line in asked.splitlines()
    ]
    assert found.stdout.splitlines() == lowest
    assert "numpy==1.23.2; python_version < '3.12'" in lowest
    assert len(lowest) >= 9


@pytest.mark.thorough
def test_the_demo_sets_itself_up_from_another_folder_with_an_empty_home(tmp_path: Path, clone: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    words = ("--rounds", "2", "--devices", "2", "--json")
    first = run(clone / "tools/demo", *words, cwd=elsewhere, PYTHON=sys.executable)
    assert first.returncode in (0, 1), first.stderr
    assert len(json.loads(first.stdout)["rounds"]) == 2, first.stderr
    assert first.stderr.startswith(f"demo: setting up {clone}/.venv with Python 3.")
    second = run(clone / "tools/demo", "--devices", "0", cwd=elsewhere, PYTHON="/bin/false")
    assert (second.returncode, second.stderr) == (2, "fedclient: --devices 0: give 2 to 30\n")
    assert list(elsewhere.iterdir()) == []
